package repo

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

func count(t testing.TB, store blob.Store, dir string) int {
	t.Helper()
	n := 0
	for _, err := range store.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func putLock(t testing.TB, r *Repo, f lockFile) {
	t.Helper()
	if _, _, err := r.saveJSON(t.Context(), locksDir, f); err != nil {
		t.Fatal(err)
	}
}

func TestSharedLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := newTestRepo(t)
		host, _ := origin()
		now := time.Now()
		for _, f := range []lockFile{
			{Time: now, Hostname: "elsewhere", Username: "ann", PID: 7},
			{Time: now.Add(-31 * time.Minute), Hostname: "elsewhere", Exclusive: true, PID: 7},
			{Time: now, Hostname: host, Exclusive: true, PID: 1<<22 - 3}, // more than any process id
		} {
			putLock(t, r, f)
		}
		s, err := r.NewSaver(t.Context())
		if err != nil {
			t.Fatalf("shared and stale locks: %v", err)
		}
		if n := count(t, store, locksDir); n != 2 {
			t.Errorf("%d locks while saving, want ann's and ours: stale ones are taken away", n)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := count(t, store, locksDir); n != 1 {
			t.Errorf("%d locks afterwards, want ann's", n)
		}
		putLock(t, r, lockFile{Time: now, Hostname: "elsewhere", Username: "ann", Exclusive: true, PID: 7})
		began := time.Now()
		var locked *LockedError
		if _, err := r.NewSaver(t.Context()); !errors.As(err, &locked) || locked.Username != "ann" || locked.PID != 7 {
			t.Errorf("exclusive lock: %v", err)
		}
		if waited := time.Since(began); waited < lockPatience || waited > lockPatience+lockPollMost {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestExclusiveLocks: whoever wants the repository for itself waits for everybody, by name.
func TestExclusiveLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := newTestRepo(t)
		s, err := r.NewSaver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var locked *LockedError
		if _, err := Maintain(t.Context(), r, LockOptions{}); !errors.As(err, &locked) || locked.Exclusive || !strings.Contains(err.Error(), "in use by") {
			t.Errorf("while somebody adds: %v", err)
		}
		waited := 0
		go func() {
			time.Sleep(time.Minute)
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		m, err := Maintain(t.Context(), r, LockOptions{Patience: 2 * time.Minute, Waiting: func(*LockedError) { waited++ }})
		if err != nil || waited != 1 {
			t.Fatalf("%v, told %d times", err, waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.NewSaver(ctx); !errors.As(err, &locked) || !locked.Exclusive || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("adding while somebody removes: %v", err)
		}
		if _, err := Maintain(t.Context(), r, LockOptions{}); !errors.As(err, &locked) {
			t.Errorf("two who remove: %v", err)
		}
		time.Sleep(2 * time.Hour) // it stays fresh
		if err := m.lock.verify(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := Maintain(t.Context(), r, LockOptions{}); !errors.As(err, &locked) {
			t.Errorf("two hours later: %v", err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n := count(t, store, locksDir); n != 0 {
			t.Errorf("%d locks are left", n)
		}
	})
}

// TestOneExclusiveLockAtATime lets many want it at once.
func TestOneExclusiveLockAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, store := newTestRepo(t)
		var held atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				r := reopen(t, store)
				l, err := takeLock(t.Context(), r, i%4 != 0, LockOptions{Patience: time.Hour})
				if err != nil {
					t.Error(err)
					return
				}
				weight := int32(1)
				if l.exclusive {
					weight = 100
				}
				if now := held.Add(weight); now > 99 && now != 100 {
					t.Errorf("somebody else holds it too: %d", now)
				}
				time.Sleep(time.Second)
				held.Add(-weight)
				if err := l.unlock(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

// stubbornStore refuses what the test says.
type stubbornStore struct {
	blob.Store
	refusePut    func(name string) error
	refuseDelete func(name string) error
}

func (s *stubbornStore) Put(ctx context.Context, name string, data []byte, c blob.Condition) (blob.Version, error) {
	if s.refusePut != nil {
		if err := s.refusePut(name); err != nil {
			return "", err
		}
	}
	return s.Store.Put(ctx, name, data, c)
}

func (s *stubbornStore) Delete(ctx context.Context, name string) error {
	if s.refuseDelete != nil {
		if err := s.refuseDelete(name); err != nil {
			return err
		}
	}
	return s.Store.Delete(ctx, name)
}

// TestALockThatCannotBeRefreshedEndsTheWork before others may take it for stale.
func TestALockThatCannotBeRefreshedEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, store := newTestRepo(t)
		down := atomic.Bool{}
		r := reopen(t, &stubbornStore{Store: store, refusePut: func(string) error {
			if down.Load() {
				return errors.New("the store is down")
			}
			return nil
		}})
		s, err := r.NewSaver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		bound, release := s.lock.bind(t.Context())
		defer release()
		time.Sleep(20 * time.Minute)
		if bound.Err() != nil {
			t.Fatalf("given up after 20 minutes already: %v", context.Cause(bound))
		}
		<-bound.Done()
		if err := context.Cause(bound); !errors.Is(err, ErrLockLost) || !strings.Contains(err.Error(), "the store is down") {
			t.Errorf("the work ended with %v", err)
		}
		if age := s.lock.age(); age > lockStale-5*time.Minute {
			t.Errorf("ended when the lock was %v old", age)
		}
		down.Store(false)
		if _, err := s.SaveTree(t.Context(), &Tree{}); !errors.Is(err, ErrLockLost) {
			t.Errorf("a save afterwards: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestASleeperFindsItsLockGone: a machine that slept, or whose clock is far off, is taken for dead; what
// it saved is not believed.
func TestASleeperFindsItsLockGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := newTestRepo(t)
		s, err := r.NewSaver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tree, err := s.SaveTree(t.Context(), &Tree{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		ahead := reopen(t, store)
		ahead.now = func() time.Time { return time.Now().Add(time.Hour) }
		m, err := Maintain(t.Context(), ahead, LockOptions{})
		if err != nil {
			t.Fatalf("a lock that looks an hour old: %v", err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: tree}); !errors.Is(err, ErrLockLost) {
			t.Errorf("a snapshot without a lock: %v", err)
		}
		if n := count(t, store, snapshotDir); n != 0 {
			t.Errorf("%d snapshots", n)
		}
		time.Sleep(lockRefresh + lockLook) // the refresh sees it too
		if err := s.lock.err(); !errors.Is(err, ErrLockLost) {
			t.Errorf("after a refresh: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestUnlockRemovesStaleLocksAlone(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	putLock(t, r, lockFile{Time: time.Now(), Hostname: "elsewhere", Username: "ann", PID: 7})
	putLock(t, r, lockFile{Time: time.Now().Add(-time.Hour), Hostname: "elsewhere", PID: 8, Exclusive: true})
	removed, held, err := Unlock(t.Context(), r)
	if err != nil || removed != 1 || len(held) != 1 || held[0].PID != 7 {
		t.Errorf("removed %d, left %v, %v", removed, held, err)
	}
	if n := count(t, store, locksDir); n != 1 {
		t.Errorf("%d locks", n)
	}
}
