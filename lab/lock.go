package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/layout"
)

// lockWithin is how long a command waits for another one to finish with the same lab.
const lockWithin = 10 * time.Second

// lock guards a lab's directory against two commands at once. The kernel lets go of it when its
// process ends, however it ends.
type lock struct{ f *os.File }

// acquire waits for the lock of an existing directory; fs.ErrNotExist if another command removed the
// lab meanwhile.
func acquire(ctx context.Context, dir layout.Dir) (*lock, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockWithin, fmt.Errorf("it was still at work after %s", lockWithin))
	defer cancel()
	for {
		f, err := os.OpenFile(dir.Lock(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock the lab in %s: %w", dir, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, dir.Lock()) {
			return hold(f, dir)
		}
		holder := ""
		if err != nil {
			b, readErr := os.ReadFile(dir.Lock())
			if readErr == nil {
				holder = strings.TrimSpace(string(b))
			}
		}
		if cerr := f.Close(); cerr != nil {
			return nil, fmt.Errorf("lock the lab in %s: %w", dir, cerr)
		}
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the lab in %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return nil, dr.Errorf(dr.ClassConflict, context.Cause(ctx), "Wait for it to end, or end it, and try again.",
				"another command (%s) is at work on the lab in %s", holder, dir)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func hold(f *os.File, dir layout.Dir) (*lock, error) {
	who := fmt.Sprintf("%s, process %d\n", filepath.Base(os.Args[0]), os.Getpid())
	err := f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(who), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab in %s: %w", dir, err), f.Close())
	}
	return &lock{f: f}, nil
}

// sameFile says whether f is still what path names: whoever held the lock before may have removed it.
func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// claimDir makes dir a lab's: it must be absent, empty, or a lab's already. It returns its canonical
// spelling.
func claimDir(dir string) (layout.Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", dr.Errorf(dr.ClassUsage, err, "Name a directory that you may write with --dir.", "cannot make the lab's directory %s", dir)
	}
	real, err := canonical(dir)
	if err != nil {
		return "", fmt.Errorf("make the lab's directory: %w", err)
	}
	d := layout.Dir(real)
	if _, err := os.Stat(d.Marker()); err == nil {
		return d, nil
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return "", fmt.Errorf("look into the lab's directory: %w", err)
	}
	if len(entries) > 0 {
		return "", dr.Errorf(dr.ClassUsage, nil, "Name a directory that is empty or does not exist with --dir.",
			"%s holds %q and is not a lab's directory", real, entries[0].Name())
	}
	const text = "This directory is a lab of lifeboat-lab, which removes it with `lifeboat-lab down`.\n"
	if err := os.WriteFile(d.Marker(), []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("mark the lab's directory: %w", err)
	}
	return d, nil
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return err
}
