package wire

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"sync"

	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// source reads a checkpoint out of the vault's repository.
type source struct {
	repo     *repo.Repo
	snapshot string

	mu   sync.Mutex
	dirs map[string]map[string]*repo.Node // that documents were read from singly, by their paths
}

// Stored is a checkpoint in a repository, as a restore reads it.
func Stored(r *repo.Repo, snapshot string) restore.Source {
	return &source{repo: r, snapshot: snapshot}
}

// Walk implements restore.Source.
func (s *source) Walk(ctx context.Context, fn func(path string, doc []byte) error) error {
	snap, err := s.repo.LoadSnapshot(ctx, s.snapshot)
	if err != nil {
		return fmt.Errorf("find snapshot %s: %w", s.snapshot, err)
	}
	return s.repo.WalkDocuments(ctx, snap.Tree, fn)
}

// Read implements restore.Reader.
func (s *source) Read(ctx context.Context, p string) ([]byte, error) {
	node, err := s.find(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("find %s in snapshot %s: %w", p, s.snapshot, err)
	}
	out := bytes.NewBuffer(make([]byte, 0, node.Size))
	if err := s.repo.ReadFile(ctx, node, out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (s *source) find(ctx context.Context, p string) (*repo.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, name := path.Split(p)
	nodes, err := s.list(ctx, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	if nodes[name] == nil {
		return nil, fmt.Errorf("there is no %s", p)
	}
	return nodes[name], nil
}

// list returns what is in a directory, and remembers it.
func (s *source) list(ctx context.Context, dir string) (map[string]*repo.Node, error) {
	if nodes, known := s.dirs[dir]; known {
		return nodes, nil
	}
	id, err := s.tree(ctx, dir)
	if err != nil {
		return nil, err
	}
	tree, err := s.repo.LoadTree(ctx, id)
	if err != nil {
		return nil, err
	}
	nodes := make(map[string]*repo.Node, len(tree.Nodes))
	for _, n := range tree.Nodes {
		nodes[n.Name] = n
	}
	if s.dirs == nil {
		s.dirs = map[string]map[string]*repo.Node{}
	}
	s.dirs[dir] = nodes
	return nodes, nil
}

func (s *source) tree(ctx context.Context, dir string) (repo.ID, error) {
	if dir == "" {
		snap, err := s.repo.LoadSnapshot(ctx, s.snapshot)
		return snap.Tree, err
	}
	parent, name := path.Split(dir)
	nodes, err := s.list(ctx, strings.TrimSuffix(parent, "/"))
	if err != nil {
		return repo.ID{}, err
	}
	if nodes[name] == nil {
		return repo.ID{}, fmt.Errorf("there is no directory %s", dir)
	}
	return nodes[name].Subtree, nil
}
