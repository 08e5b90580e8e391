package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// labState is the part of `lifeboat-lab up -o json` that the demo needs.
type labState struct {
	Dir   string    `json:"dir"`
	Nodes string    `json:"nodes"`
	Sites []labSite `json:"sites"`
	DNS   struct {
		Zone     string `json:"zone"`
		Server   string `json:"server"`
		KeyFile  string `json:"keyFile"`
		Software string `json:"software"`
	} `json:"dns"`
	Resolver string   `json:"resolver"`
	CAFile   string   `json:"caFile"`
	Notes    []string `json:"notes"`
}

type labSite struct {
	Name           string `json:"name"`
	Kubeconfig     string `json:"kubeconfig"`
	Context        string `json:"context"`
	IngressAddress string `json:"ingressAddress"`
	IngressDomain  string `json:"ingressDomain"`
	HTTPSPort      int    `json:"httpsPort"`
	Registry       string `json:"registry"`
	StorageClass   string `json:"storageClass"`
}

// stage runs other programs for the demo and shows what it runs.
type stage struct {
	g   *global
	env []string
}

// program finds a program beside this binary, or on the PATH.
func program(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	if p := filepath.Join(filepath.Dir(self), name); isExecutable(p) {
		return p, nil
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", dr.Errorf(dr.ClassUsage, err, "Build it with `make build` in Lifeboat's source.", "the demo needs %s, which is neither beside %s nor on the PATH", name, self)
	}
	return p, nil
}

func isExecutable(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// run shows a command, runs it, passes its progress on, and returns what it printed.
func (s *stage) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	s.g.say("$ %s %s", name, shown(args))
	return s.quietly(ctx, name, args...)
}

func (s *stage) quietly(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd, err := s.command(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	var out, problems bytes.Buffer
	cmd.Stdout = &out
	lines, w := io.Pipe()
	cmd.Stderr = io.MultiWriter(&problems, w)
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		s.pass(lines)
	}()
	err = cmd.Run()
	_ = w.Close() // a pipe's close cannot fail
	<-passed
	if err != nil {
		return out.Bytes(), s.failed(ctx, name, args, problems.String(), err)
	}
	return out.Bytes(), nil
}

// pass shows a child's progress, indented, without the child's own time stamps.
func (s *stage) pass(r io.Reader) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		line := in.Text()
		if before, after, ok := strings.Cut(strings.TrimSpace(line), "s  "); ok && strings.Trim(before, "0123456789.") == "" {
			line = after
		}
		s.g.say("    %s", line)
	}
	_, _ = io.Copy(io.Discard, r) // a line too long to show must not block the child
}

func (s *stage) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := program(name)
	if name == "lifeboat" {
		path, err = os.Executable()
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), s.env...)
	// An interrupted command stops in order; one that does not is ended.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	// Ctrl-C reaches this process alone, which passes it on once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// failed turns a child's end into an error of the child's class, with its own words.
func (s *stage) failed(ctx context.Context, name string, args []string, stderr string, err error) error {
	if ctx.Err() != nil {
		return dr.Errorf(dr.ClassInterrupted, context.Cause(ctx), "", "%s was interrupted", name)
	}
	var exit *exec.ExitError
	class := dr.ClassInternal
	if errors.As(err, &exit) {
		class = classOfExit(exit.ExitCode())
	}
	return dr.Errorf(class, errors.New(lastLines(stderr, 6)), "", "`%s %s` ended with %v", name, args[0], err)
}

func classOfExit(code int) dr.Class {
	for _, c := range []dr.Class{dr.ClassUsage, dr.ClassUnreachable, dr.ClassDenied, dr.ClassConflict, dr.ClassIncomplete, dr.ClassBlocked, dr.ClassInterrupted} {
		if c.ExitCode() == code {
			return c
		}
	}
	return dr.ClassInternal
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n  ")
}

// shown writes arguments as a person would type them.
func shown(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a == "" || strings.ContainsAny(a, " \"'$&;|<>()*?#") {
			b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "'")
		} else {
			b.WriteString(a)
		}
	}
	return b.String()
}

// json runs a command and reads the JSON that it prints.
func (s *stage) json(ctx context.Context, into any, name string, args ...string) error {
	out, err := s.run(ctx, name, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("read what `%s` printed: %w", name, err)
	}
	return nil
}

// load is the client that keeps ordering.
type load struct {
	cmd  *exec.Cmd
	done chan error
	log  string
}

func (s *stage) startLoad(ctx context.Context, url, resolver, caFile, log string, rate int) (*load, error) {
	args := []string{"load", "--url", url, "--resolver", resolver, "--ca", caFile, "--rate", fmt.Sprint(rate), "--log", log}
	s.g.say("$ shop %s &", shown(args))
	cmd, err := s.command(ctx, "shop", args...)
	if err != nil {
		return nil, err
	}
	errlog, err := os.Create(log + ".err")
	if err != nil {
		return nil, fmt.Errorf("open the log of the load: %w", err)
	}
	defer errlog.Close() //nolint:errcheck // the child holds its own descriptor; nothing is written here
	cmd.Stdout, cmd.Stderr = errlog, errlog
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the load: %w", err)
	}
	l := &load{cmd: cmd, done: make(chan error, 1), log: log}
	go func() { l.done <- cmd.Wait() }()
	return l, nil
}

// stop ends the load; a load that ended by itself before is an error.
func (l *load) stop() error {
	select {
	case err := <-l.done:
		l.done <- err
		return dr.Errorf(dr.ClassInternal, err, "See "+l.log+".err.", "the load ended before it was told to")
	default:
	}
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stop the load: %w", err)
	}
	select {
	case err := <-l.done:
		l.done <- nil
		var exit *exec.ExitError
		if errors.As(err, &exit) || err == nil {
			return nil
		}
		return fmt.Errorf("end the load: %w", err)
	case <-time.After(10 * time.Second):
		return dr.Errorf(dr.ClassInternal, nil, "", "the load did not stop within 10 s")
	}
}
