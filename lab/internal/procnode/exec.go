package procnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// executor runs commands beside a container's program.
type executor struct {
	a    *agent
	proc *process
}

// pipeSize lets bulk data pass with few switches between processes.
const pipeSize = 1 << 20

// ExecInContainer runs a command with its streams connected; an exit code other than 0 comes back as
// a utilexec.ExitError.
func (e *executor) ExecInContainer(ctx context.Context, _, _, _ string, argv []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	var err error
	if tty {
		err = e.terminal(ctx, argv, in, out, resize)
	} else {
		err = e.pipes(ctx, argv, in, out, errOut)
	}
	var status *exec.ExitError
	if errors.As(err, &status) {
		return utilexec.CodeExitError{Err: err, Code: exitOf(status.ProcessState).code}
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return utilexec.CodeExitError{Err: err, Code: 127}
	}
	return err
}

// pipes connects the streams through pipes.
func (e *executor) pipes(ctx context.Context, argv []string, in io.Reader, out, errOut io.WriteCloser) error {
	cmd := &exec.Cmd{SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	var theirs []*os.File
	closeTheirs := func() {
		for _, f := range theirs {
			_ = f.Close() // the child has its own
		}
		theirs = nil
	}
	defer closeTheirs()
	var outputs, inputs sync.WaitGroup
	var kill func()
	var copies []func()
	for _, s := range []struct {
		to  io.WriteCloser
		set *io.Writer
	}{{out, &cmd.Stdout}, {errOut, &cmd.Stderr}} {
		if s.to == nil {
			continue
		}
		r, w, err := widePipe()
		if err != nil {
			return err
		}
		theirs = append(theirs, w)
		*s.set = w
		copies = append(copies, func() { outputs.Go(func() { drain(s.to, r, func() { kill() }) }) })
		defer func() { _ = r.Close() }() // only read; here for when the start fails
	}
	if in != nil {
		r, w, err := widePipe()
		if err != nil {
			return err
		}
		theirs = append(theirs, r)
		cmd.Stdin = r
		defer func() { _ = w.Close() }() // unblocks the copying when the command did not read all
		copies = append(copies, func() {
			inputs.Go(func() {
				_, _ = io.CopyBuffer(onlyWriter{w}, in, make([]byte, 64<<10)) // ends with either side
				_ = w.Close()                                                 // the command sees the end
			})
		})
	}
	if err := e.a.startIn(e.proc, cmd, argv); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	kill = func() { _ = unix.Kill(-pid, unix.SIGKILL) }
	defer context.AfterFunc(ctx, kill)()
	closeTheirs()
	for _, start := range copies {
		start()
	}
	err := cmd.Wait()
	// What the command started may still hold its output; that goes with the container, as with any runtime.
	outputs.Wait()
	return err
}

// drain copies what a command says until it has ended; when nobody listens any more, the command is ended.
func drain(to io.Writer, r *os.File, kill func()) {
	if _, err := io.CopyBuffer(onlyWriter{to}, r, make([]byte, 64<<10)); err != nil {
		kill()
	}
	_ = r.Close() // only read
}

// onlyWriter hides ReadFrom, which for a pipe would bypass our buffer with a smaller one.
type onlyWriter struct{ io.Writer }

func widePipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	conn, err := w.SyscallConn() // Fd would make the file block
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	err = conn.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) // beyond the user's limit it stays as it is
	})
	return r, w, err
}

// terminal connects the streams through a pseudo-terminal.
func (e *executor) terminal(ctx context.Context, argv []string, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	ours, theirs, err := openTerminal()
	if err != nil {
		return err
	}
	defer func() { _ = ours.Close() }() // unblocks whoever reads or writes it
	cmd := &exec.Cmd{Stdin: theirs, Stdout: theirs, Stderr: theirs, SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true}}
	err = e.a.startIn(e.proc, cmd, argv)
	_ = theirs.Close() // the child has its own
	if err != nil {
		return err
	}
	pid := cmd.Process.Pid
	kill := func() { _ = unix.Kill(-pid, unix.SIGKILL) }
	defer context.AfterFunc(ctx, kill)()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case size, ok := <-resize:
				if !ok {
					return
				}
				_ = setSize(ours, size) // a terminal of the wrong size still works
			case <-done:
				return
			}
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(ours, in) }() // ends with either side
	}
	var output sync.WaitGroup
	output.Go(func() {
		if out != nil {
			_, _ = io.Copy(onlyWriter{out}, ours) // a terminal ends with EIO
		}
	})
	err = cmd.Wait()
	output.Wait()
	return err
}

func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	conn, err := ours.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	var n int
	var ioErr error
	err = conn.Control(func(fd uintptr) {
		if ioErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioErr == nil {
			n, ioErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, ioErr); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening a terminal: %w", err), ours.Close())
	}
	theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening a terminal: %w", err), ours.Close())
	}
	return ours, theirs, nil
}

func setSize(f *os.File, s remotecommand.TerminalSize) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioErr error
	err = conn.Control(func(fd uintptr) {
		ioErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	})
	return errors.Join(err, ioErr)
}

// forwarder connects forwarded streams to a pod's address.
type forwarder struct{ pod *podRun }

// PortForward copies both ways until both are done.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(f.pod.ip(), strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("forwarding to port %d of pod %s: %w", port, f.pod.key(), err)
	}
	defer func() { _ = conn.Close() }() // both directions are done
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, stream) // ends with either side
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // the pod sees the end, and may still answer
		}
	}()
	_, err = io.Copy(stream, conn)
	return err
}
