package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// needE2E skips a test that takes minutes unless `make e2e` asked for it.
func needE2E(t *testing.T) {
	t.Helper()
	if os.Getenv("LIFEBOAT_E2E") == "" {
		t.Skip("takes minutes: run with `make e2e`")
	}
}

// needPods skips where nodes of real pods cannot be had; in continuous integration they must be.
func needPods(t *testing.T) {
	t.Helper()
	needE2E(t)
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("LIFEBOAT_CI") != "" {
		t.Fatal("nodes of real pods need root")
	}
	t.Skip("nodes of real pods need root")
}

// bin is the path of a built program.
func bin(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v: build it with `make build`", err)
	}
	return p
}

// result is how a program ended.
type result struct {
	stdout, stderr string
	code           int
	killed         bool
}

// command is a program under test.
type command struct {
	name string
	args []string
	env  []string
	cred *syscall.Credential
	dir  string
	bin  string // where the program lies; empty: where it was built
	// watch sees each line of standard error; when it returns true the program is killed with SIGKILL.
	watch func(line string) bool
	// interrupt makes it SIGINT instead.
	interrupt bool
}

// run ends with the program, or fails the test at the deadline.
func run(t *testing.T, within time.Duration, c command) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	path := bin(t, c.name)
	if c.bin != "" {
		path = filepath.Join(c.bin, c.name)
	}
	cmd := exec.CommandContext(ctx, path, c.args...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	var out bytes.Buffer
	cmd.Stdout = &out
	w := &watcher{watch: c.watch, kill: func() {
		if c.interrupt {
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself
			return
		}
		_ = cmd.Process.Kill() // as above
	}}
	cmd.Stderr = w
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: w.all.String(), code: cmd.ProcessState.ExitCode(), killed: w.killed}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v\n%s", c.name, c.args, err, r.stderr)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %v did not end within %s\n%s", c.name, c.args, within, r.stderr)
	}
	return r
}

// ok runs a program that must end well.
func ok(t *testing.T, within time.Duration, c command) result {
	t.Helper()
	r := run(t, within, c)
	if r.code != 0 {
		t.Fatalf("%s %s ended %d\nstdout: %s\nstderr: %s", c.name, strings.Join(c.args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

func unmarshal[T any](t *testing.T, s string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("not the JSON that was expected: %v\n%s", err, s)
	}
	return v
}

// watcher cuts standard error into lines.
type watcher struct {
	all     bytes.Buffer
	partial []byte
	watch   func(string) bool
	kill    func()
	killed  bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.all.Write(p)
	w.partial = append(w.partial, p...)
	for {
		i := bytes.IndexByte(w.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := string(w.partial[:i])
		w.partial = w.partial[i+1:]
		if w.watch != nil && !w.killed && w.watch(line) {
			w.killed = true
			w.kill()
		}
	}
}
