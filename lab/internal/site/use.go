package site

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor time in /proc, which is the same on all Linux machines since 2.6.
const tick = 10 * time.Millisecond

// Use is what one process has taken so far.
type Use struct {
	Proc
	CPU      time.Duration
	PSSBytes uint64
}

// Sample looks at every process of the lab in dir.
func Sample(dir string) (map[Ref]Use, error) {
	procs, err := Scan(dir, "")
	if err != nil {
		return nil, err
	}
	all := make(map[Ref]Use, len(procs))
	for _, p := range procs {
		st, err := readStat(p.PID)
		if err != nil || st.start != p.Start {
			continue // ended meanwhile
		}
		pss, err := pss(p.PID)
		if err != nil {
			continue
		}
		all[Ref{PID: p.PID, Start: p.Start}] = Use{Proc: p, CPU: time.Duration(st.ticks) * tick, PSSBytes: pss}
	}
	return all, nil
}

func pss(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
			}
			return kib * 1024, nil
		}
	}
	return 0, fmt.Errorf("read the memory of process %d: no Pss", pid)
}
