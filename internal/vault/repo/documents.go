package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Document is a small file.
type Document struct {
	Path string // slash-separated, below the tree's root
	Data []byte
}

// DocumentsResult is what SaveDocuments did.
type DocumentsResult struct {
	Tree      ID
	Documents int
	Bytes     int64
}

// SaveDocuments stores documents as a tree with a file for each. The tree's id depends on their paths
// and contents alone: what did not change gives the same tree, and takes no room. An error that docs
// yields ends it.
func (s *Saver) SaveDocuments(ctx context.Context, docs iter.Seq2[Document, error]) (DocumentsResult, error) {
	root := &documentDir{}
	var result DocumentsResult
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	var failed error
	for doc, err := range docs {
		if failed = errors.Join(err, context.Cause(gctx)); failed != nil {
			break
		}
		node, err := root.add(doc.Path)
		if err != nil {
			failed = err
			break
		}
		result.Documents++
		result.Bytes += int64(len(doc.Data))
		node.Size = uint64(len(doc.Data))
		group.Go(func() (err error) {
			node.Content, err = s.document(gctx, doc.Data)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return DocumentsResult{}, fmt.Errorf("save documents: %w", err)
	}
	if failed != nil {
		return DocumentsResult{}, fmt.Errorf("save documents: %w", failed)
	}
	var err error
	if result.Tree, err = root.save(ctx, s); err != nil {
		return DocumentsResult{}, fmt.Errorf("save documents: %w", err)
	}
	return result, nil
}

func (s *Saver) document(ctx context.Context, data []byte) ([]ID, error) {
	switch {
	case len(data) == 0:
		return []ID{}, nil
	case len(data) > minChunk:
		ids, _, err := s.saveStream(ctx, bytes.NewReader(data), nil)
		return ids, err
	}
	id, err := s.saveSmall(ctx, DataBlob, data)
	return []ID{id}, err
}

// documentDir is a directory being put together.
type documentDir struct {
	dirs  map[string]*documentDir
	files []*Node
}

// add makes the node of a document, and the directories above it.
func (d *documentDir) add(p string) (*Node, error) {
	if p == "" || p == "." || path.IsAbs(p) || path.Clean(p) != p || strings.HasPrefix(p, "../") {
		return nil, fmt.Errorf("document path %q is not a clean relative path", p)
	}
	names := strings.Split(p, "/")
	for _, name := range names[:len(names)-1] {
		if d.dirs == nil {
			d.dirs = map[string]*documentDir{}
		}
		next := d.dirs[name]
		if next == nil {
			next = &documentDir{}
			d.dirs[name] = next
		}
		d = next
	}
	n := &Node{Name: names[len(names)-1], Type: FileNode, Mode: 0o600, ModTime: epoch(), AccessTime: epoch(), ChangeTime: epoch()}
	if err := n.checkName(); err != nil {
		return nil, err
	}
	d.files = append(d.files, n)
	return n, nil
}

// save stores a directory after those below it.
func (d *documentDir) save(ctx context.Context, s *Saver) (ID, error) {
	nodes := slices.Clone(d.files)
	for name, dir := range d.dirs {
		id, err := dir.save(ctx, s)
		if err != nil {
			return ID{}, err
		}
		nodes = append(nodes, &Node{
			Name: name, Type: DirNode, Mode: 0o700 | fs.ModeDir, Subtree: id,
			ModTime: epoch(), AccessTime: epoch(), ChangeTime: epoch(),
		})
	}
	return s.SaveTree(ctx, &Tree{Nodes: nodes})
}

// WalkDocuments reads every document of a tree. The calls of fn come one after the other, in no
// particular order; data must not be changed.
func (r *Repo) WalkDocuments(ctx context.Context, tree ID, fn func(path string, data []byte) error) error {
	files, err := r.listFiles(ctx, tree)
	if err != nil {
		return fmt.Errorf("read documents: %w", err)
	}
	whole := map[ID][]string{} // documents of one blob, which most are, by their blob
	var rest []document
	for _, f := range files {
		if len(f.node.Content) == 1 {
			whole[f.node.Content[0]] = append(whole[f.node.Content[0]], f.path)
		} else {
			rest = append(rest, f)
		}
	}
	ids := make([]ID, 0, len(whole))
	for id := range whole {
		ids = append(ids, id)
	}
	var mu sync.Mutex
	err = r.loadBlobs(ctx, DataBlob, ids, func(id ID, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range whole[id] {
			if err := fn(p, data); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read documents: %w", err)
	}
	for _, f := range rest {
		var data bytes.Buffer
		if err := r.ReadFile(ctx, f.node, &data); err != nil {
			return fmt.Errorf("read document %s: %w", f.path, err)
		}
		if err := fn(f.path, data.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

type document struct {
	path string
	node *Node
}

// listFiles returns the files below a tree, reading all the trees of a depth at once.
func (r *Repo) listFiles(ctx context.Context, tree ID) ([]document, error) {
	var files []document
	level := map[ID][]string{tree: {""}}
	for len(level) > 0 {
		ids := make([]ID, 0, len(level))
		for id := range level {
			ids = append(ids, id)
		}
		var mu sync.Mutex
		next := map[ID][]string{}
		err := r.loadBlobs(ctx, TreeBlob, ids, func(id ID, raw []byte) error {
			t, err := parseTree(id, raw)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, above := range level[id] {
				for _, n := range t.Nodes {
					p := path.Join(above, n.Name)
					switch n.Type {
					case DirNode:
						next[n.Subtree] = append(next[n.Subtree], p)
					case FileNode:
						files = append(files, document{p, n})
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		level = next
	}
	return files, nil
}
