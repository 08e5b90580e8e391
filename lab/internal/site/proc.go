package site

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/lab/internal/state"
)

// Proc is one process that carries a lab's markers.
type Proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot: tells a PID from its reuse
	Site  string `json:"site"`
	Name  string `json:"name"`
}

func (p Proc) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Name) }

// Scan finds the processes of the lab in dir by the markers in their environments; of one site, or of
// all if site is empty. Zombies do not count: they have no environment, no memory and no sockets.
// The caller's process and its ancestors are never among them.
func Scan(dir, site string) ([]Proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for the lab's processes: %w", err)
	}
	spare := lineage(os.Getpid())
	var found []Proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || spare[pid] {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || len(env) == 0 {
			continue // gone, a kernel thread, or another user's
		}
		lab, of := markers(env)
		if lab != dir || (site != "" && of != site) {
			continue
		}
		st, err := readStat(pid)
		if err != nil {
			continue
		}
		found = append(found, Proc{PID: pid, Start: st.start, Site: of, Name: processName(pid, st.comm)})
	}
	return found, nil
}

// markers reads the lab's directory and the site out of an environment block.
func markers(env []byte) (lab, site string) {
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(state.EnvLab+"=")); ok {
			lab = string(v)
		} else if v, ok := bytes.CutPrefix(kv, []byte(state.EnvSite+"=")); ok {
			site = string(v)
		}
	}
	return lab, site
}

// Markers returns the lab directory and site that a process carries; empty for one that carries none.
func Markers(pid int) (lab, site string) {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return "", ""
	}
	return markers(env)
}

func lineage(pid int) map[int]bool {
	spare := map[int]bool{}
	for pid > 0 && !spare[pid] {
		spare[pid] = true
		st, err := readStat(pid)
		if err != nil {
			break
		}
		pid = st.ppid
	}
	return spare
}

// stat is what is used of /proc/PID/stat.
type stat struct {
	comm  string
	state byte
	ppid  int
	flags uint64
	ticks uint64 // user and system time of the process itself, in clock ticks
	start uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	return parseStat(string(b))
}

func parseStat(line string) (stat, error) {
	// The name is in parentheses and may itself hold spaces and parentheses.
	open, shut := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || shut < open {
		return stat{}, fmt.Errorf("parse process state %q: no name in parentheses", line)
	}
	f := strings.Fields(line[shut+1:])
	if len(f) < 20 {
		return stat{}, fmt.Errorf("parse process state %q: too few fields", line)
	}
	ppid, err1 := strconv.Atoi(f[1])
	flags, err5 := strconv.ParseUint(f[6], 10, 64)
	utime, err2 := strconv.ParseUint(f[11], 10, 64)
	stime, err3 := strconv.ParseUint(f[12], 10, 64)
	start, err4 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return stat{}, fmt.Errorf("parse process state %q: %w", line, err)
	}
	return stat{comm: line[open+1 : shut], state: f[0][0], ppid: ppid, flags: flags, ticks: utime + stime, start: start}, nil
}

// processName says which program runs; for a multi-call binary, which of its commands.
func processName(pid int, comm string) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(b) == 0 {
		return comm
	}
	args := strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
	name := args[0][strings.LastIndexByte(args[0], '/')+1:]
	if len(args) > 1 && (name == "lab-kube" || name == "lifeboat-lab") {
		return args[1]
	}
	return name
}

// Ref names one process for good, whatever becomes of its PID.
type Ref struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// RefOf returns the reference of a live process.
func RefOf(pid int) (Ref, error) {
	st, err := readStat(pid)
	if err != nil {
		return Ref{}, err
	}
	return Ref{PID: pid, Start: st.start}, nil
}

// exiting is the kernel's flag of a process on its way out, which the first process of a PID namespace
// is until all others there are gone.
const exiting = 0x4

// Alive says whether the process still runs (a zombie does not, nor one that is exiting).
func (r Ref) Alive() bool {
	if r.PID <= 0 {
		return false
	}
	st, err := readStat(r.PID)
	return err == nil && st.start == r.Start && st.state != 'Z' && st.state != 'X' && st.flags&exiting == 0
}

// Signal sends sig to exactly this process; that it is gone already is no error.
func (r Ref) Signal(sig unix.Signal) error {
	if !r.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	if !r.Alive() { // the PID was reused between the look and the open
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", r.PID, err)
	}
	return nil
}
