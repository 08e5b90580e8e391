package wire

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// saveDocuments writes a checkpoint into the vault's repository and returns its snapshot's id.
func (o *Operation) saveDocuments(ctx context.Context, docs map[string][]byte, snap repo.Snapshot) (id string, err error) {
	saver, err := o.vault.Repo().NewSaver(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, saver.Close(context.WithoutCancel(ctx))) }()
	saved, err := saver.SaveDocuments(ctx, ordered(docs))
	if err != nil {
		return "", err
	}
	snap.Tree = saved.Tree
	snapshot, err := saver.SaveSnapshot(ctx, snap)
	if err != nil {
		return "", err
	}
	return snapshot.String(), nil
}

func ordered(docs map[string][]byte) iter.Seq2[repo.Document, error] {
	return func(yield func(repo.Document, error) bool) {
		for _, path := range slices.Sorted(maps.Keys(docs)) {
			if !yield(repo.Document{Path: path, Data: docs[path]}, nil) {
				return
			}
		}
	}
}

// source reads a checkpoint out of the vault's repository.
type source struct {
	repo     *repo.Repo
	snapshot string
}

// Walk implements restore.Source.
func (s source) Walk(ctx context.Context, fn func(path string, doc []byte) error) error {
	snap, err := s.repo.LoadSnapshot(ctx, s.snapshot)
	if err != nil {
		return fmt.Errorf("find snapshot %s: %w", s.snapshot, err)
	}
	return s.repo.WalkDocuments(ctx, snap.Tree, fn)
}
