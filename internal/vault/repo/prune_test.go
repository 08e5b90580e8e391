package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// someDocs are documents of which those numbered from..to are there; what two of these share is stored once.
func someDocs(from, to int) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		for i := from; i < to; i++ {
			if !yield(Document{Path: fmt.Sprintf("dir%d/%d", i%5, i), Data: noise(uint64(i), 200+i%7*3000)}, nil) {
				return
			}
		}
	}
}

func saveDocs(ctx context.Context, r *Repo, from, to int) (ID, error) {
	s, err := r.NewSaver(ctx)
	if err != nil {
		return ID{}, err
	}
	result, err := saveDocuments(ctx, s, someDocs(from, to))
	if err != nil {
		return ID{}, errors.Join(err, s.Close(ctx))
	}
	id, err := s.SaveSnapshot(ctx, Snapshot{Tree: result.Tree})
	return id, errors.Join(err, s.Close(ctx))
}

func mustSave(t testing.TB, r *Repo, from, to int) ID {
	t.Helper()
	id, err := saveDocs(t.Context(), r, from, to)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// holds reads a snapshot back and compares it.
func holds(t testing.TB, r *Repo, id ID, from, to int) {
	t.Helper()
	snap, err := r.LoadSnapshot(t.Context(), id.String())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	err = r.WalkDocuments(t.Context(), snap.Tree, func(path string, data []byte) error {
		got[path] = bytes.Clone(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for d := range someDocs(from, to) {
		if !bytes.Equal(got[d.Path], d.Data) {
			t.Fatalf("%s has other bytes", d.Path)
		}
		delete(got, d.Path)
	}
	if len(got) > 0 {
		t.Errorf("there is more than was saved: %v", slices.Collect(maps.Keys(got)))
	}
}

func prune(t testing.TB, r *Repo, o PruneOptions, without ...ID) *PruneReport {
	t.Helper()
	m := maintain(t, r)
	defer closed(t, m)
	if _, err := m.RemoveSnapshots(t.Context(), without); err != nil {
		t.Fatal(err)
	}
	report, err := m.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func stored(t testing.TB, store blob.Store, dir string) (n int, size int64) {
	t.Helper()
	for info, err := range store.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		size += info.Size
	}
	return n, size
}

func TestPruneRemovesWhatNoSnapshotNeeds(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	old := mustSave(t, r, 0, 600)
	kept := mustSave(t, r, 300, 900)
	last := mustSave(t, r, 900, 910)
	// What a writer left that crashed before its index.
	if _, err := store.Put(t.Context(), packName(hash([]byte("x"))), []byte("half a backup"), blob.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	_, before := stored(t, store, dataDir)
	plan, err := PlanPrune(t.Context(), r, PruneOptions{}, []ID{old})
	if err != nil {
		t.Fatal(err)
	}
	if _, now := stored(t, store, dataDir); now != before {
		t.Error("a plan changed something")
	}
	report := prune(t, r, PruneOptions{}, old)
	if report.UsedBlobs != plan.UsedBlobs || report.RewrittenPacks != plan.RewrittenPacks || report.RemovedPacks != plan.RemovedPacks || report.RemovedBytes != plan.RemovedBytes {
		t.Errorf("did  %+v\nplan %+v", report, plan)
	}
	if report.Snapshots != 2 || report.RewrittenPacks == 0 || report.RemovedPacks < report.RewrittenPacks+1 {
		t.Errorf("%+v", report)
	}
	_, after := stored(t, store, dataDir)
	if want := before - report.RemovedBytes + report.AddedBytes; after != want || after > before*3/4 {
		t.Errorf("%d bytes before, %d after, want %d", before, after, want)
	}
	if found := sound(t, reopen(t, store)); found.Unused != 0 || found.Blobs != report.UsedBlobs {
		t.Errorf("%+v", found)
	}
	holds(t, r, kept, 300, 900) // by who knows the index of before
	holds(t, reopen(t, store), last, 900, 910)
	mustSave(t, r, 0, 600)
	sound(t, r)
	if again := prune(t, r, PruneOptions{}); again.RemovedPacks != 0 || again.RewrittenPacks != 0 {
		t.Errorf("nothing was to be done: %+v", again)
	}
}

func TestPruneBearsALittleWaste(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	old := mustSave(t, r, 0, 400)
	mustSave(t, r, 8, 400)
	if report := prune(t, r, PruneOptions{MaxUnused: 0.1}, old); report.RewrittenPacks != 0 || report.UnusedBytes == 0 {
		t.Errorf("2 %% of waste: %+v", report)
	}
	if report := prune(t, r, PruneOptions{}); report.RewrittenPacks == 0 || report.UnusedBytes != 0 {
		t.Errorf("when none is borne: %+v", report)
	}
	sound(t, r)
}

// TestPrunePutsSmallPacksTogether: a checkpoint every few seconds leaves thousands of small objects.
func TestPrunePutsSmallPacksTogether(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	const n = 20
	var ids []ID
	for i := range n {
		ids = append(ids, mustSave(t, r, 0, 10+i))
	}
	prune(t, r, PruneOptions{MaxUnused: 0.05})
	if packs, _ := stored(t, store, dataDir); packs > 4 {
		t.Errorf("%d packs are left", packs)
	}
	if indexes, _ := stored(t, store, indexDir); indexes > 2 {
		t.Errorf("%d index objects are left", indexes)
	}
	sound(t, r)
	for i, id := range ids {
		holds(t, r, id, 0, 10+i)
	}
}

func TestCompactIndex(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	for i := range 5 {
		mustSave(t, r, 10*i, 10*i+10)
	}
	packs, _ := stored(t, store, dataDir)
	m := maintain(t, r)
	n, err := m.CompactIndex(t.Context())
	closed(t, m)
	if err != nil || n != 1 {
		t.Errorf("%d index objects, %v", n, err)
	}
	if now, _ := stored(t, store, dataDir); now != packs {
		t.Error("packs were touched")
	}
	if is, _ := stored(t, store, indexDir); is != 1 {
		t.Errorf("%d index objects are there", is)
	}
	sound(t, reopen(t, store))
}

// TestPruneOfADamagedRepositoryRemovesNothing, because what cannot be read says nothing of what is used.
func TestPruneOfADamagedRepositoryRemovesNothing(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, store blob.Store){
		"a missing pack":      func(t *testing.T, s blob.Store) { removeOne(t, s, dataDir) },
		"a missing index":     func(t *testing.T, s blob.Store) { removeOne(t, s, indexDir) },
		"a damaged snapshot":  func(t *testing.T, s blob.Store) { flipOne(t, s, snapshotDir) },
		"a damaged index":     func(t *testing.T, s blob.Store) { flipOne(t, s, indexDir) },
		"no snapshots at all": func(t *testing.T, s blob.Store) { removeOne(t, s, snapshotDir); removeOne(t, s, snapshotDir) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, store := newTestRepo(t)
			mustSave(t, r, 0, 50)
			mustSave(t, r, 30, 80)
			damage(t, store)
			before, _ := stored(t, store, "")
			m := maintain(t, reopen(t, store))
			report, err := m.Prune(t.Context(), PruneOptions{})
			closed(t, m)
			if name == "no snapshots at all" {
				if err != nil || report.RemovedPacks != 0 {
					t.Errorf("%+v, %v", report, err)
				}
			} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
			if after, _ := stored(t, store, ""); after != before {
				t.Errorf("%d objects, %d before", after, before)
			}
		})
	}
}

func first(t *testing.T, store blob.Store, dir string) string {
	t.Helper()
	for info, err := range store.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		return info.Name
	}
	t.Fatalf("nothing below %s", dir)
	return ""
}

func removeOne(t *testing.T, store blob.Store, dir string) {
	if err := store.Delete(t.Context(), first(t, store, dir)); err != nil {
		t.Fatal(err)
	}
}

func flipOne(t *testing.T, store blob.Store, dir string) { flip(t, store, first(t, store, dir), 30) }

// TestPruneCrashesAtEveryWrite: whatever is left is sound, what is to stay is whole, and the next prune
// ends well and leaves no more than one that was not disturbed.
func TestPruneCrashesAtEveryWrite(t *testing.T) {
	t.Parallel()
	build := func() (blob.Store, []ID) {
		r, store := newTestRepo(t)
		var ids []ID
		for _, span := range [][2]int{{0, 60}, {30, 90}, {85, 100}, {0, 10}, {5, 95}} {
			ids = append(ids, mustSave(t, r, span[0], span[1]))
		}
		return store, ids
	}
	work := func(ctx context.Context, r *Repo, ids []ID) error {
		m, err := Maintain(ctx, r, LockOptions{})
		if err != nil {
			return err
		}
		_, err = m.RemoveSnapshots(ctx, []ID{ids[0], ids[2]})
		if err == nil {
			_, err = m.Prune(ctx, PruneOptions{})
		}
		if err == nil {
			_, err = m.CompactIndex(ctx)
		}
		return errors.Join(err, m.Close(ctx))
	}
	for writes := 0; ; writes++ {
		store, ids := build()
		err := work(t.Context(), reopen(t, &failingStore{Store: store, left: writes}), ids)
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		removeLocks(t, store)
		after := reopen(t, store)
		sound(t, after)
		holds(t, after, ids[1], 30, 90)
		holds(t, after, ids[3], 0, 10)
		holds(t, after, ids[4], 5, 95)
		if crashed := err; crashed != nil {
			if err := work(t.Context(), after, ids); err != nil {
				t.Fatalf("a prune after the crash at write %d: %v", writes, err)
			}
		}
		found := sound(t, reopen(t, store))
		if indexes, _ := stored(t, store, indexDir); found.Snapshots != 3 || found.Unused != 0 || indexes != 1 {
			t.Errorf("after %d writes: %+v with %d index objects", writes, found, indexes)
		}
		if err == nil {
			if writes < 10 {
				t.Errorf("only %d writes", writes)
			}
			return
		}
	}
}

// removeLocks is what `unlock` does on the machine of a process that was killed.
func removeLocks(t testing.TB, store blob.Store) {
	t.Helper()
	for info, err := range store.List(t.Context(), locksDir) {
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Delete(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPruneWhereNothingCanBeDeleted: everything works, nothing grows, and what may go later goes then.
func TestPruneWhereNothingCanBeDeleted(t *testing.T) {
	t.Parallel()
	_, store := newTestRepo(t)
	var mu sync.Mutex
	keeps := func(name string) bool { return true }
	r := reopen(t, &stubbornStore{Store: store, refuseDelete: func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		if keeps(name) {
			return fmt.Errorf("delete %s: %w", name, blob.ErrRetained)
		}
		return nil
	}})
	old := mustSave(t, r, 0, 60)
	kept := mustSave(t, r, 30, 90)
	removeLocks(t, store) // they would keep us out for half an hour
	for range 12 {
		mustSave(t, r, 30, 91)
		removeLocks(t, store)
	}
	run := func(without ...ID) *PruneReport {
		m := maintain(t, r)
		if _, err := m.RemoveSnapshots(t.Context(), without); err != nil {
			t.Fatal(err)
		}
		report, err := m.Prune(t.Context(), PruneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		closed(t, m)
		removeLocks(t, store)
		return report
	}
	if report := run(old); report.RemovedPacks != 0 {
		t.Errorf("%+v", report)
	}
	// Snapshots can go, and nothing else.
	keeps = func(name string) bool { return !strings.HasPrefix(name, snapshotDir) }
	report := run(old)
	if report.RemovedPacks != 0 || report.Retained == 0 || report.RetainedBytes == 0 {
		t.Errorf("%+v", report)
	}
	objects, size := stored(t, store, "")
	for range 3 {
		run()
	}
	if n, now := stored(t, store, ""); n != objects || now != size {
		t.Errorf("three more prunes: %d objects of %d bytes, %d of %d before", n, now, objects, size)
	}
	sound(t, reopen(t, store))
	holds(t, reopen(t, store), kept, 30, 90)
	// Packs may go, the index not: a pack that an index names has to stay.
	keeps = func(name string) bool { return strings.HasPrefix(name, indexDir) }
	run()
	sound(t, reopen(t, store))
	holds(t, reopen(t, store), kept, 30, 90)
	// At last everything may go.
	keeps = func(string) bool { return false }
	if report := run(); report.Retained != 0 || report.RemovedPacks == 0 {
		t.Errorf("%+v", report)
	}
	found := sound(t, reopen(t, store))
	if found.Unused != 0 {
		t.Errorf("%+v", found)
	}
	holds(t, reopen(t, store), kept, 30, 90)
}

// TestASnapshotThatComesInSpiteOfTheLock: a writer that was taken for dead adds a snapshot between the
// survey and the removal. Nothing that it names is lost.
func TestASnapshotThatComesInSpiteOfTheLock(t *testing.T) {
	t.Parallel()
	_, store := newTestRepo(t)
	var late func()
	r := reopen(t, &stubbornStore{Store: store, refuseDelete: func(name string) error {
		if strings.HasPrefix(name, indexDir) && late != nil {
			f := late
			late = nil
			f()
		}
		return nil
	}})
	old := mustSave(t, r, 0, 60)
	mustSave(t, r, 50, 60)
	raw, err := store.Get(t.Context(), snapshotDir+old.String(), blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	late = func() {
		if _, err := store.Put(t.Context(), snapshotDir+old.String(), raw.Data, blob.IfAbsent()); err != nil {
			t.Error(err)
		}
	}
	m := maintain(t, r)
	if _, err := m.RemoveSnapshots(t.Context(), []ID{old}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Prune(t.Context(), PruneOptions{}); !errors.Is(err, ErrLockLost) {
		t.Errorf("got %v", err)
	}
	closed(t, m)
	sound(t, reopen(t, store))
	holds(t, reopen(t, store), old, 0, 60)
}

func TestPruneStopsWithItsLock(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	old := mustSave(t, r, 0, 60)
	mustSave(t, r, 50, 60)
	m := maintain(t, r)
	if _, err := m.RemoveSnapshots(t.Context(), []ID{old}); err != nil {
		t.Fatal(err)
	}
	removeLocks(t, store)
	before, _ := stored(t, store, dataDir)
	if _, err := m.Prune(t.Context(), PruneOptions{}); !errors.Is(err, ErrLockLost) {
		t.Errorf("got %v", err)
	}
	if after, _ := stored(t, store, dataDir); after < before {
		t.Errorf("%d packs, %d before", after, before)
	}
	closed(t, m)
	sound(t, r)
}

// TestPruneInLittleMemory measures what the ledger takes, in place of trusting a comment.
func TestPruneInLittleMemory(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	numbers := map[ID]uint32{}
	const n = 100_000
	f := &indexFile{}
	for i := range n / 1000 {
		p := indexPack{ID: hash([]byte{byte(i)})}
		for j := range 1000 {
			p.Blobs = append(p.Blobs, indexBlob{ID: hash(fmt.Appendf(nil, "%d %d", i, j)), Type: "data", Length: 100})
		}
		f.Packs = append(f.Packs, p)
	}
	if err := l.add(ID{}, f, numbers); err != nil {
		t.Fatal(err)
	}
	var e ledgerEntry
	if size := int(sizeOf(e)); size > 52 || len(l.entries) != n {
		t.Errorf("%d bytes for each of %d entries", size, len(l.entries))
	}
}

func TestStockResticAndOurPrune(t *testing.T) {
	t.Parallel()
	r, dir := newFileRepo(t)
	judge := newRestic(t, dir)
	old := mustSave(t, r, 0, 300)
	kept := mustSave(t, r, 200, 500)
	source := t.TempDir()
	makeSample(t, source)
	judge.run("backup", source, "--tag", "stock")
	report := prune(t, r, PruneOptions{}, old)
	if report.RewrittenPacks == 0 || report.RemovedPacks == 0 {
		t.Errorf("%+v", report)
	}
	judge.run("check", "--read-data")
	target := t.TempDir()
	judge.run("restore", "latest", "--tag", "stock", "--target", target)
	diff(t, describe(t, target+source), describe(t, source))
	holds(t, r, kept, 200, 500)

	// Its keys and ours.
	if _, err := AddKey(t.Context(), r, []byte("of a person")); err != nil {
		t.Fatal(err)
	}
	if listed := judge.run("key", "list"); strings.Count(listed, "\n") < 4 {
		t.Errorf("restic key list: %s", listed)
	}
	judge.env = append(judge.env, "RESTIC_PASSWORD=of a person")
	judge.run("snapshots")

	// While we add, it may add and may not remove; while we remove, it may do neither.
	s, err := r.NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	judge.run("backup", source, "--tag", "beside")
	for _, args := range [][]string{{"prune"}, {"forget", "--keep-last", "1", "--prune"}, {"rebuild-index"}} {
		if out, err := judge.try(args...); err == nil || !strings.Contains(err.Error(), "locked") {
			t.Errorf("restic %v while we save: %v\n%s", args, err, out)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := maintain(t, r)
	if out, err := judge.try("backup", source); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("restic backup while we remove: %v\n%s", err, out)
	}
	if n, err := m.CompactIndex(t.Context()); err != nil || n > 2 {
		t.Errorf("%d index objects, %v", n, err)
	}
	closed(t, m)
	judge.run("forget", "--keep-last", "1", "--prune")
	judge.run("check", "--read-data")
	sound(t, r)
}

// TestOurPruneOnAForeignRepository that the stock restic made, filled and forgot in.
func TestOurPruneOnAForeignRepository(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	judge := newRestic(t, dir)
	judge.run("init")
	source := t.TempDir()
	makeSample(t, source)
	judge.run("backup", source, "--tag", "first")
	writeFile(t, source+"/more", noise(5, 9<<20))
	judge.run("backup", source, "--tag", "second")
	removeFile(t, source+"/more")
	judge.run("backup", source, "--tag", "third")
	store, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := reopen(t, store)
	all, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var second []ID
	for _, s := range all {
		if slices.Contains(s.Tags, "second") {
			second = append(second, s.ID)
		}
	}
	report := prune(t, r, PruneOptions{}, second...)
	if report.RemovedBytes < 9<<20 || report.Snapshots != 2 {
		t.Errorf("%+v", report)
	}
	judge.run("check", "--read-data")
	target := t.TempDir()
	judge.run("restore", "latest", "--target", target)
	diff(t, describe(t, target+source), describe(t, source))
}

// TestManyWritersAndAPruner share one repository at the same time.
func TestManyWritersAndAPruner(t *testing.T) {
	t.Parallel()
	_, store := newTestRepo(t)
	var writers sync.WaitGroup
	var mu sync.Mutex
	saved := map[ID][2]int{}
	for w := range 4 {
		writers.Go(func() {
			r := reopen(t, store)
			for i := range 5 {
				from := (w*37 + i*11) % 100
				id := mustSave(t, r, from, from+40)
				mu.Lock()
				saved[id] = [2]int{from, from + 40}
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	pruner := reopen(t, store)
	for prunes := 0; ; prunes++ {
		m, err := Maintain(t.Context(), pruner, LockOptions{Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Prune(t.Context(), PruneOptions{}); err != nil {
			t.Error(err)
		}
		closed(t, m)
		select {
		case <-done:
			sound(t, pruner)
			for id, span := range saved {
				holds(t, pruner, id, span[0], span[1])
			}
			t.Logf("%d prunes beside 20 backups", prunes+1)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
