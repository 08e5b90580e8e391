package procnode

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sortMounts orders outer paths before those inside them.
func sortMounts(mounts []mount) []mount {
	slices.SortStableFunc(mounts, func(a, b mount) int { return cmp.Compare(strings.Count(a.Target, "/"), strings.Count(b.Target, "/")) })
	return mounts
}

// layout puts mounts in place in a mount namespace of our own. Nothing is ever created in the
// machine's directories: where a mount point is missing, its nearest existing ancestor is covered by
// a small file system that shows the ancestor's entries again and has room for the mount point.
type layout struct {
	ours []string // places where directories may be made: what we covered, and volumes
}

func arrange(mounts []mount, stage string) error {
	var l layout
	for _, m := range mounts {
		if at, _ := nearest(m.Target); at == "/" {
			if err := newRoot(stage); err != nil {
				return fmt.Errorf("putting a root together: %w", err)
			}
			l.ours = append(l.ours, "/")
			break
		}
	}
	for _, m := range mounts {
		if err := l.place(m); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

func (l *layout) place(m mount) error {
	at, missing := nearest(m.Target)
	if missing != "" {
		if !l.mine(at) {
			if err := cover(at); err != nil {
				return err
			}
			l.ours = append(l.ours, at)
		}
		if err := mountPoint(m.Source, at, missing); err != nil {
			return err
		}
	}
	target := filepath.Join(at, missing)
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	l.ours = append(l.ours, target)
	if !m.ReadOnly {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	// The flags the mount came with may not be dropped by an unprivileged namespace.
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
}

// mine reports whether at may be changed: it is, or lies in, something we put there.
func (l *layout) mine(at string) bool {
	for _, dir := range l.ours {
		if at == dir || strings.HasPrefix(at, strings.TrimSuffix(dir, "/")+"/") && sameDevice(dir, at) {
			return true
		}
	}
	return false
}

// sameDevice tells what we made below dir from the machine's directories that a cover shows there.
func sameDevice(dir, at string) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(at, &b) == nil && a.Dev == b.Dev
}

// nearest splits path into its deepest existing ancestor, links resolved, and what is missing below.
func nearest(path string) (at, missing string) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return real, missing
		}
		missing = filepath.Join(filepath.Base(dir), missing)
		if dir == "/" || dir == "." {
			return "/", missing
		}
	}
}

func mountPoint(source, at, missing string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	target := filepath.Join(at, missing)
	if info.IsDir() {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	_ = os.Remove(target) // a link that leads nowhere
	return touch(target)
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// cover lays a small file system over dir that shows dir's own entries.
func cover(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }() // only a handle on what is covered now
	if err := small(dir, dir); err != nil {
		return err
	}
	return show("/proc/self/fd/"+strconv.Itoa(fd), dir)
}

// small mounts a small writable file system at dir, with the permissions of like.
func small(dir, like string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	opts := fmt.Sprintf("mode=%o,size=64m", mode)
	if info.Mode()&fs.ModeSticky != 0 {
		opts = fmt.Sprintf("mode=1%o,size=64m", mode)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("covering %s: %w", dir, err)
	}
	return nil
}

// show makes from's entries visible in to: links as links, all else as bind mounts.
func show(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if err := showOne(e, src, dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("showing %s: %w", dst, err)
		}
	}
	return nil
}

func showOne(e fs.DirEntry, src, dst string) error {
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		to, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(to, dst)
	case e.IsDir():
		if err := os.Mkdir(dst, 0o755); err != nil {
			return err
		}
	default:
		if err := touch(dst); err != nil {
			return err
		}
	}
	return unix.Mount(src, dst, "", unix.MS_BIND|unix.MS_REC, "")
}

// newRoot makes a small file system that shows the machine's top directories the root of this
// namespace. The machine's root is let go of, so that joining the namespace leads to the new one.
func newRoot(stage string) error {
	if err := small(stage, "/"); err != nil {
		return err
	}
	// Or the directory that the stage lies in would show the stage again, with all that is in it.
	if err := unix.Mount("", stage, "", unix.MS_UNBINDABLE, ""); err != nil {
		return err
	}
	if err := show("/", stage); err != nil {
		return err
	}
	if err := os.Chdir(stage); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the machine's root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return os.Chdir("/")
}
