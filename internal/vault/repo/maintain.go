package repo

import (
	"context"
	"fmt"
)

// Maintenance is the right to remove from the repository: nobody else adds or removes while it lasts.
// Its methods are called one after the other.
type Maintenance struct {
	repo *Repo
	lock *heldLock
}

// Maintain takes the exclusive lock. Close what it returns in any case. Error: *LockedError.
func Maintain(ctx context.Context, r *Repo, o LockOptions) (*Maintenance, error) {
	lock, err := takeLock(ctx, r, true, o)
	if err != nil {
		return nil, err
	}
	return &Maintenance{repo: r, lock: lock}, nil
}

// Close releases the lock.
func (m *Maintenance) Close(ctx context.Context) error {
	if err := m.lock.unlock(ctx); err != nil {
		return fmt.Errorf("release the repository's lock: %w", err)
	}
	return nil
}

// Held is a shared lock: while it is held nobody removes from the repository.
type Held struct{ lock *heldLock }

// Hold takes a shared lock. Close what it returns in any case. Error: *LockedError.
func Hold(ctx context.Context, r *Repo) (*Held, error) {
	lock, err := takeLock(ctx, r, false, LockOptions{Patience: lockPatience})
	if err != nil {
		return nil, err
	}
	return &Held{lock: lock}, nil
}

// Verify makes sure that nobody could remove so far. Error: ErrLockLost.
func (h *Held) Verify(ctx context.Context) error { return h.lock.verify(ctx) }

// Close releases the lock.
func (h *Held) Close(ctx context.Context) error { return h.lock.unlock(ctx) }

// SnapshotIDs returns the ids of all snapshots, without reading them.
func SnapshotIDs(ctx context.Context, r *Repo) ([]ID, error) {
	ids, err := r.listIDs(ctx, snapshotDir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return ids, nil
}
