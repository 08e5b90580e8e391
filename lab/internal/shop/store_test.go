package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testStore is the contract of every store; open is called again for each start.
func testStore(t *testing.T, open func(t *testing.T) Store) {
	ctx := t.Context()
	s := open(t)
	sum, err := s.Summary(ctx)
	if err != nil || sum.DataID == "" || sum.Orders != 0 {
		t.Fatalf("a new store: %+v, %v", sum, err)
	}
	first, err := s.Add(ctx, "east", Request{ID: "one", Item: "bread", Quantity: 2})
	if err != nil || first.Sequence != 1 || first.Site != "east" {
		t.Fatalf("first order: %+v, %v", first, err)
	}
	again, err := s.Add(ctx, "west", Request{ID: "one", Item: "bread", Quantity: 2})
	if err != nil || again != first {
		t.Fatalf("the same order again: %+v, %v; want %+v", again, err, first)
	}
	if _, err := s.Add(ctx, "east", Request{ID: "one", Item: "bread", Quantity: 3}); !errors.Is(err, ErrDifferent) {
		t.Fatalf("the same id for another order: %v", err)
	}
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			if _, err := s.Add(ctx, "east", Request{ID: fmt.Sprint("p", n/2), Item: "eggs", Quantity: 6}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkStore(t, s, sum.DataID, first)
	if err := s.Writable(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, "none"); !errors.Is(err, ErrNoOrder) {
		t.Errorf("an order that is not there: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Add(ctx, "east", Request{ID: "late", Item: "x", Quantity: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("order to a closed store: %v", err)
	}
	s = open(t)
	checkStore(t, s, sum.DataID, first)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func checkStore(t *testing.T, s Store, dataID string, first Order) {
	t.Helper()
	ctx := t.Context()
	all, err := s.List(ctx, 0, 0)
	if err != nil || len(all) != 26 {
		t.Fatalf("%d orders, %v; want 26", len(all), err)
	}
	for i, o := range all {
		if o.Sequence != int64(i+1) {
			t.Fatalf("order %d has sequence %d", i, o.Sequence)
		}
	}
	if got := all[0]; !got.AcknowledgedAt.Equal(first.AcknowledgedAt) || got.ID != first.ID {
		t.Fatalf("first order is %+v, was acknowledged as %+v", got, first)
	}
	page, err := s.List(ctx, 10, 5)
	if err != nil || len(page) != 5 || page[0].Sequence != 11 {
		t.Fatalf("page after 10: %+v, %v", page, err)
	}
	sum, err := s.Summary(ctx)
	if err != nil || sum != (Summary{DataID: dataID, Orders: 26, LastSequence: 26}) {
		t.Fatalf("summary %+v, %v; want data %s", sum, err, dataID)
	}
}

func TestFileStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testStore(t, func(t *testing.T) Store {
		s, err := OpenFileStore(t.Context(), dir, time.Now, quiet())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestFileStoreHasOneOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenFileStore(t.Context(), dir, time.Now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := OpenFileStore(short, dir, time.Now, quiet()); err == nil {
		t.Fatal("two stores share a directory")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFileStoreNoticesReplacedData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenFileStore(t.Context(), dir, time.Now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := filepath.Join(dir, logName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context()); !errors.Is(err, ErrBroken) {
		t.Fatalf("log replaced underneath: %v", err)
	}
}

func TestGateKeepsRestoredDataWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	marker := filepath.Join(dir, RestoringMarker)
	if err := errors.Join(os.MkdirAll(filepath.Dir(marker), 0o755), os.WriteFile(marker, []byte("{}"), 0o644)); err != nil {
		t.Fatal(err)
	}
	g := newGate(dir, func(ctx context.Context) (Store, error) { return OpenFileStore(ctx, dir, time.Now, quiet()) }, time.Now, quiet())
	if _, err := g.get(t.Context()); !errors.Is(err, ErrRestoring) {
		t.Fatalf("restore under way: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, logName)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a store was made while a restore was under way: %v", err)
	}
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	s, err := g.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(marker, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := g.get(t.Context()); !errors.Is(err, ErrRestoring) {
		t.Fatalf("restore began again: %v", err)
	}
	if _, err := s.Add(t.Context(), "east", Request{ID: "x", Item: "x", Quantity: 1}); !errors.Is(err, ErrClosed) {
		t.Fatalf("an order during a restore: %v", err)
	}
}
