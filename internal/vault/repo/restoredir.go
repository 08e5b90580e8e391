package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

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
	// Warnings name what could not be restored of owners, attributes and devices, and sockets, which
	// hold no data and are left out.
	Warnings []string
}

// RestoreDir brings a tree back into the directory target, which is made when it is missing. What
// SaveDir stored comes back as it was; of a tree that another program wrote, the nodes are put into
// the target. Each file is written under a temporary name and renamed into its place; one that is there
// already with the right content keeps it, so that a restore that was broken off goes on where it was;
// other files in the target stay. Nothing is ever written outside of the target, whatever the tree
// says. Files that the repository cannot give whole are left out and named by the error, after all
// others were restored. When it returns without an error, everything is durable.
func (r *Repo) RestoreDir(ctx context.Context, tree ID, target string, opts RestoreDirOptions) (RestoreDirResult, error) {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	defer root.Close()
	w := newDirRestorer(r, root, opts)
	defer w.closeAll()
	if err := w.all(ctx, tree); err != nil {
		return RestoreDirResult{}, fmt.Errorf("restore into %s: %w", target, err)
	}
	if w.foreign > 0 {
		w.warn(fmt.Sprintf("the owners of %d entries: only root may give files away", w.foreign))
	}
	slices.Sort(w.result.Warnings)
	return w.result, nil
}

// dirRestorer is one RestoreDir: a walk makes directories and gathers files in batches, the contents of
// a batch are then read in the order in which they lie in packs.
type dirRestorer struct {
	repo  *Repo
	root  *os.Root
	opts  RestoreDirOptions
	trees treeSource
	names *tempNames
	batch *batch
	dirs  map[*targetDir]struct{} // that are open; guarded by mu
	links []laterLink             // further names of files
	first map[inode]*firstName    // of files with several names

	mu      sync.Mutex
	open    int // descriptors that are kept
	result  RestoreDirResult
	foreign int // entries whose owner could not be set
	damaged []error
}

func newDirRestorer(r *Repo, root *os.Root, opts RestoreDirOptions) *dirRestorer {
	w := &dirRestorer{repo: r, root: root, opts: opts, trees: treeSource{repo: r}, names: newTempNames(), dirs: map[*targetDir]struct{}{}, first: map[inode]*firstName{}}
	w.batch = &batch{restorer: w}
	return w
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

// all restores the tree and makes it durable.
func (w *dirRestorer) all(ctx context.Context, tree ID) error {
	in, err := w.trees.open(ctx, tree)
	if err != nil {
		return err
	}
	first, err := in.next()
	if err != nil {
		return err
	}
	top := &targetDir{rel: ".", pending: 1, existed: true}
	if ours := first != nil && first.Name == RootName && first.Type == DirNode; ours {
		second, err := in.next()
		if err != nil {
			return err
		}
		if second == nil {
			top.node = first
		}
	}
	if top.node == nil {
		if in, err = w.trees.open(ctx, tree); err != nil {
			return err
		}
	} else if in, err = w.trees.open(ctx, top.node.Subtree); err != nil {
		return err
	}
	err = w.nodes(ctx, top, in)
	if err == nil {
		err = w.batch.flush(ctx)
	}
	err = errors.Join(err, w.batch.abandon())
	for _, l := range w.links {
		if err == nil {
			err = w.link(l)
		}
	}
	if err == nil {
		err = w.release(top)
	}
	if err == nil {
		err = w.sync()
	}
	if err != nil {
		return err
	}
	return w.damage()
}

// damage words what could not be restored because the repository does not have it whole.
func (w *dirRestorer) damage() error {
	const most = 20
	switch n := len(w.damaged); {
	case n == 0:
		return nil
	case n > most:
		return fmt.Errorf("%d files cannot be restored: %w; and %d more", n, errors.Join(w.damaged[:most]...), n-most)
	case n > 1:
		return fmt.Errorf("%d files cannot be restored: %w", n, errors.Join(w.damaged...))
	}
	return w.damaged[0]
}

func (w *dirRestorer) sync() error {
	dir, err := w.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(syncAll(dir), dir.Close())
}

// nodes restores what is in a directory, as far as files are not left to the batch.
func (w *dirRestorer) nodes(ctx context.Context, dir *targetDir, in *treeReader) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := in.next()
		if err != nil {
			return fmt.Errorf("%s: %w", dir.rel, err)
		}
		if n == nil {
			return nil
		}
		if w.opts.Exclude != nil && w.opts.Exclude(path.Join(dir.rel, n.Name), n.Type == DirNode) {
			continue
		}
		if err := w.node(ctx, dir, n); err != nil {
			return err
		}
	}
}

func (w *dirRestorer) node(ctx context.Context, dir *targetDir, n *Node) error {
	rel := path.Join(dir.rel, n.Name)
	switch n.Type {
	case DirNode:
		return w.dir(ctx, dir, n)
	case FileNode:
		if n.Links > 1 {
			if first, ok := w.firstName(dir, n); !ok {
				w.hold(dir)
				w.links = append(w.links, laterLink{dir: dir, name: n.Name, size: int64(n.Size), first: first})
				return nil
			}
		}
		return w.batch.add(ctx, dir, n)
	case SymlinkNode:
		return w.within(dir, func(fd int) error { return w.symlink(fd, rel, n) })
	case FifoNode, DeviceNode, CharDeviceNode:
		return w.within(dir, func(fd int) error { return w.special(fd, rel, n) })
	}
	w.warn(fmt.Sprintf("%s: a %s is not restored", rel, n.Type))
	return nil
}

// dir makes a directory and restores what is in it.
func (w *dirRestorer) dir(ctx context.Context, above *targetDir, n *Node) error {
	d := &targetDir{above: above, rel: path.Join(above.rel, n.Name), node: n, pending: 1}
	if err := w.within(above, func(fd int) (err error) { d.existed, err = makeDir(fd, n.Name); return err }); err != nil {
		return fmt.Errorf("%s: %w", d.rel, err)
	}
	w.hold(above)
	in, err := w.trees.open(ctx, n.Subtree)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		w.lose(d.rel+"/", err)
		return w.release(d)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.rel, err)
	}
	if err := w.nodes(ctx, d, in); err != nil {
		return err
	}
	return w.release(d)
}

// lose notes what cannot be restored.
func (w *dirRestorer) lose(rel string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.damaged = append(w.damaged, fmt.Errorf("%s: %w", rel, err))
}

// makeDir makes a directory in an open one, and says whether it was there.
func makeDir(above int, name string) (existed bool, err error) {
	err = unix.Mkdirat(above, name, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return false, err
	}
	st, err := statAt(above, name)
	if err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true, prepareDir(above, name, uint32(st.Mode)) //nolint:unconvert // its size differs between systems
	}
	// A file or link stands where the copy has a directory.
	return false, errors.Join(unix.Unlinkat(above, name, 0), unix.Mkdirat(above, name, 0o700))
}

// prepareDir lets us write into a directory that was there, and takes away what it would give to new
// entries; it gets its own mode and attributes at the end.
func prepareDir(above int, name string, mode uint32) error {
	fd, err := openAt(above, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	if mode&0o700 != 0o700 {
		err = unix.Fchmod(fd, mode&0o7777|0o700)
	}
	return errors.Join(err, dropDefaultACL(fd), unix.Close(fd))
}

// symlink makes a link in an open directory.
func (w *dirRestorer) symlink(dir int, rel string, n *Node) error {
	temp := w.names.next()
	if err := unix.Symlinkat(n.LinkTarget, dir, temp); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	w.chown(dir, temp, n)
	return w.putInPlace(dir, rel, temp, setTimes(dir, temp, n))
}

// special makes a pipe or a device in an open directory.
func (w *dirRestorer) special(dir int, rel string, n *Node) error {
	temp := w.names.next()
	err := makeSpecial(dir, temp, n.Type, n.Device)
	if errors.Is(err, unix.EPERM) || errors.Is(err, errors.ErrUnsupported) {
		w.warn(fmt.Sprintf("%s: a %s is not restored: %v", rel, n.Type, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	w.chown(dir, temp, n)
	err = unix.Fchmodat(dir, temp, permissions(n.Mode), 0)
	return w.putInPlace(dir, rel, temp, errors.Join(err, setTimes(dir, temp, n)))
}
