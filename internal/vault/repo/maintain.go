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
