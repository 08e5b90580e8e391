package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	lockStale   = 30 * time.Minute // as the format says
	lockRefresh = 5 * time.Minute
	lockLook    = 30 * time.Second // between two looks at the own lock, and for one refresh
	// lockGiveUp is the age at which a lock that could not be refreshed counts as lost: what runs under
	// it has stopped before others may take it for stale.
	lockGiveUp = lockStale - lockRefresh*3/2

	lockPatience = 2 * time.Minute // of those who add; a prune that takes longer is worth an error
	lockPoll     = 200 * time.Millisecond
	lockPollMost = 5 * time.Second
)

// ErrLockLost: the lock under which the work ran can no longer be relied on.
var ErrLockLost = errors.New("the repository's lock was lost")

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

// LockedError says who holds the repository, in a way that leaves no room for us.
type LockedError struct {
	Hostname, Username string
	PID                int
	Since              time.Time
	Exclusive          bool
}

func (e *LockedError) Error() string {
	how := "in use"
	if e.Exclusive {
		how = "locked"
	}
	return fmt.Sprintf("repository is %s by %s@%s, process %d, since %s",
		how, e.Username, e.Hostname, e.PID, e.Since.UTC().Format(time.RFC3339))
}

// LockOptions say how long to wait for others; the zero value does not wait.
type LockOptions struct {
	Patience time.Duration
	// Waiting is told for whom, once for each holder.
	Waiting func(*LockedError)
}

// heldLock tells other programs what they may not do meanwhile: remove while we add, or anything at all
// while we remove.
type heldLock struct {
	repo      *Repo
	exclusive bool
	stop      chan struct{}
	done      sync.WaitGroup

	mu    sync.Mutex
	names []string  // written and not removed again; the last one counts
	fresh time.Time // of the last one, by the wall clock, which goes on while a machine sleeps
	lost  error     // why it cannot be relied on any more
	bound map[int]context.CancelCauseFunc
	next  int
}

// takeLock writes a lock and keeps it fresh until unlock. It waits for others as long as the options
// say. Error: *LockedError.
func takeLock(ctx context.Context, r *Repo, exclusive bool, o LockOptions) (*heldLock, error) {
	began := time.Now()
	var last LockedError
	for pause := lockPoll; ; pause = min(2*pause, lockPollMost) {
		l, err := tryLock(ctx, r, exclusive)
		var locked *LockedError
		if !errors.As(err, &locked) || time.Since(began) >= o.Patience {
			return l, err
		}
		if o.Waiting != nil && (locked.Hostname != last.Hostname || locked.PID != last.PID) {
			o.Waiting(locked)
		}
		last = *locked
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock: %w: %w", context.Cause(ctx), locked)
		// By chance, so that two who wait for each other do not meet again.
		case <-time.After(min(pause/2+rand.N(pause), max(o.Patience-time.Since(began), 0))):
		}
	}
}

func tryLock(ctx context.Context, r *Repo, exclusive bool) (*heldLock, error) {
	if _, err := checkLocks(ctx, r, exclusive, ""); err != nil {
		return nil, err
	}
	l := &heldLock{repo: r, exclusive: exclusive, stop: make(chan struct{}), bound: map[int]context.CancelCauseFunc{}}
	if err := l.write(ctx); err != nil {
		return nil, fmt.Errorf("lock repository: %w", err)
	}
	// Whoever locks writes first and looks then, as we do: one of the two sees the other.
	stale, err := checkLocks(ctx, r, exclusive, l.names[0])
	if err == nil {
		// A holder that was only asleep finds its lock gone, and what it did in vain.
		err = removeAll(ctx, r.store, stale)
	}
	if err != nil {
		return nil, errors.Join(err, l.remove(ctx))
	}
	l.done.Go(func() { l.keepFresh(context.WithoutCancel(ctx)) })
	return l, nil
}

// removeAll deletes objects that only stand in the way; that the store keeps them is no failure.
func removeAll(ctx context.Context, store blob.Store, names []string) error {
	for _, name := range names {
		if err := store.Delete(ctx, name); err != nil && !errors.Is(err, blob.ErrRetained) {
			return err
		}
	}
	return nil
}

// write adds a new lock object.
func (l *heldLock) write(ctx context.Context) error {
	f := lockFile{Time: l.repo.now(), Exclusive: l.exclusive, PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	f.Hostname, f.Username = origin()
	id, _, err := l.repo.saveJSON(ctx, locksDir, f)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = append(l.names, locksDir+id.String())
	l.fresh = f.Time.Round(0)
	return nil
}

// refresh puts a new lock object in the place of the one before. Error: ErrLockLost, when somebody
// removed that.
func (l *heldLock) refresh(ctx context.Context) error {
	if err := l.there(ctx); err != nil {
		return err
	}
	if err := l.write(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	old := l.names[:len(l.names)-1]
	l.mu.Unlock()
	if err := removeAll(ctx, l.repo.store, old); err != nil {
		return err // they are removed the next time, or at the end
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = l.names[len(l.names)-1:]
	return nil
}

// there asks the store for the lock. Error: ErrLockLost.
func (l *heldLock) there(ctx context.Context) error {
	l.mu.Lock()
	name := l.names[len(l.names)-1]
	l.mu.Unlock()
	_, err := l.repo.store.Stat(ctx, name)
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%w: somebody took it for stale, and may have removed what was relied on", ErrLockLost)
	}
	if err != nil {
		return fmt.Errorf("look at the own lock: %w", err)
	}
	return nil
}

func (l *heldLock) keepFresh(ctx context.Context) {
	tick := time.NewTicker(lockLook)
	defer tick.Stop()
	last := errors.New("no refresh was due before, which is so when the machine slept")
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		age := l.age()
		if age < lockRefresh {
			continue
		}
		if age > lockGiveUp {
			l.lose(fmt.Errorf("%w: it could not be refreshed for %v: %w", ErrLockLost, age.Round(time.Second), last))
			return
		}
		try, cancel := context.WithTimeoutCause(ctx, lockLook, fmt.Errorf("the store did not answer for %v", lockLook))
		last = l.refresh(try)
		cancel()
		if errors.Is(last, ErrLockLost) {
			l.lose(last)
			return
		}
	}
}

func (l *heldLock) age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.repo.now().Round(0).Sub(l.fresh)
}

// lose ends what runs under the lock.
func (l *heldLock) lose(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = why
	for _, cancel := range l.bound {
		cancel(why)
	}
}

// err says why the lock cannot be relied on, nil when it can.
func (l *heldLock) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// bind returns a context that ends when the lock is lost; call release in any case.
func (l *heldLock) bind(ctx context.Context) (bound context.Context, release func()) {
	bound, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		cancel(l.lost)
		return bound, func() {}
	}
	n := l.next
	l.next++
	l.bound[n] = cancel
	return bound, func() {
		l.mu.Lock()
		delete(l.bound, n)
		l.mu.Unlock()
		cancel(nil)
	}
}

// verify makes sure that nobody has taken the lock for stale: neither by its age, nor in fact.
func (l *heldLock) verify(ctx context.Context) error {
	if err := l.err(); err != nil {
		return err
	}
	if age := l.age(); age > lockGiveUp {
		return fmt.Errorf("%w: it was not refreshed for %v", ErrLockLost, age.Round(time.Second))
	}
	return l.there(ctx)
}

func (l *heldLock) unlock(ctx context.Context) error {
	close(l.stop)
	l.done.Wait()
	return l.remove(ctx)
}

// remove takes the lock's objects away. Even a cancelled holder does that, within bounds.
func (l *heldLock) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return removeAll(ctx, l.repo.store, l.names)
}

// checkLocks returns a *LockedError when somebody else holds the repository exclusively, or, for who
// wants it exclusively, at all; else the locks that are stale.
func checkLocks(ctx context.Context, r *Repo, exclusive bool, own string) (stale []string, err error) {
	err = eachLock(ctx, r, func(name string, f lockFile) error {
		switch {
		case name == own:
		case f.stale(r.now()):
			stale = append(stale, name)
		case f.Exclusive || exclusive:
			return &LockedError{Hostname: f.Hostname, Username: f.Username, PID: f.PID, Since: f.Time, Exclusive: f.Exclusive}
		}
		return nil
	})
	return stale, err
}

func eachLock(ctx context.Context, r *Repo, fn func(name string, f lockFile) error) error {
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
		if err := fn(locksDir+id.String(), f); err != nil {
			return err
		}
	}
	return nil
}

// Unlock removes stale locks: older than 30 minutes, or of a process of this machine that is no more.
// Others are left, and returned.
func Unlock(ctx context.Context, r *Repo) (removed int, held []LockedError, err error) {
	var stale []string
	err = eachLock(ctx, r, func(name string, f lockFile) error {
		if f.stale(r.now()) {
			stale = append(stale, name)
		} else {
			held = append(held, LockedError{Hostname: f.Hostname, Username: f.Username, PID: f.PID, Since: f.Time, Exclusive: f.Exclusive})
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	for _, name := range stale {
		if err := r.store.Delete(ctx, name); err != nil {
			return removed, held, fmt.Errorf("remove a stale lock: %w", err)
		}
		removed++
	}
	return removed, held, nil
}
