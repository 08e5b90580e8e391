package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// RestoreDirOptions steer RestoreDir; the zero value restores everything.
type RestoreDirOptions struct {
	// Exclude leaves out an entry, and what is below it, by its slash-separated path below the target.
	Exclude func(rel string, dir bool) bool
	// Progress is called from time to time, never twice at once.
	Progress func(Progress)
}

// RestoreDirResult is what RestoreDir did.
type RestoreDirResult struct {
	Files int
	Dirs  int // the target included
	Bytes int64
	// Warnings name what could not be restored of owners and attributes, and what was left out
	// because it holds no data.
	Warnings []string
}

// RestoreDir brings a tree back into the directory target, which is made when it is missing. What
// SaveDir stored comes back as it was; of a tree that another program wrote, the nodes are put into
// the target. Each file is written under a temporary name and renamed into its place; other files in
// the target stay. Nothing is ever written outside of the target, whatever the tree says. When it
// returns without an error, everything is durable.
func (r *Repo) RestoreDir(ctx context.Context, tree ID, target string, opts RestoreDirOptions) (RestoreDirResult, error) {
	t, err := r.LoadTree(ctx, tree)
	if err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore: %w", err)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	defer root.Close()
	w := &dirRestorer{repo: r, root: root, opts: opts, spare: make(chan struct{}, 2*saverWorkers())}
	if len(t.Nodes) == 1 && t.Nodes[0].Name == RootName && t.Nodes[0].Type == DirNode {
		err = w.dir(ctx, ".", t.Nodes[0])
	} else {
		err = w.nodes(ctx, ".", t)
		w.count(0, 1, 0)
	}
	if err == nil {
		err = w.sync()
	}
	if err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	if w.foreign > 0 {
		w.warn(fmt.Sprintf("the owners of %d entries: only root may give files away", w.foreign))
	}
	slices.Sort(w.result.Warnings)
	return w.result, nil
}

// dirRestorer is one RestoreDir.
type dirRestorer struct {
	repo  *Repo
	root  *os.Root
	opts  RestoreDirOptions
	spare chan struct{} // goroutines that may be started beside the caller's

	mu      sync.Mutex
	result  RestoreDirResult
	foreign int // entries whose owner could not be set
}

func (w *dirRestorer) warn(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Warnings = append(w.result.Warnings, text)
}

func (w *dirRestorer) count(files, dirs int, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Files += files
	w.result.Dirs += dirs
	w.result.Bytes += size
	if w.opts.Progress != nil {
		w.opts.Progress(Progress{Files: w.result.Files, Bytes: w.result.Bytes})
	}
}

func (w *dirRestorer) sync() error {
	dir, err := w.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(syncAll(dir), dir.Close())
}

// dir makes a directory, fills it, and only then gives it its mode and time.
func (w *dirRestorer) dir(ctx context.Context, rel string, n *Node) error {
	if rel != "." {
		if err := w.makeDir(rel); err != nil {
			return err
		}
	}
	t, err := w.repo.LoadTree(ctx, n.Subtree)
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	if err := w.nodes(ctx, rel, t); err != nil {
		return err
	}
	w.count(0, 1, 0)
	return w.finish(rel, n)
}

func (w *dirRestorer) makeDir(rel string) error {
	err := w.root.Mkdir(rel, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := w.root.Lstat(rel)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return nil
	}
	// A file or link stands where the copy has a directory.
	return errors.Join(w.root.Remove(rel), w.root.Mkdir(rel, 0o700))
}

// nodes restores what is in a directory.
func (w *dirRestorer) nodes(ctx context.Context, rel string, t *Tree) error {
	errs := make([]error, len(t.Nodes))
	var helpers sync.WaitGroup
	for i, n := range t.Nodes {
		one := func() { errs[i] = w.node(ctx, path.Join(rel, n.Name), n) }
		select {
		case w.spare <- struct{}{}:
			helpers.Go(func() { defer func() { <-w.spare }(); one() })
		default:
			one()
		}
		if ctx.Err() != nil {
			break
		}
	}
	helpers.Wait()
	return errors.Join(append(errs, context.Cause(ctx))...)
}

func (w *dirRestorer) node(ctx context.Context, rel string, n *Node) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if w.opts.Exclude != nil && w.opts.Exclude(rel, n.Type == DirNode) {
		return nil
	}
	switch n.Type {
	case DirNode:
		return w.dir(ctx, rel, n)
	case FileNode:
		return w.file(ctx, rel, n)
	case SymlinkNode:
		return w.symlink(rel, n)
	}
	w.warn(fmt.Sprintf("%s: a %s is not restored", rel, n.Type))
	return nil
}

// temporary is a name beside rel that nothing else has.
func temporary(rel string) string { return path.Join(path.Dir(rel), ".lifeboat-"+rand.Text()[:16]) }

func (w *dirRestorer) file(ctx context.Context, rel string, n *Node) (err error) {
	temp := temporary(rel)
	file, err := w.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.root.Remove(temp))
		}
	}()
	err = w.repo.ReadFile(ctx, n, &countingWriter{file: file, count: func(size int) { w.count(0, 0, int64(size)) }})
	if err == nil {
		w.xattrs(rel, file, n)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	if err := w.finish(temp, n); err != nil {
		return err
	}
	w.count(1, 0, 0)
	return w.root.Rename(temp, rel)
}

type countingWriter struct {
	file  *os.File
	count func(int)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	c.count(n)
	return n, err
}

func (w *dirRestorer) xattrs(rel string, file *os.File, n *Node) {
	if err := writeXattrs(file, n.Xattrs); err != nil {
		w.warn(fmt.Sprintf("%s: %v", rel, err))
	}
}

func (w *dirRestorer) symlink(rel string, n *Node) error {
	temp := temporary(rel)
	if err := w.root.Symlink(n.LinkTarget, temp); err != nil {
		return err
	}
	w.chown(temp, n)
	err := w.symlinkTime(temp, n.ModTime)
	if err == nil {
		err = w.root.Rename(temp, rel)
	}
	if err != nil {
		return errors.Join(err, w.root.Remove(temp))
	}
	return nil
}

// symlinkTime sets a link's own time, which os.Root cannot.
func (w *dirRestorer) symlinkTime(rel string, at time.Time) error {
	dir, err := w.root.Open(path.Dir(rel))
	if err != nil {
		return err
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	err = unix.UtimesNanoAt(int(dir.Fd()), path.Base(rel), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		err = &fs.PathError{Op: "utimensat", Path: rel, Err: err}
	}
	return errors.Join(err, dir.Close())
}

// finish sets owner, mode and times, in the order in which one does not undo the other.
func (w *dirRestorer) finish(rel string, n *Node) error {
	w.chown(rel, n)
	if n.Type == DirNode && len(n.Xattrs) > 0 {
		dir, err := w.root.Open(rel)
		if err != nil {
			return err
		}
		w.xattrs(rel, dir, n)
		if err := dir.Close(); err != nil {
			return err
		}
	}
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if err := w.root.Chmod(rel, n.Mode&(fs.ModePerm|special)); err != nil {
		return err
	}
	return w.root.Chtimes(rel, n.ModTime, n.ModTime)
}

// chown needs root where the owner is somebody else.
func (w *dirRestorer) chown(rel string, n *Node) {
	if err := w.root.Lchown(rel, int(n.UID), int(n.GID)); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.foreign++
	}
}
