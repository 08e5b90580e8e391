package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// saveWithParent saves as if it were a while later, so that times tell.
func saveWithParent(t *testing.T, r *Repo, dir string, parent ID) (SaveDirResult, ID) {
	t.Helper()
	var opts SaveDirOptions
	if !parent.IsZero() {
		snap, err := r.snapshot(t.Context(), parent)
		if err != nil {
			t.Fatal(err)
		}
		opts.Parent = &snap
	}
	s := newSaver(t, r)
	result, err := s.SaveDir(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: result.Tree, Time: result.Started.Add(2 * settled)})
	if err != nil {
		t.Fatal(err)
	}
	return result, id
}

func TestUnchangedFilesAreNotReadAgain(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeEverything(t, source)
	r, store := newTestRepo(t)
	first, parent := saveWithParent(t, r, source, ID{})
	if first.Unchanged != 0 {
		t.Errorf("%d files of a first copy are unchanged", first.Unchanged)
	}
	second, parent2 := saveWithParent(t, reopen(t, store), source, parent)
	if second.Tree != first.Tree || second.Unchanged != first.Files || second.Files != first.Files || second.Bytes != first.Bytes {
		t.Errorf("the same directory: %+v, want all of %+v unchanged", second, first)
	}
	// Changes that size and time of modification do not show.
	path := filepath.Join(source, "many/200")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := noise(999, int(info.Size()))
	if err := errors.Join(os.WriteFile(path, changed, 0o600), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	// Another file under an old name, with all times that can be set.
	old := filepath.Join(source, "deep/a/b/c/d/file")
	if info, err = os.Stat(old); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(old+".new", []byte("daap"), 0o600), os.Chtimes(old+".new", info.ModTime(), info.ModTime()), os.Rename(old+".new", old)); err != nil {
		t.Fatal(err)
	}
	r = reopen(t, store)
	third, _ := saveWithParent(t, r, source, parent2)
	if third.Unchanged != first.Files-2 {
		t.Errorf("%d of %d files unchanged, want all but 2", third.Unchanged, first.Files)
	}
	target := t.TempDir()
	if _, err := r.RestoreDir(t.Context(), third.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describeAll(t, target), describeAll(t, source))
	sound(t, r)
}

// TestWhatChangedAsTheCopyBeganIsReadAgain: the clock's step may hide a later change.
func TestWhatChangedAsTheCopyBeganIsReadAgain(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "hot"), []byte("hot"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	first, err := s.SaveDir(t.Context(), source, SaveDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := s.SaveDir(t.Context(), source, SaveDirOptions{Parent: &Snapshot{Tree: first.Tree, Time: first.Started}})
	if err != nil || again.Unchanged != 0 || again.Tree != first.Tree {
		t.Errorf("%+v, %v; want the file read again", again, err)
	}
}

// TestAParentThatIsOfNoUse is gone, damaged, of something else, or names blobs that are not there.
func TestAParentThatIsOfNoUse(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeSample(t, source)
	r, _ := newTestRepo(t)
	first, parent := saveWithParent(t, r, source, ID{})
	documents, err := saveDocuments(t.Context(), newSaver(t, r), docs(3))
	if err != nil {
		t.Fatal(err)
	}
	other, otherStore := newTestRepo(t)
	later := first.Started.Add(time.Hour)
	for name, c := range map[string]struct {
		r    *Repo
		tree ID
	}{"gone": {r, hash([]byte("gone"))}, "documents": {r, documents.Tree}, "of another repository": {other, first.Tree}} {
		s := newSaver(t, c.r)
		got, err := s.SaveDir(t.Context(), source, SaveDirOptions{Parent: &Snapshot{Tree: c.tree, Time: later}})
		if err != nil || got.Unchanged != 0 || got.Files != first.Files || c.r == r && got.Tree != first.Tree {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The trees are known and the data is not: as after a repair.
	s := newSaver(t, other)
	for _, id := range treesBelow(t, r, first.Tree) {
		raw, err := r.LoadBlob(t.Context(), TreeBlob, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.saveSmall(t.Context(), TreeBlob, raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	snap, err := r.snapshot(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.SaveDir(t.Context(), source, SaveDirOptions{Parent: &snap})
	if err != nil || got.Unchanged > 2 { // the empty ones need no blobs
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: got.Tree}); err != nil {
		t.Fatal(err)
	}
	sound(t, reopen(t, otherStore))
}

// treesBelow returns the ids of a tree and of all below it.
func treesBelow(t *testing.T, r *Repo, id ID) []ID {
	t.Helper()
	tree, err := r.LoadTree(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	ids := []ID{id}
	for _, n := range tree.Nodes {
		if n.Type == DirNode {
			ids = append(ids, treesBelow(t, r, n.Subtree)...)
		}
	}
	return ids
}

// countingStore counts what is read of packs, and gives out no more than so many bytes however many ask at once.
type countingStore struct {
	blob.Store
	read atomic.Int64
	most int64 // 0: no end
}

func (s *countingStore) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	o, err := s.Store.Get(ctx, name, r)
	if strings.HasPrefix(name, dataDir) && s.read.Add(int64(len(o.Data))) > s.most && s.most > 0 {
		return blob.Object{}, errCrash
	}
	return o, err
}

// TestABrokenRestoreGoesOnWhereItWas breaks a restore off at several places. No half file has its final
// name, and what is there is not fetched again.
func TestABrokenRestoreGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeSample(t, source)
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("big%02d", i)), noise(uint64(1000+i), 800<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{}
	for line := range strings.SplitSeq(describeAll(t, source), "\n") {
		name, _, _ := strings.Cut(line, " ")
		want[name] = line
	}
	r, store := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	target := t.TempDir()
	for _, most := range []int64{9 << 20, 17 << 20} {
		broken := &countingStore{Store: store, most: most}
		if _, err := reopen(t, broken).RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); !errors.Is(err, errCrash) {
			t.Fatalf("got %v", err)
		}
		for line := range strings.SplitSeq(describeAll(t, target), "\n") {
			name, rest, _ := strings.Cut(line, " ")
			if strings.HasPrefix(rest, "100") && !strings.HasPrefix(name, `"with`) && want[name] != line {
				t.Errorf("after %d bytes: %s\nwant %s", most, line, want[name])
			}
		}
	}
	whole := &countingStore{Store: store}
	restored, err := reopen(t, whole).RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{})
	if err != nil || restored.Files != result.Files || restored.Bytes != result.Bytes {
		t.Fatalf("%+v, %v", restored, err)
	}
	diff(t, describeAll(t, target), describeAll(t, source))
	if read := whole.read.Load(); read > 45<<20 {
		t.Errorf("%d bytes were fetched again of %d", read, result.Bytes)
	}
	none := &countingStore{Store: store}
	if _, err := reopen(t, none).RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	if read := none.read.Load(); read > 2<<20 {
		t.Errorf("%d bytes were fetched for a directory that is whole", read)
	}
}

// TestRestoreOverOtherThings: what is in the way goes, what the copy does not have stays.
func TestRestoreOverOtherThings(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	makeEverything(t, source)
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	at := func(name string) string { return filepath.Join(target, name) }
	err := errors.Join(
		os.Mkdir(at("small"), 0o700), os.Mkdir(at("link"), 0o700), os.Mkdir(at("fifo"), 0o700), // empty
		os.WriteFile(at("deep"), []byte("a file where a directory belongs"), 0o600),
		os.Symlink("/etc", at("many")),
		os.WriteFile(at("empty"), []byte("longer"), 0o777),
		os.Mkdir(at("sgid"), 0o500),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describeAll(t, target), describeAll(t, source))
	if err := errors.Join(os.WriteFile(at("deep/mine"), []byte("mine"), 0o600), os.Remove(at("run.sh")),
		os.Mkdir(at("run.sh"), 0o700), os.WriteFile(at("run.sh/other"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err == nil || !strings.Contains(err.Error(), "run.sh: a directory with other contents") {
		t.Errorf("a directory that holds something is in the way: %v", err)
	}
	if _, err := os.Stat(at("deep/mine")); err != nil {
		t.Error(err)
	}
	left, _ := filepath.Glob(at(".lifeboat-*"))
	if _, err := os.Stat(at("run.sh/other")); err != nil || len(left) > 0 {
		t.Errorf("%v, left %q", err, left)
	}
}

// TestDamageIsNamedAndTheRestComesBack flips a bit in the blob of one file.
func TestDamageIsNamedAndTheRestComesBack(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	makeSample(t, source)
	r, store := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	for name, at := range map[string]int{"orders.log": 2, "many/150": 0} {
		node, err := r.Find(t.Context(), result.Tree, RootName+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		pack, where, ok := r.catalog.lookup(DataBlob, node.Content[at])
		if !ok {
			t.Fatal(name)
		}
		flip(t, store, packName(pack), int(where.Offset)+20)
	}
	_, err := reopen(t, store).RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{})
	for _, says := range []string{"2 files cannot be restored", "orders.log: data blob", "many/150: data blob"} {
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
	for _, lost := range []string{"orders.log", "many/150"} {
		if _, err := os.Lstat(filepath.Join(target, lost)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", lost, err)
		}
	}
	missing := 0
	got := describeAll(t, target)
	for line := range strings.SplitSeq(describeAll(t, source), "\n") {
		if !strings.Contains(got, line) {
			missing++
		}
	}
	if missing != 2 {
		t.Errorf("%d entries are not what they were, want the 2 that are damaged", missing)
	}
}

// hangingStore does not answer puts of some names until their context ends.
type hangingStore struct {
	blob.Store
	prefix string
	deaf   bool // not even then, for a while
	once   sync.Once
	hangs  chan struct{} // closed when it does
}

func (s *hangingStore) Put(ctx context.Context, name string, data []byte, c blob.Condition) (blob.Version, error) {
	if !strings.HasPrefix(name, s.prefix) {
		return s.Store.Put(ctx, name, data, c)
	}
	s.once.Do(func() { close(s.hangs) })
	<-ctx.Done()
	if s.deaf {
		time.Sleep(10 * farewell)
	}
	return "", context.Cause(ctx)
}

// TestAStoreThatHangs: whoever waits for it can be called off, and is, everywhere.
func TestAStoreThatHangs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefix string
		deaf   bool
	}{{dataDir, false}, {indexDir, false}, {snapshotDir, false}, {dataDir, true}} {
		t.Run(fmt.Sprintf("%s deaf %v", strings.TrimSuffix(c.prefix, "/"), c.deaf), func(t *testing.T) {
			_, plain := newTestRepo(t)
			synctest.Test(t, func(t *testing.T) {
				store := &hangingStore{Store: plain, prefix: c.prefix, deaf: c.deaf, hangs: make(chan struct{})}
				r := reopen(t, store)
				s, err := r.NewSaver(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				stop := errors.New("called off")
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() { <-store.hangs; time.Sleep(time.Second); cancel(stop) }()
				began := time.Now()
				_, _, err = s.SaveData(ctx, strings.NewReader(string(noise(5, packSize+3<<20))))
				if err == nil {
					_, err = s.saveSmall(ctx, TreeBlob, []byte("{\"nodes\":[]}\n"))
				}
				if err == nil {
					_, err = s.SaveSnapshot(ctx, Snapshot{Tree: hash([]byte("{\"nodes\":[]}\n"))})
				}
				if !errors.Is(err, stop) {
					t.Errorf("got %v", err)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 2*time.Second+farewell {
					t.Errorf("it took %s", took)
				}
				time.Sleep(20 * farewell) // until the deaf one has woken up
			})
			if sound(t, reopen(t, plain)).Snapshots != 0 {
				t.Error("there is a snapshot")
			}
		})
	}
}
