package procnode

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// payloadFile is one file of a volume that the agent writes.
type payloadFile struct {
	data []byte
	mode fs.FileMode
}

const dataLink = "..data"

// writeAtomicDir makes dir show exactly the files of payload, changing from the old to the new
// content at one instant: files live in a fresh directory that the link ..data points to, and each
// visible name is a link through it. It reports whether anything changed. gid < 0 leaves the group.
func writeAtomicDir(dir string, payload map[string]payloadFile, gid int) (bool, error) {
	for name := range payload {
		if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
			return false, fmt.Errorf("volume file name %q leads out of its directory", name)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("creating volume: %w", err)
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink)) // missing the first time
	if old != "" && samePayload(filepath.Join(dir, old), payload) {
		return false, nil
	}
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return false, fmt.Errorf("creating volume: %w", err)
	}
	if err := fillDir(fresh, payload, gid); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	tmp := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(tmp) // left by an agent that died just here
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return false, fmt.Errorf("writing volume: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return false, fmt.Errorf("writing volume: %w", err)
	}
	if err := linkNames(dir, payload); err != nil {
		return false, err
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return true, fmt.Errorf("removing a volume's old content: %w", err)
		}
	}
	return true, nil
}

func samePayload(dir string, payload map[string]payloadFile) bool {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := payload[name]
		info, err := d.Info()
		if err != nil || !ok || info.Mode().Perm() != want.mode.Perm() {
			return fs.ErrInvalid
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, want.data) {
			return fs.ErrInvalid
		}
		n++
		return nil
	})
	return err == nil && n == len(payload)
}

func fillDir(dir string, payload map[string]payloadFile, gid int) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("writing volume: %w", err)
	}
	for name, f := range payload {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing volume: %w", err)
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return fmt.Errorf("writing volume: %w", err)
		}
		if gid >= 0 {
			if err := os.Lchown(path, -1, gid); err != nil {
				return fmt.Errorf("writing volume: %w", err)
			}
		}
		if err := os.Chmod(path, f.mode.Perm()); err != nil {
			return fmt.Errorf("writing volume: %w", err)
		}
	}
	return nil
}

// linkNames makes the visible top-level names links into ..data and removes those no longer there.
func linkNames(dir string, payload map[string]payloadFile) error {
	want := map[string]bool{}
	for name := range payload {
		top, _, _ := strings.Cut(name, string(filepath.Separator))
		want[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("writing volume: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if want[e.Name()] {
			delete(want, e.Name())
		} else if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("writing volume: %w", err)
		}
	}
	for name := range want {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("writing volume: %w", err)
		}
	}
	return nil
}

// setGroup gives a writable volume to a group, as the kubelet does for fsGroup: group-owned, group
// read and write, and directories that pass the group on.
func setGroup(dir string, gid int) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, gid); err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | 0o660
		if d.IsDir() {
			mode = info.Mode() | 0o770 | fs.ModeSetgid
		}
		return os.Chmod(path, mode)
	})
}
