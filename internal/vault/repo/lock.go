package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	lockStale   = 30 * time.Minute // as the format says
	lockRefresh = 5 * time.Minute
)

// lockFile is an object below locks/.
type lockFile struct {
	Time      time.Time `json:"time"`
	Exclusive bool      `json:"exclusive"`
	Hostname  string    `json:"hostname"`
	Username  string    `json:"username"`
	PID       int       `json:"pid"`
	UID       uint32    `json:"uid,omitempty"`
	GID       uint32    `json:"gid,omitempty"`
}

// LockedError says who holds the repository for itself.
type LockedError struct {
	Hostname, Username string
	PID                int
	Since              time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("repository is locked by %s@%s, process %d, since %s",
		e.Username, e.Hostname, e.PID, e.Since.UTC().Format(time.RFC3339))
}

// sharedLock tells programs that remove data that somebody is adding.
type sharedLock struct {
	repo *Repo
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	name string
}

// lockShared writes a lock and keeps it fresh until unlock. Error: *LockedError.
func lockShared(ctx context.Context, r *Repo) (*sharedLock, error) {
	if err := checkLocks(ctx, r); err != nil {
		return nil, err
	}
	l := &sharedLock{repo: r, stop: make(chan struct{})}
	if err := l.write(ctx); err != nil {
		return nil, fmt.Errorf("lock repository: %w", err)
	}
	// Whoever locks exclusively writes first and looks then, as we do: one of the two sees the other.
	if err := checkLocks(ctx, r); err != nil {
		return nil, errors.Join(err, r.store.Delete(ctx, l.name))
	}
	l.done.Go(func() { l.keepFresh(context.WithoutCancel(ctx)) })
	return l, nil
}

// write puts a new lock object in the place of the one before.
func (l *sharedLock) write(ctx context.Context) error {
	f := lockFile{Time: l.repo.now(), PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	f.Hostname, f.Username = origin()
	id, _, err := l.repo.saveJSON(ctx, locksDir, f)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.name
	l.name = locksDir + id.String()
	if old == "" {
		return nil
	}
	return l.repo.store.Delete(ctx, old)
}

func (l *sharedLock) keepFresh(ctx context.Context) {
	tick := time.NewTicker(lockRefresh)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			// A refresh that fails is tried again at the next tick: five of them fit before the lock is stale.
			try, cancel := context.WithTimeout(ctx, lockRefresh)
			_ = l.write(try)
			cancel()
		}
	}
}

func (l *sharedLock) unlock(ctx context.Context) error {
	close(l.stop)
	l.done.Wait()
	// Even a cancelled writer takes its lock away, within bounds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return l.repo.store.Delete(ctx, l.name)
}

// checkLocks returns a *LockedError when somebody holds the repository exclusively.
func checkLocks(ctx context.Context, r *Repo) error {
	ids, err := r.listIDs(ctx, locksDir)
	if err != nil {
		return fmt.Errorf("look for locks: %w", err)
	}
	for _, id := range ids {
		var f lockFile
		err := r.loadJSON(ctx, locksDir, id, &f)
		if errors.Is(err, blob.ErrNotFound) {
			continue // released meanwhile
		}
		if err != nil {
			return fmt.Errorf("look for locks: %w", err)
		}
		if f.Exclusive && !f.stale(r.now()) {
			return &LockedError{Hostname: f.Hostname, Username: f.Username, PID: f.PID, Since: f.Time}
		}
	}
	return nil
}

// stale follows the format: older than 30 minutes, or of a process of this machine that is no more.
func (f lockFile) stale(now time.Time) bool {
	if now.Sub(f.Time) > lockStale {
		return true
	}
	if hostname, _ := origin(); hostname != f.Hostname {
		return false
	}
	return errors.Is(syscall.Kill(f.PID, 0), syscall.ESRCH)
}
