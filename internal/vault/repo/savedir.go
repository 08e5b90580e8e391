package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// RootName is the name under which SaveDir files the directory that it was given, so that the
// directory's own mode, owner and attributes are kept too.
const RootName = "contents"

// Progress is what has been done so far.
type Progress struct {
	Files int
	Bytes int64
}

// SaveDirOptions steer SaveDir; the zero value saves everything.
type SaveDirOptions struct {
	// Exclude leaves out an entry, and what is below it, by its slash-separated path below the root.
	Exclude func(rel string, dir bool) bool
	// Progress is called from time to time, never twice at once.
	Progress func(Progress)
}

// SaveDirResult is what SaveDir did.
type SaveDirResult struct {
	Tree  ID // of a tree with one node, RootName
	Files int
	Dirs  int // the root included
	Bytes int64
	// Missing names, with the reason, what was there and could not be read to its end: the copy is
	// incomplete.
	Missing []string
	// Skipped names sockets, devices and pipes, which hold no data.
	Skipped []string
}

// SaveDir stores a directory: files, directories and symbolic links with their modes, owners, times
// and extended attributes; several links to one file become files of their own. A file that changes
// meanwhile is stored as it is found, to its end. Only a failure of the repository, or of the root
// itself, is an error.
func (s *Saver) SaveDir(ctx context.Context, root string, opts SaveDirOptions) (SaveDirResult, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return SaveDirResult{}, fmt.Errorf("save directory %s: %w", root, err)
	}
	defer dir.Close()
	w := &dirSaver{saver: s, root: dir, opts: opts, spare: make(chan struct{}, 2*saverWorkers())}
	node, err := w.dir(ctx, ".")
	if err == nil && node == nil {
		err = errors.New(strings.Join(w.result.Missing, "; "))
	}
	if err != nil {
		return SaveDirResult{}, fmt.Errorf("save directory %s: %w", root, err)
	}
	node.Name = RootName
	if w.result.Tree, err = s.SaveTree(ctx, &Tree{Nodes: []*Node{node}}); err != nil {
		return SaveDirResult{}, fmt.Errorf("save directory %s: %w", root, err)
	}
	slices.Sort(w.result.Missing)
	slices.Sort(w.result.Skipped)
	return w.result, nil
}

// dirSaver is one SaveDir.
type dirSaver struct {
	saver *Saver
	root  *os.Root
	opts  SaveDirOptions
	spare chan struct{} // goroutines that may be started beside the caller's

	mu     sync.Mutex
	result SaveDirResult
}

// missing notes what could not be read.
func (w *dirSaver) missing(rel string, err error) {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // the path is said already
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

// dir stores a directory and what is below it. A nil node without an error means that it is missing.
func (w *dirSaver) dir(ctx context.Context, rel string) (*Node, error) {
	file, err := w.root.Open(rel)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	defer file.Close()
	node, err := nodeOf(file)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	entries, err := file.ReadDir(-1)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	nodes := make([]*Node, len(entries))
	errs := make([]error, len(entries))
	var helpers sync.WaitGroup
	for i, e := range entries {
		one := func() { nodes[i], errs[i] = w.entry(ctx, path.Join(rel, e.Name()), e) }
		select {
		case w.spare <- struct{}{}:
			helpers.Go(func() { defer func() { <-w.spare }(); one() })
		default:
			one() // everybody is busy: do it ourselves
		}
		if ctx.Err() != nil {
			break
		}
	}
	helpers.Wait()
	if err := errors.Join(append(errs, context.Cause(ctx))...); err != nil {
		return nil, err
	}
	node.Subtree, err = w.saver.SaveTree(ctx, &Tree{Nodes: slices.DeleteFunc(nodes, func(n *Node) bool { return n == nil })})
	w.count(0, 1, 0)
	return node, err
}

// entry stores one entry of a directory; nil when it is left out.
func (w *dirSaver) entry(ctx context.Context, rel string, e fs.DirEntry) (*Node, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if w.opts.Exclude != nil && w.opts.Exclude(rel, e.IsDir()) {
		return nil, nil
	}
	switch t := e.Type(); {
	case t.IsDir():
		return w.dir(ctx, rel)
	case t.IsRegular():
		return w.file(ctx, rel)
	case t&fs.ModeSymlink != 0:
		return w.symlink(rel), nil
	default:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.result.Skipped = append(w.result.Skipped, rel)
		return nil, nil
	}
}

func (w *dirSaver) symlink(rel string) *Node {
	info, err := w.root.Lstat(rel)
	if err != nil {
		w.missing(rel, err)
		return nil
	}
	target, err := w.root.Readlink(rel)
	if err != nil {
		w.missing(rel, err)
		return nil
	}
	n := statNode(info)
	n.Type, n.LinkTarget = SymlinkNode, target
	return n
}

func (w *dirSaver) file(ctx context.Context, rel string) (*Node, error) {
	// Without O_NONBLOCK, a pipe that has taken the file's place would hold us up for good.
	file, err := w.root.OpenFile(rel, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	defer file.Close()
	node, err := nodeOf(file)
	if err == nil && node.Type != FileNode {
		err = errors.New("is no longer a file")
	}
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	var counted int64
	node.Content, counted, err = w.content(ctx, file, int64(node.Size))
	var failed *readError
	if errors.As(err, &failed) {
		w.missing(rel, failed.err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	node.Size = uint64(counted)
	w.count(1, 0, 0)
	return node, nil
}

// content stores a file's bytes. Most files are small and need neither chunker nor goroutine.
func (w *dirSaver) content(ctx context.Context, file io.Reader, size int64) ([]ID, int64, error) {
	said := func(n int) { w.count(0, 0, int64(n)) }
	if size >= minChunk {
		return w.saver.saveStream(ctx, file, said)
	}
	data := make([]byte, size+1) // one more, to see the end
	n, err := io.ReadFull(file, data)
	switch {
	case err == nil: // it has grown
		return w.saver.saveStream(ctx, io.MultiReader(bytes.NewReader(data), file), said)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, 0, &readError{err}
	case n == 0:
		return []ID{}, 0, nil
	}
	id, err := w.saver.saveSmall(ctx, DataBlob, data[:n])
	said(n)
	return []ID{id}, int64(n), err
}

// nodeOf describes an open file or directory.
func nodeOf(file *os.File) (*Node, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	n := statNode(info)
	switch {
	case info.IsDir():
		n.Type = DirNode
	case info.Mode().IsRegular():
		n.Type, n.Size = FileNode, uint64(info.Size())
	default:
		return n, nil
	}
	n.Xattrs, err = readXattrs(file)
	return n, err
}

// statNode leaves out what differs from machine to machine (inode, device, times of access), so that
// an unchanged directory is an unchanged tree.
func statNode(info fs.FileInfo) *Node {
	mtime := info.ModTime().UTC().Round(0)
	n := &Node{Name: info.Name(), Mode: info.Mode(), ModTime: mtime, AccessTime: mtime, ChangeTime: mtime}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		n.UID, n.GID = st.Uid, st.Gid
	}
	return n
}

// epoch is the time of what has none.
func epoch() time.Time { return time.Unix(0, 0).UTC() }
