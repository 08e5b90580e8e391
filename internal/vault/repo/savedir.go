package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// RootName is the name under which SaveDir files the directory that it was given, so that the
// directory's own mode, owner and attributes are kept too.
const RootName = "contents"

const (
	// dirWorkers is how many files of a directory tree are open at the same time.
	dirWorkers = 16
	// dirWindow is how many entries of a directory are begun before the first of them is done.
	dirWindow = 256
	// settled is how much older than the earlier copy's beginning a file's last change must be for its
	// times to tell whether it changed since: clocks of file systems go in steps, and some are another
	// machine's.
	settled = 2 * time.Second
)

// Progress is what has been done so far.
type Progress struct {
	Files int
	Bytes int64
}

// SaveDirOptions steer SaveDir; the zero value saves everything.
type SaveDirOptions struct {
	// Parent is an earlier snapshot of the same directory, whose Time is when it was begun. A file that
	// has the size, inode and times of change that it had then is not read again.
	Parent *Snapshot
	// Exclude leaves out an entry, and what is below it, by its slash-separated path below the root.
	Exclude func(rel string, dir bool) bool
	// Progress is called from time to time, never twice at once.
	Progress func(Progress)
}

// SaveDirResult is what SaveDir did.
type SaveDirResult struct {
	Tree      ID        // of a tree with one node, RootName
	Started   time.Time // for the snapshot's Time
	Files     int       // regular ones
	Dirs      int       // the root included
	Bytes     int64
	Unchanged int // files that were not read, because they are as Parent has them
	// Missing names, with the reason, what was there and could not be read to its end: the copy is
	// incomplete.
	Missing []string
	// Changed names files that were written to while they were read: the copy of such a file may be of
	// no one moment.
	Changed []string
}

// SaveDir stores a directory: files, directories, links, pipes, devices and sockets with their modes,
// owners, times and extended attributes. Holes of files are not read. A file that changes meanwhile is
// stored as it is found, to its end. Only a failure of the repository, or of the root itself, is an
// error.
func (s *Saver) SaveDir(ctx context.Context, root string, opts SaveDirOptions) (SaveDirResult, error) {
	w := &dirSaver{
		saver: s, opts: opts, trees: treeSource{repo: s.repo}, spare: make(chan struct{}, dirWorkers),
		linked: map[inode][]ID{}, result: SaveDirResult{Started: s.repo.now()},
	}
	w.buffers.New = func() any { return new([]byte) }
	tree, err := w.all(ctx, root)
	if err != nil {
		return SaveDirResult{}, fmt.Errorf("save directory %s: %w", root, err)
	}
	w.result.Tree = tree
	slices.Sort(w.result.Missing)
	slices.Sort(w.result.Changed)
	return w.result, nil
}

// dirSaver is one SaveDir.
type dirSaver struct {
	saver   *Saver
	opts    SaveDirOptions
	device  uint64 // of the root
	trees   treeSource
	spare   chan struct{} // goroutines that may be started beside the caller's
	buffers sync.Pool     // of *[]byte: small files

	mu     sync.Mutex
	linked map[inode][]ID // files of several names that were read under one of them
	result SaveDirResult
}

// inode is a file, whatever it is called.
type inode struct{ device, number uint64 }

// all saves everything and returns the tree that names the root.
func (w *dirSaver) all(ctx context.Context, root string) (ID, error) {
	var st unix.Stat_t
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return ID{}, os.NewSyscallError("open", err)
	}
	w.device = uint64(st.Dev) //nolint:unconvert // its size differs between systems
	was, err := w.parentRoot(ctx)
	if err != nil {
		return ID{}, errors.Join(err, unix.Close(fd))
	}
	node, err := w.dir(ctx, fd, "", nodeOf(RootName, &st, w.device), was)
	if err == nil && node == nil {
		err = errors.New(strings.Join(w.result.Missing, "; "))
	}
	if err != nil {
		return ID{}, err
	}
	return w.saver.SaveTree(ctx, &Tree{Nodes: []*Node{node}})
}

// parentRoot is the root's node in the earlier snapshot; nil when there is none to compare with.
func (w *dirSaver) parentRoot(ctx context.Context) (*Node, error) {
	if w.opts.Parent == nil {
		return nil, nil
	}
	old, err := w.trees.earlierTree(ctx, w.opts.Parent.Tree)
	if err != nil {
		return nil, fmt.Errorf("earlier snapshot: %w", err)
	}
	return old.find(RootName), nil
}

// missing notes what could not be read.
func (w *dirSaver) missing(rel string, err error) {
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	if rel == "" {
		rel = "."
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Missing = append(w.result.Missing, rel+": "+err.Error())
}

func (w *dirSaver) count(files, dirs int, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Files += files
	w.result.Dirs += dirs
	w.result.Bytes += size
	if w.opts.Progress != nil {
		w.opts.Progress(Progress{Files: w.result.Files, Bytes: w.result.Bytes})
	}
}

// entry is one of a directory's while it is worked on.
type entry struct {
	node *Node // nil: left out or missing
	err  error
	done chan struct{} // nil: it is done
}

// dir stores an open directory and what is below it, and closes it. was is its node in the earlier
// snapshot, or nil. A nil node without an error means that it is missing.
func (w *dirSaver) dir(ctx context.Context, fd int, rel string, node, was *Node) (*Node, error) {
	file := os.NewFile(uintptr(fd), rel)
	defer file.Close()
	names, err := file.Readdirnames(-1)
	if err == nil {
		err = w.dirXattrs(fd, node, was)
	}
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	slices.Sort(names)
	old := &earlier{}
	if was != nil {
		if old, err = w.trees.earlierTree(ctx, was.Subtree); err != nil {
			return nil, fmt.Errorf("earlier copy of %s: %w", rel, err)
		}
	}
	var out nodeWriter
	var begun []*entry
	for _, name := range names {
		if err = context.Cause(ctx); err != nil {
			break
		}
		begun = append(begun, w.entry(ctx, fd, rel, name, old.find(name)))
		if len(begun) == dirWindow {
			err = collect(&out, begun[:dirWindow/2])
			begun = begun[dirWindow/2:]
		}
		if err != nil {
			break
		}
	}
	// Nobody works on in a directory that is closed.
	if err := errors.Join(err, collect(&out, begun)); err != nil {
		return nil, err
	}
	node.Subtree, err = w.saver.saveSmall(ctx, TreeBlob, out.finish())
	w.count(0, 1, 0)
	return node, err
}

// collect waits for entries and adds them to the tree, in order.
func collect(out *nodeWriter, begun []*entry) (err error) {
	for _, e := range begun {
		if e.done != nil {
			<-e.done
		}
		if err == nil {
			err = e.err
		}
		if err == nil && e.node != nil {
			err = out.add(e.node)
		}
	}
	return err
}

func (w *dirSaver) dirXattrs(fd int, node, was *Node) (err error) {
	if was != nil && w.unchanged(node, was) {
		node.Xattrs = was.Xattrs // a change of them changes ctime
		return nil
	}
	node.Xattrs, err = readXattrs(fd)
	return err
}

// unchanged says whether a file or directory is what the earlier snapshot has.
func (w *dirSaver) unchanged(node, was *Node) bool {
	return sameTimes(node, was) && was.ChangeTime.Before(w.opts.Parent.Time.Add(-settled))
}

// entry stores one entry of an open directory, beside the caller when somebody is free.
func (w *dirSaver) entry(ctx context.Context, dir int, above, name string, was *Node) *entry {
	rel := name
	if above != "" {
		rel = above + "/" + name
	}
	st, err := statAt(dir, name)
	if err != nil {
		w.missing(rel, err)
		return &entry{}
	}
	node := nodeOf(name, &st, w.device)
	if w.opts.Exclude != nil && w.opts.Exclude(rel, node.Type == DirNode) {
		return &entry{}
	}
	var work func() (*Node, error)
	switch node.Type {
	case DirNode:
		work = func() (*Node, error) { return w.subdir(ctx, dir, rel, node, was) }
	case FileNode:
		if was != nil && w.reuse(node, was) {
			return &entry{node: node}
		}
		work = func() (*Node, error) { return w.file(ctx, dir, rel, node) }
	case SymlinkNode:
		if node.LinkTarget, err = readlinkAt(dir, name); err != nil {
			w.missing(rel, err)
			return &entry{}
		}
		return &entry{node: node}
	default:
		return &entry{node: node}
	}
	e := &entry{}
	select {
	case w.spare <- struct{}{}:
		e.done = make(chan struct{})
		go func() {
			defer func() { <-w.spare; close(e.done) }()
			e.node, e.err = work()
		}()
	default:
		e.node, e.err = work() // everybody is busy: do it ourselves
	}
	return e
}

func (w *dirSaver) subdir(ctx context.Context, above int, rel string, node, was *Node) (*Node, error) {
	fd, err := openAt(above, node.Name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	// What was opened may have taken the place of what was described.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		w.missing(rel, err)
		return nil, unix.Close(fd)
	}
	return w.dir(ctx, fd, rel, nodeOf(node.Name, &st, w.device), was)
}

// reuse takes over the blobs of an unchanged file, if the repository has them all.
func (w *dirSaver) reuse(node, was *Node) bool {
	if !w.unchanged(node, was) {
		return false
	}
	var size uint64
	for _, id := range was.Content {
		_, at, ok := w.saver.repo.catalog.lookup(DataBlob, id)
		if !ok {
			return false
		}
		size += uint64(at.plainLength())
	}
	if size != node.Size {
		return false
	}
	node.Content, node.Xattrs = was.Content, was.Xattrs
	w.mu.Lock()
	w.result.Unchanged++
	w.mu.Unlock()
	w.count(1, 0, int64(size))
	return true
}
