package procnode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// exit is how a program ended.
type exit struct {
	code   int
	signal int // 0 if it ended by itself
	at     time.Time
}

// process is a container's program while it runs, with all that it starts.
type process struct {
	pid     int
	started time.Time
	plan    *plan
	ns      *namespaces // nil unless root may join them
	mu      sync.Mutex  // guards kin
	kin     family
	exited  chan struct{} // closed when the program and every descendant are gone
	result  exit          // valid then
}

// startProcess runs a container's program with its output going to log, which is closed at the end.
func (a *agent) startProcess(ctx context.Context, pl *plan, log *logFile) (*process, error) {
	var pipes [2][2]*os.File
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		pipes[i] = [2]*os.File{r, w}
	}
	cmd := &exec.Cmd{Env: pl.env.list(), Stdout: pipes[0][1], Stderr: pipes[1][1], SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	err := a.startFresh(cmd, pl, pl.argv)
	_, _ = pipes[0][1].Close(), pipes[1][1].Close() // the child has its own
	if err != nil {
		_, _ = pipes[0][0].Close(), pipes[1][0].Close() // nothing will come
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, started: time.Now(), plan: pl, exited: make(chan struct{})}
	p.kin = family{env: pl.marks, snapshot: map[int]proc{}}
	if self, ok := readProc(p.pid); ok {
		p.kin.snapshot[p.pid] = self
	}
	if a.isolation != Shared {
		if ns, err := openNamespaces(p.pid); err == nil { // it may be gone already
			p.ns, p.kin.mounts = ns, ns.id
		}
	}
	var copies sync.WaitGroup
	for i, stream := range []string{"stdout", "stderr"} {
		copies.Go(func() {
			if err := log.copyFrom(stream, pipes[i][0]); err != nil && !os.IsTimeout(err) {
				a.opts.Log.Warn("storing a container's output", "log", log.path, "error", err)
			}
		})
	}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // the state says how it ended
		p.result = exitOf(cmd.ProcessState)
		p.clear(ctx, a)
		for i := range pipes {
			_ = pipes[i][0].SetReadDeadline(time.Now().Add(2 * time.Second)) // no writer is left; this is a bound, not a wait
		}
		copies.Wait()
		_, _ = pipes[0][0].Close(), pipes[1][0].Close() // only read
		if err := log.close(); err != nil {
			a.opts.Log.Warn("closing a log", "log", log.path, "error", err)
		}
	}()
	return p, nil
}

// startFresh starts argv as a container's own program would start: in new namespaces if we may.
func (a *agent) startFresh(cmd *exec.Cmd, pl *plan, argv []string) error {
	if a.isolation == Shared {
		return pl.startHere(cmd, argv)
	}
	stage, err := os.MkdirTemp(a.stages, "")
	if err != nil {
		return fmt.Errorf("making a directory to put a root together in: %w", err)
	}
	defer func() { _ = os.Remove(stage) }() // empty; what was mounted there was seen by the new process only
	return startLauncher(cmd, a.isolation, a.opts.Launcher, launch{
		Argv: argv, Dir: pl.dir, Hostname: pl.hostname, Mounts: pl.mounts, Stage: stage, User: pl.user,
	})
}

// startHere starts argv without a launcher, in the namespaces the calling thread is in.
func (pl *plan) startHere(cmd *exec.Cmd, argv []string) error {
	cmd.Path, cmd.Args, cmd.Dir = argv[0], argv, pl.dir
	if u := pl.user; u != nil {
		cred := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
		for _, g := range u.Groups {
			cred.Groups = append(cred.Groups, uint32(g))
		}
		cmd.SysProcAttr.Credential = cred
	}
	return cmd.Start()
}

// startIn starts argv beside p, with its environment, user and view of files. A user namespace can
// not be joined by a program with threads: a small tool of the system does that, and where it is
// missing the view is made anew, of the same parts, at the price of some 50 ms of processor time.
func (a *agent) startIn(p *process, cmd *exec.Cmd, argv []string) error {
	argv, err := p.plan.resolve(argv)
	if err != nil {
		return err
	}
	cmd.Env = p.plan.env.list()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	switch {
	case a.isolation == Namespace && p.ns == nil:
		return fmt.Errorf("the container's process %d is gone", p.pid)
	case a.isolation == Namespace:
		return p.ns.start(func() error { return p.plan.startHere(cmd, argv) })
	case a.isolation == UserNamespace && a.nsenter != "":
		cmd.Path = a.nsenter
		cmd.Args = append([]string{a.nsenter, "--preserve-credentials", "--user", "--mount", "--uts", "--target", strconv.Itoa(p.pid), "--",
			"/bin/sh", "-c", `cd "$0" && exec "$@"`, p.plan.dir}, argv...)
		return cmd.Start()
	}
	return a.startFresh(cmd, p.plan, argv)
}

// clear ends what the program left behind.
func (p *process) clear(ctx context.Context, a *agent) {
	// Also when the agent is told to stop: this is the clean-up, and it has a bound of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	p.mu.Lock()
	kin := p.kin
	p.mu.Unlock()
	if err := kin.end(ctx); err != nil {
		a.opts.Log.Error("ending what a container left behind", "pid", p.pid, "error", err)
	}
}

// terminate asks the program's process group to end.
func (p *process) terminate(sig syscall.Signal) {
	p.mu.Lock()
	p.kin.remember()
	p.mu.Unlock()
	_ = unix.Kill(-p.pid, sig) // gone already
}

// kill ends the program at once; its descendants follow.
func (p *process) kill() {
	p.mu.Lock()
	p.kin.remember()
	p.mu.Unlock()
	_ = unix.Kill(-p.pid, unix.SIGKILL) // gone already
}

// release lets go of the handles on the container's namespaces.
func (p *process) release() { p.ns.close() }

func exitOf(s *os.ProcessState) exit {
	e := exit{at: time.Now(), code: s.ExitCode()}
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		e.signal = int(w.Signal())
		e.code = 128 + e.signal
	}
	return e
}
