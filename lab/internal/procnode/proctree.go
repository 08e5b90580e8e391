package procnode

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// proc is a process of this machine as /proc shows it.
type proc struct {
	pid, parent int
	zombie      bool
	started     uint64 // clock ticks since boot; with pid it names a process for good
	ticks       uint64 // processor time used
	pages       uint64 // resident
}

// family says which processes belong together.
type family struct {
	env      []string     // NAME=value settings that all members carry
	mounts   uint64       // the mount namespace they live in; 0 if not their own
	snapshot map[int]proc // members seen earlier, when their parents were still there to tell
}

func listProcs() ([]proc, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	out := make([]proc, 0, len(dirs))
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if p, ok := readProc(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func readProc(pid int) (proc, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	// The name stands in parentheses and may hold anything, parentheses too.
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 22 {
		return proc{}, false
	}
	num := func(i int) uint64 { n, _ := strconv.ParseUint(f[i], 10, 64); return n }
	return proc{
		pid: pid, parent: int(num(1)), zombie: f[0] == "Z" || f[0] == "X",
		started: num(19), ticks: num(11) + num(12), pages: num(21),
	}, true
}

// members finds every living process of the family, descendants included.
func (f family) members() ([]proc, error) {
	all, err := listProcs()
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	in := map[int]bool{}
	for _, p := range all {
		if p.pid == os.Getpid() {
			continue // nor are our other children members for being ours
		}
		if seen, ok := f.snapshot[p.pid]; ok && seen.started == p.started || f.marked(p.pid) {
			in[p.pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !in[p.pid] && in[p.parent] && p.pid != os.Getpid() {
				in[p.pid], grown = true, true
			}
		}
	}
	var out []proc
	for _, p := range all {
		if in[p.pid] && !p.zombie {
			out = append(out, p)
		}
	}
	return out, nil
}

func (f family) marked(pid int) bool {
	if f.mounts != 0 {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &st) == nil && st.Ino == f.mounts {
			return true
		}
	}
	if len(f.env) == 0 {
		return false
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(env) == 0 {
		return false
	}
	env = append([]byte{0}, env...)
	for _, kv := range f.env {
		if !bytes.Contains(env, []byte("\x00"+kv+"\x00")) {
			return false
		}
	}
	return true
}

// remember adds today's members to the snapshot, so that they are known when their parents are gone.
func (f *family) remember() {
	now, err := f.members()
	if err != nil {
		return // the marks remain
	}
	if f.snapshot == nil {
		f.snapshot = map[int]proc{}
	}
	for _, p := range now {
		f.snapshot[p.pid] = p
	}
}

// end kills the family until nobody is left; ctx bounds the wait.
func (f family) end(ctx context.Context) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := f.members()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, p := range left {
			_ = unix.Kill(p.pid, unix.SIGKILL) // gone already, or found again in the next round
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d killed processes to be gone: %w", len(left), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
