package procnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Isolation says how much of a container's view of files this machine allows us to give.
type Isolation int

const (
	// Shared: pods see the machine's files; mount paths in commands and settings are rewritten.
	Shared Isolation = iota
	// UserNamespace: each container has its own mounts, by way of a user namespace.
	UserNamespace
	// Namespace: each container has its own mounts, by root's right.
	Namespace
)

// String is a sentence for a person.
func (i Isolation) String() string {
	switch i {
	case Namespace:
		return "pods have their own mounts and hosts file (root)"
	case UserNamespace:
		return "pods have their own mounts and hosts file (user namespaces)"
	}
	return "pods share the machine's files: mount paths in commands are rewritten, Service names do not resolve, and there is no service account token at its usual path"
}

// DetectIsolation tries what the launcher does, best first. dir must exist; nothing is left in it.
func DetectIsolation(ctx context.Context, launcher []string, dir string) Isolation {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, i := range []Isolation{Namespace, UserNamespace} {
		if i == Namespace && os.Geteuid() != 0 {
			continue
		}
		if tryIsolation(ctx, i, launcher, dir) == nil {
			return i
		}
	}
	return Shared
}

func tryIsolation(ctx context.Context, i Isolation, launcher []string, dir string) error {
	stage, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(stage) }() // empty directories
	for _, sub := range []string{"root", "volume"} {
		if err := os.Mkdir(filepath.Join(stage, sub), 0o755); err != nil {
			return err
		}
	}
	volume := filepath.Join(stage, "volume")
	cmd := exec.CommandContext(ctx, launcher[0])
	err = startLauncher(cmd, i, launcher, launch{
		Probe: true, Hostname: "probe", Stage: filepath.Join(stage, "root"),
		// One mount point that exists, one whose ancestor must be covered, one that needs a new root.
		Mounts: sortMounts([]mount{
			{Source: "/dev/null", Target: "/etc/hosts"},
			{Source: volume, Target: "/run/lifeboat-lab-probe/x", ReadOnly: true},
			{Source: volume, Target: "/lifeboat-lab-probe/x"},
		}),
	})
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// startLauncher starts l in new namespaces and returns when the program has taken over, or why not.
// cmd has its standard files and environment set; the rest is overwritten.
func startLauncher(cmd *exec.Cmd, i Isolation, launcher []string, l launch) error {
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return err
	}
	faultsR, faultsW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, ordersR.Close(), ordersW.Close())
	}
	defer func() { _ = faultsR.Close() }() // read to its end or given up
	cmd.Path, cmd.Args, cmd.Dir = launcher[0], launcher, ""
	cmd.ExtraFiles = []*os.File{ordersR, faultsW}
	cmd.SysProcAttr = namespaceAttr(cmd.SysProcAttr, i)
	err = cmd.Start()
	_, _ = ordersR.Close(), faultsW.Close() // the child has its own
	if err != nil {
		_ = ordersW.Close()
		return err
	}
	encErr := json.NewEncoder(ordersW).Encode(l)
	_ = ordersW.Close()
	fault, readErr := io.ReadAll(faultsR)
	if len(fault) == 0 && encErr == nil && readErr == nil {
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // its fault is the news, not its exit
	if len(fault) > 0 {
		return errors.New(string(fault))
	}
	return fmt.Errorf("talking to the launcher: %w", errors.Join(encErr, readErr))
}

func namespaceAttr(attr *syscall.SysProcAttr, i Isolation) *syscall.SysProcAttr {
	if attr == nil {
		attr = &syscall.SysProcAttr{Setsid: true}
	}
	attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS
	if i == UserNamespace {
		uid, gid := os.Geteuid(), os.Getegid()
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for the launcher only, which drops it
	}
	return attr
}

// namespaces are handles on a running container's, for joining them; they stay valid, and stay that
// container's, however long ago its process ended.
type namespaces struct {
	mnt, uts *os.File
	id       uint64 // of the mount namespace
}

func openNamespaces(pid int) (*namespaces, error) {
	mnt, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, err
	}
	uts, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return nil, errors.Join(err, mnt.Close())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(mnt.Fd()), &st); err != nil {
		return nil, errors.Join(err, mnt.Close(), uts.Close())
	}
	return &namespaces{mnt: mnt, uts: uts, id: st.Ino}, nil
}

func (n *namespaces) close() {
	if n != nil {
		_, _ = n.mnt.Close(), n.uts.Close() // handles only
	}
}

// start calls f inside the namespaces. A thread of ours joins them for it and is thrown away; only
// root may do so.
func (n *namespaces) start(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == os.Getpid() {
			// The first thread is never thrown away, and what it has joined counts as the whole
			// process's: keep it busy here and let another one do it.
			done <- n.start(f)
			runtime.UnlockOSThread()
			return
		}
		if err := n.join(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// join moves the calling thread into the namespaces.
func (n *namespaces) join() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the shared root: %w", err)
	}
	if err := unix.Setns(int(n.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("joining the container's mounts: %w", err)
	}
	if err := unix.Setns(int(n.uts.Fd()), unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("joining the container's host name: %w", err)
	}
	return nil
}
