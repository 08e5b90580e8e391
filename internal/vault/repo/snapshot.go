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

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// Snapshot is a tree at one time.
type Snapshot struct {
	ID       ID        `json:"-"` // filled in on saving and loading
	Time     time.Time `json:"time"`
	Parent   *ID       `json:"parent,omitempty"`
	Tree     ID        `json:"tree"`
	Paths    []string  `json:"paths"`
	Hostname string    `json:"hostname,omitempty"`
	Username string    `json:"username,omitempty"`
	UID      uint32    `json:"uid,omitempty"`
	GID      uint32    `json:"gid,omitempty"`
	Excludes []string  `json:"excludes,omitempty"`
	Tags     []string  `json:"tags,omitempty"`
	Original *ID       `json:"original,omitempty"`
	Program  string    `json:"program_version,omitempty"`
}

// SaveSnapshot flushes and then stores the snapshot, so that everything it names is there before it.
// Time, Hostname, Username and Paths are filled in when left out.
func (s *Saver) SaveSnapshot(ctx context.Context, snap Snapshot) (ID, error) {
	if snap.Tree.IsZero() {
		return ID{}, fmt.Errorf("save snapshot: it names no tree")
	}
	if err := s.Flush(ctx); err != nil {
		return ID{}, err
	}
	if _, _, err := s.repo.catalog.locate(ctx, TreeBlob, snap.Tree); err != nil {
		return ID{}, fmt.Errorf("save snapshot: %w", err)
	}
	hostname, username := origin()
	if snap.Hostname == "" {
		snap.Hostname = hostname
	}
	if snap.Username == "" {
		snap.Username, snap.UID, snap.GID = username, uint32(os.Getuid()), uint32(os.Getgid())
	}
	if snap.Time.IsZero() {
		snap.Time = s.repo.now()
	}
	if len(snap.Paths) == 0 {
		snap.Paths = []string{"/"}
	}
	id, size, err := s.repo.saveJSON(ctx, snapshotDir, snap)
	if err != nil {
		return ID{}, fmt.Errorf("save snapshot: %w", err)
	}
	// Whoever removes looks for snapshots after it took our lock away, or an index that we rely on, and
	// we look for those after the snapshot: one of the two sees the other, whatever their clocks say.
	if err := s.relied(ctx); err != nil {
		return ID{}, errors.Join(fmt.Errorf("save snapshot: %w", err), s.repo.store.Delete(ctx, snapshotDir+id.String()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.StoredBytes += size
	return id, nil
}

// relied makes sure that what this saver found in the repository is still there.
func (s *Saver) relied(ctx context.Context) error {
	if err := s.lock.verify(ctx); err != nil {
		return err
	}
	whole, err := s.repo.catalog.intact(ctx, s.generation)
	if err == nil && !whole {
		err = fmt.Errorf("%w: somebody removed from the repository meanwhile", ErrLockLost)
	}
	return err
}

// Snapshots returns all snapshots, oldest first.
func (r *Repo) Snapshots(ctx context.Context) ([]Snapshot, error) {
	ids, err := r.listIDs(ctx, snapshotDir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var mu sync.Mutex
	all := make([]Snapshot, 0, len(ids))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readWorkers)
	for _, id := range ids {
		group.Go(func() error {
			snap, err := r.snapshot(gctx, id)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, snap)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Snapshot) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return all, nil
}

func (r *Repo) snapshot(ctx context.Context, id ID) (Snapshot, error) {
	var snap Snapshot
	if err := r.loadJSON(ctx, snapshotDir, id, &snap); err != nil {
		return Snapshot{}, fmt.Errorf("load snapshot: %w", err)
	}
	snap.ID = id
	return snap, nil
}

// LoadSnapshot returns the snapshot of that id, or the only one whose id begins so.
// Errors: ErrNotFound, ErrAmbiguous.
func (r *Repo) LoadSnapshot(ctx context.Context, idOrPrefix string) (Snapshot, error) {
	ids, err := r.listIDs(ctx, snapshotDir)
	if err != nil {
		return Snapshot{}, fmt.Errorf("list snapshots: %w", err)
	}
	ids = slices.DeleteFunc(ids, func(id ID) bool { return idOrPrefix == "" || !strings.HasPrefix(id.String(), idOrPrefix) })
	switch len(ids) {
	case 0:
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", idOrPrefix, ErrNotFound)
	case 1:
		return r.snapshot(ctx, ids[0])
	}
	return Snapshot{}, fmt.Errorf("snapshot %q: %w: %d of them", idOrPrefix, ErrAmbiguous, len(ids))
}

// HasSnapshot asks whether a snapshot is there. Error: ErrNotFound.
func HasSnapshot(ctx context.Context, r *Repo, id string) error {
	if _, err := ParseID(id); err != nil {
		return err
	}
	_, err := r.store.Stat(ctx, snapshotDir+id)
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("snapshot %s: %w", id, ErrNotFound)
	}
	return err
}
