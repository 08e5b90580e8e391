package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/lab/internal/state"
)

// Isolation is how a site's processes are held together, so that they die together.
type Isolation string

// From the surest to the least sure.
const (
	PIDNamespace  Isolation = "pid-namespace"  // as root
	UserNamespace Isolation = "user-namespace" // a PID namespace inside a user namespace, without root
	ProcessGroups Isolation = "process-groups" // neither allowed: parent-death signals and a search
)

// Commands of lifeboat-lab that this package starts.
const (
	CmdProbe = "ns-probe" // stands where a site's first process would stand, and exits 0
	CmdInit  = "site-init"
)

// DetectIsolation tries what this machine allows, by really starting self inside it.
func DetectIsolation(ctx context.Context, self string) Isolation {
	for _, i := range []Isolation{PIDNamespace, UserNamespace} {
		cmd := exec.CommandContext(ctx, self, CmdProbe)
		cmd.SysProcAttr = i.attr()
		if cmd.Run() == nil {
			return i
		}
	}
	return ProcessGroups
}

func (i Isolation) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	switch i {
	case PIDNamespace:
		a.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	case UserNamespace:
		a.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		// Whoever is not root loses its capabilities over exec; this one is for mounting /proc.
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return a
}

// EnterNamespace makes this process fit to be the first of a site: as the first of a PID namespace it
// mounts a /proc of its own, else it becomes the one that orphans are handed to. It gives up what
// capabilities that took.
func EnterNamespace() error {
	if self, err := os.Readlink("/proc/self"); err == nil && os.Getpid() == 1 && self == "1" {
		return nil // mounted before DropAmbient ran this program again
	}
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("become the reaper of orphans: %w", err)
		}
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make this namespace's mounts its own: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// DropAmbient runs this program again in its place without the capability that EnterNamespace used,
// if it has one; it returns only when there is nothing to drop, or on an error. A new image is the
// one sure way to take a capability from all threads of a Go program.
func DropAmbient(argv []string) error {
	runtime.LockOSThread() // ambient capabilities are a thread's
	defer runtime.UnlockOSThread()
	has, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_SYS_ADMIN, 0, 0)
	if err != nil || has == 0 {
		return nil // a kernel without ambient capabilities gave us none
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return fmt.Errorf("run again without capabilities: %w", syscall.Exec("/proc/self/exe", argv, os.Environ()))
}

// Launch is a process to start that outlives the one that starts it.
type Launch struct {
	Argv      []string
	Dir       string // the lab's directory: a marker
	Site      string // a marker
	Log       string // file for stdout and stderr
	Env       []string
	Isolation Isolation
	Command   *exec.Cmd // how to run Argv, where something other than Isolation makes the namespaces
}

// Start starts it, with an environment of its own: the markers and the little that programs need of
// the caller's, so that nothing of the caller's (credentials, proxies) leaks into a site.
func (l Launch) Start() (Ref, error) {
	log, err := os.OpenFile(l.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Ref{}, fmt.Errorf("start %s: %w", l.Site, err)
	}
	defer log.Close()
	cmd := l.Command
	if cmd == nil {
		cmd = exec.Command(l.Argv[0], l.Argv[1:]...) //nolint:noctx // it outlives every context of ours
		cmd.SysProcAttr = l.Isolation.attr()
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = l.Dir
	cmd.Env = append(append(baseEnv(os.Environ()), state.EnvLab+"="+l.Dir, state.EnvSite+"="+l.Site), l.Env...)
	if err := cmd.Start(); err != nil {
		return Ref{}, fmt.Errorf("start %s: %w", l.Site, err)
	}
	ref, err := RefOf(cmd.Process.Pid)
	if err != nil {
		return Ref{}, errors.Join(err, cmd.Process.Kill())
	}
	go func() { _ = cmd.Wait() }() // no zombie while this process lives; its status is told by the files it keeps
	return ref, nil
}

// baseEnv keeps of an environment what a program needs anywhere.
func baseEnv(environ []string) []string {
	keep := map[string]bool{"PATH": true, "HOME": true, "USER": true, "LANG": true, "TMPDIR": true, "TZ": true}
	var out []string
	for _, kv := range environ {
		if k, _, _ := strings.Cut(kv, "="); keep[k] {
			out = append(out, kv)
		}
	}
	return out
}
