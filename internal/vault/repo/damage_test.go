package repo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// TestCheckFindsDamage damages a repository in one way at a time.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	remove := func(t *testing.T, store blob.Store, dir string) {
		for info := range store.List(t.Context(), dir) {
			if err := store.Delete(t.Context(), info.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	flipAll := func(t *testing.T, store blob.Store, dir string) {
		for info := range store.List(t.Context(), dir) {
			flip(t, store, info.Name, 30)
		}
	}
	for _, c := range []struct {
		name     string
		damage   func(t *testing.T, store blob.Store)
		readData bool
		says     string
	}{
		{"missing packs", func(t *testing.T, s blob.Store) { remove(t, s, dataDir) }, false, "data/"},
		{"a bit of each pack", func(t *testing.T, s blob.Store) { flipAll(t, s, dataDir) }, true, "another hash"},
		{"a cut pack", cutPack, false, "bytes, want"},
		{"a missing index", func(t *testing.T, s blob.Store) { remove(t, s, indexDir) }, false, "not in the repository"},
		{"a bit of the index", func(t *testing.T, s blob.Store) { flipAll(t, s, indexDir) }, false, "index/"},
		{"a bit of the snapshot", func(t *testing.T, s blob.Store) { flipAll(t, s, snapshotDir) }, false, "snapshots/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := smallRepo(t)
			c.damage(t, store)
			report, err := reopen(t, store).Check(t.Context(), CheckOptions{ReadData: c.readData})
			if err != nil {
				t.Fatal(err)
			}
			if found := strings.Join(report.Problems, "\n"); !strings.Contains(found, c.says) {
				t.Errorf("found %q, want something that says %q", found, c.says)
			}
		})
	}
}

// smallRepo is a store with a repository of one snapshot.
func smallRepo(t *testing.T) blob.Store {
	t.Helper()
	r, store := newTestRepo(t)
	s := newSaver(t, r)
	result, err := saveDocuments(t.Context(), s, docs(50))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: result.Tree}); err != nil {
		t.Fatal(err)
	}
	return store
}

func cutPack(t *testing.T, store blob.Store) {
	t.Helper()
	for info := range store.List(t.Context(), dataDir) {
		o, err := store.Get(t.Context(), info.Name, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(t.Context(), info.Name, o.Data[:len(o.Data)-9], blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// failingStore lets a number of writes through and fails then, as a crash does.
type failingStore struct {
	blob.Store
	mu   sync.Mutex
	left int
}

var errCrash = errors.New("crashed")

func (s *failingStore) Put(ctx context.Context, name string, data []byte, c blob.Condition) (blob.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return "", errCrash
	}
	s.left--
	return s.Store.Put(ctx, name, data, c)
}

func (s *failingStore) Delete(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return errCrash
	}
	s.left--
	return s.Store.Delete(ctx, name)
}

// TestCrashAtEveryWrite ends a backup at each of its writes. Whatever is left is a sound repository in
// which the earlier snapshot is whole, and a later backup ends well.
func TestCrashAtEveryWrite(t *testing.T) {
	t.Parallel()
	save := func(ctx context.Context, r *Repo, n, size int) error {
		s, err := r.NewSaver(ctx)
		if err != nil {
			return err
		}
		_, _, err = s.SaveData(ctx, bytes.NewReader(noise(uint64(n), size)))
		if err == nil {
			var result documentsResult
			if result, err = saveDocuments(ctx, s, docs(n)); err == nil {
				_, err = s.SaveSnapshot(ctx, Snapshot{Tree: result.Tree})
			}
		}
		return errors.Join(err, s.Close(ctx))
	}
	for writes := 0; ; writes++ {
		r, store := newTestRepo(t)
		if err := save(t.Context(), r, 10, 1<<20); err != nil {
			t.Fatal(err)
		}
		failing := &failingStore{Store: store, left: writes}
		err := save(t.Context(), reopen(t, failing), 40, packSize+1<<20)
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		after := reopen(t, store)
		want := sound(t, after).Snapshots
		if want < 1 || want > 2 || err == nil && want != 2 {
			t.Fatalf("after %d writes: %d snapshots", writes, want)
		}
		if err := save(t.Context(), after, 60, 1<<20); err != nil {
			t.Fatalf("a backup after the crash: %v", err)
		}
		if got := sound(t, reopen(t, store)).Snapshots; got != want+1 {
			t.Errorf("after %d writes: %d snapshots, want %d", writes, got, want+1)
		}
		if err == nil {
			if writes < 5 {
				t.Errorf("only %d writes", writes)
			}
			return
		}
	}
}
