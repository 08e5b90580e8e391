package site

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times of a supervisor.
const (
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
	steadyAfter  = 30 * time.Second // a daemon that ran so long starts again with the first back-off
	readyPause   = 50 * time.Millisecond
	readyWithin  = 2 * time.Minute
	stopWithin   = 8 * time.Second // of one daemon, between SIGTERM and SIGKILL
)

// Supervisor starts daemons in order, restarts them, and reaps every child that this process has.
//
// It does not use os/exec: as the first process of a PID namespace (or as a subreaper) it gets the
// orphans of all others, so one loop waits for any child at all, and that would steal the exit
// status from an exec.Cmd. Nothing else in its process may start children.
type Supervisor struct {
	LogDir string
	Log    *slog.Logger

	mu       sync.Mutex // held from fork to registration, so that no exit is reaped unregistered
	children map[int]chan syscall.WaitStatus
}

// Run starts the daemons, each once the one before it is ready, and keeps them running until ctx is
// done; then it stops them in reverse order. Each daemon gets a SIGKILL if it does not stop in time.
func (s *Supervisor) Run(ctx context.Context, daemons []Daemon) error {
	s.children = map[int]chan syscall.WaitStatus{}
	reapCtx, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	reaped := make(chan struct{})
	go func() { defer close(reaped); s.reap(reapCtx) }()
	defer func() { stopReaping(); <-reaped }()

	var stops []func()
	for _, d := range daemons {
		dctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		ended := make(chan struct{})
		go func() { defer close(ended); s.keep(dctx, d) }()
		stops = append(stops, func() { cancel(); <-ended })
		if err := s.awaitReady(ctx, d); err != nil && ctx.Err() == nil {
			s.Log.Error("a daemon is not ready; the ones after it start nevertheless", "daemon", d.Name, "err", err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	<-ctx.Done()
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	return nil
}

func (s *Supervisor) awaitReady(ctx context.Context, d Daemon) error {
	if d.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("%s was not ready within %s", d.Name, readyWithin))
	defer cancel()
	began := time.Now()
	for {
		err := d.Ready(ctx)
		if err == nil {
			s.Log.Info("ready", "daemon", d.Name, "after", time.Since(began).Round(time.Millisecond))
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(readyPause):
		}
	}
}

// keep runs one daemon again and again until ctx is done.
func (s *Supervisor) keep(ctx context.Context, d Daemon) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		began := time.Now()
		pid, exited, err := s.start(d)
		if err != nil {
			s.Log.Error("cannot start a daemon", "daemon", d.Name, "err", err)
		} else {
			s.Log.Info("started", "daemon", d.Name, "pid", pid)
			select {
			case st := <-exited:
				s.Log.Warn("a daemon ended", "daemon", d.Name, "pid", pid, "status", describe(st), "restart in", backoff)
			case <-ctx.Done():
				s.stop(d.Name, pid, exited)
				return
			}
		}
		if time.Since(began) > steadyAfter {
			backoff = firstBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (s *Supervisor) stop(name string, pid int, exited <-chan syscall.WaitStatus) {
	// The daemon leads its own process group; ESRCH means it has just ended.
	_ = unix.Kill(pid, unix.SIGTERM)
	select {
	case <-exited:
	case <-time.After(stopWithin):
		s.Log.Warn("a daemon did not stop in time and is killed", "daemon", name, "after", stopWithin)
		_ = unix.Kill(-pid, unix.SIGKILL)
		<-exited
	}
}

func (s *Supervisor) start(d Daemon) (int, <-chan syscall.WaitStatus, error) {
	path := d.Log
	if path == "" {
		path = filepath.Join(s.LogDir, d.Name+".log")
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, nil, fmt.Errorf("open the log of %s: %w", d.Name, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", d.Name, err)
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Dir:   d.Dir,
		Env:   append(os.Environ(), d.Env...),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		// Where there is no PID namespace, this is what makes daemons die with their supervisor.
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(d.Argv[0], d.Argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s (%s): %w", d.Name, d.Argv[0], err)
	}
	ch := make(chan syscall.WaitStatus, 1)
	s.children[pid] = ch
	return pid, ch, nil
}

// reap waits for children: daemons are reported to who started them, orphans just go away.
func (s *Supervisor) reap(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	for {
		for s.reapOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-sig:
		case <-time.After(time.Minute): // a lost signal must not leave a zombie for ever
		}
	}
}

func (s *Supervisor) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if ch, ok := s.children[pid]; ok {
		delete(s.children, pid)
		ch <- st
	}
	return true
}

func describe(st syscall.WaitStatus) string {
	if st.Signaled() {
		return st.Signal().String()
	}
	return fmt.Sprintf("exit %d", st.ExitStatus())
}
