package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// waitingBytes is how much changed documents may hold in memory until the next checkpoint.
const waitingBytes = 8 << 20

// documents are the documents of an application's cluster state on their way into the vault's repository,
// and what the repository has of them. Where it has none yet they are stored as they come; later, changed ones
// wait for the next checkpoint, because what changes often is stored once then. After an error of the
// repository documents are of no use any more.
type documents struct {
	repo *repo.Repo
	tree *repo.DocumentTree

	mu      sync.RWMutex // held for reading while a document is stored
	saver   *repo.Saver
	waiting map[string][]byte // nil: deleted
	bytes   int
}

// newDocuments goes on from a tree, and has to be closed.
func newDocuments(ctx context.Context, r *repo.Repo, tree *repo.DocumentTree) (*documents, error) {
	d := &documents{repo: r, tree: tree, waiting: map[string][]byte{}}
	if tree.Len() > 0 {
		return d, nil
	}
	return d, d.open(ctx)
}

// open begins to store; the caller holds mu, or is alone.
func (d *documents) open(ctx context.Context) (err error) {
	if d.saver == nil {
		d.saver, err = d.repo.NewSaver(ctx)
	}
	return err
}

// close gives back the repository's lock.
func (d *documents) close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.saver == nil {
		return nil
	}
	s := d.saver
	d.saver = nil
	return s.Close(context.WithoutCancel(ctx))
}

// Paths implements capture.Store.
func (d *documents) Paths() iter.Seq[string] { return d.tree.Paths() }

// Put implements capture.Sink.
func (d *documents) Put(ctx context.Context, path string, doc []byte) (changed bool, err error) {
	d.mu.RLock()
	if d.saver != nil {
		defer d.mu.RUnlock()
		return d.tree.Put(ctx, d.saver, path, doc)
	}
	d.mu.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	is, waits := d.waiting[path]
	switch {
	case d.saver == nil && waits && is != nil && bytes.Equal(is, doc):
		return false, nil
	case d.saver == nil && d.tree.Holds(path, doc):
		d.forget(path)
		return waits, nil
	}
	d.forget(path)
	d.waiting[path] = bytes.Clone(doc)
	if d.bytes += len(doc); d.bytes > waitingBytes {
		err = d.store(ctx)
	}
	return true, err
}

// Delete implements capture.Sink.
func (d *documents) Delete(_ context.Context, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(path)
	if d.saver != nil {
		d.tree.Delete(path)
	} else {
		d.waiting[path] = nil
	}
	return nil
}

// forget drops what waits for a path; the caller holds mu.
func (d *documents) forget(path string) {
	d.bytes -= len(d.waiting[path])
	delete(d.waiting, path)
}

// store takes what waits into the tree; the caller holds mu.
func (d *documents) store(ctx context.Context) error {
	if err := d.open(ctx); err != nil {
		return err
	}
	for path, doc := range d.waiting {
		if doc == nil {
			d.tree.Delete(path)
			continue
		}
		if _, err := d.tree.Put(ctx, d.saver, path, doc); err != nil {
			return err
		}
	}
	d.waiting, d.bytes = map[string][]byte{}, 0
	return nil
}

// snapshot stores everything put so far, and makes a snapshot of it.
func (d *documents) snapshot(ctx context.Context, snap repo.Snapshot) (repo.ID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.store(ctx)
	if err != nil {
		return repo.ID{}, err
	}
	if snap.Tree, err = d.tree.Save(ctx, d.saver); err != nil {
		return repo.ID{}, err
	}
	return d.saver.SaveSnapshot(ctx, snap)
}

// commit makes a snapshot of everything put so far, goes on from it, and gives back the repository's lock. The
// tree stands on an earlier snapshot: where that is gone, what it names may be gone as well.
func (d *documents) commit(ctx context.Context, standsOn string, snap repo.Snapshot) (id repo.ID, stored int64, err error) {
	d.mu.Lock()
	err = d.open(ctx)
	d.mu.Unlock()
	if err != nil {
		return repo.ID{}, 0, err
	}
	if standsOn != "" {
		if err := repo.HasSnapshot(ctx, d.repo, standsOn); err != nil {
			return repo.ID{}, 0, err
		}
	}
	if id, err = d.snapshot(ctx, snap); err != nil {
		return repo.ID{}, 0, err
	}
	stored = d.saver.Stats().StoredBytes
	return id, stored, d.close(ctx)
}

// Checkpoint is a whole capture of a scope, stored.
type Checkpoint struct {
	Snapshot string
	Found    capture.Result
	Stored   int64 // bytes that it added to the repository
}

// TakeCheckpoint captures a scope of a site into a repository, from the first object to the last.
func TakeCheckpoint(ctx context.Context, r *repo.Repo, c *kube.Client, scope capture.Scope, snap repo.Snapshot) (_ Checkpoint, err error) {
	d, err := newDocuments(ctx, r, repo.NewDocumentTree())
	if err != nil {
		return Checkpoint{}, err
	}
	defer func() { err = errors.Join(err, d.close(ctx)) }()
	found, err := capture.Run(ctx, c, scope, d)
	if err != nil {
		return Checkpoint{}, err
	}
	id, err := d.snapshot(ctx, snap)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("write the checkpoint: %w", err)
	}
	return Checkpoint{Snapshot: id.String(), Found: found, Stored: d.saver.Stats().StoredBytes}, nil
}
