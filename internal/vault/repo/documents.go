package repo

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"sync"
)

// LoadDocumentTree reads a tree that DocumentTree, or an earlier version that did not cut directories, has
// saved.
func LoadDocumentTree(ctx context.Context, r *Repo, tree ID) (*DocumentTree, error) {
	files, err := r.listFiles(ctx, tree)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	t := NewDocumentTree()
	for _, f := range files {
		d := documentFile{size: int64(f.node.Size)}
		switch len(f.node.Content) {
		case 0:
			d.content = hash(nil)
		case 1:
			d.content = f.node.Content[0]
		default:
			d.more = &f.node.Content
		}
		t.put(f.path, d)
	}
	return t, nil
}

// largeDocument stores a document that is cut into blobs.
func (s *Saver) largeDocument(ctx context.Context, data []byte) (ID, *[]ID, error) {
	ids, _, err := s.saveStream(ctx, bytes.NewReader(data), nil)
	if err != nil || len(ids) == 1 {
		return append(ids, ID{})[0], nil, err
	}
	return ID{}, &ids, nil
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

// listFiles returns the files below a tree, as if no directory was cut, reading all the trees of a depth at once.
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
					if n.Type == DirNode && isPart(n.Name) {
						p = above
					}
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
