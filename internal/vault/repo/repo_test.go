package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// testPassword is of the form that key files have, which keeps key derivation short.
var testPassword = []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")

func newTestRepo(t testing.TB) (*Repo, blob.Store) {
	t.Helper()
	store := blob.NewMem()
	r, err := Init(t.Context(), store, testPassword)
	if err != nil {
		t.Fatal(err)
	}
	return r, store
}

func reopen(t testing.TB, store blob.Store) *Repo {
	t.Helper()
	r, err := Open(t.Context(), store, testPassword)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newSaver(t testing.TB, r *Repo) *Saver {
	t.Helper()
	s, err := r.NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

// noise is n bytes that do not compress, the same for a seed.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = src.Read(data)
	return data
}

func sound(t testing.TB, r *Repo) *Report {
	t.Helper()
	report, err := r.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("check: %s", p)
	}
	return report
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), blob.NewMem(), testPassword)
	if !errors.Is(err, ErrNotARepository) {
		t.Errorf("empty store: %v", err)
	}
	_, store := newTestRepo(t)
	if _, err := Open(t.Context(), store, []byte("c29tZSBvdGhlciBrZXkgdGhhdCBpcyBub3QgdGhlIG9uZQ==")); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := Init(t.Context(), store, testPassword); !errors.Is(err, ErrExists) {
		t.Errorf("second init: %v", err)
	}
	reopen(t, store)
	flip(t, store, "config", 40)
	if _, err := Open(t.Context(), store, testPassword); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged config: %v", err)
	}
}

// flip changes one bit of an object.
func flip(t *testing.T, store blob.Store, name string, at int) {
	t.Helper()
	o, err := store.Get(t.Context(), name, blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	o.Data[at] ^= 1
	if _, err := store.Put(t.Context(), name, o.Data, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func TestInitRaceHasOneWinner(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	var wg sync.WaitGroup
	wins := make(chan *Repo, 8)
	for range cap(wins) {
		wg.Go(func() {
			r, err := Init(t.Context(), store, testPassword)
			if err == nil {
				wins <- r
			} else if !errors.Is(err, ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(wins) != 1 {
		t.Fatalf("%d winners", len(wins))
	}
	if r := reopen(t, store); r.ID() != (<-wins).ID() {
		t.Error("opened another repository than the winner's")
	}
	keys := 0
	for range store.List(t.Context(), keysDir) {
		keys++
	}
	if keys != 1 {
		t.Errorf("%d keys", keys)
	}
}

func TestPasswordOfAPerson(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if _, err := Init(t.Context(), store, []byte("correct horse")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), store, []byte("correct horse")); err != nil {
		t.Error(err)
	}
}

func TestSealedRecords(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	sealed := r.Seal([]byte("record"))
	if bytes.Contains(sealed, []byte("record")) {
		t.Error("not sealed")
	}
	if plain, err := reopen(t, store).Unseal(sealed); err != nil || string(plain) != "record" {
		t.Errorf("%q, %v", plain, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x10
		if _, err := r.Unseal(bad); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit in byte %d changed: %v", i, err)
		}
	}
	if _, err := r.Unseal(sealed[:20]); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestDataIsCutStoredOnceAndReadBack(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	s := newSaver(t, r)
	data := noise(1, 40<<20)
	ids, size, err := s.SaveData(t.Context(), iotest.HalfReader(bytes.NewReader(data)))
	if err != nil || size != int64(len(data)) {
		t.Fatalf("%d bytes, %v", size, err)
	}
	tree, err := s.SaveTree(t.Context(), &Tree{Nodes: []*Node{{Name: "f", Type: FileNode, Size: uint64(size), Content: ids}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: tree}); err != nil {
		t.Fatal(err)
	}
	first := s.Stats()
	if first.StoredBytes < size || first.StoredBytes > size+size/100 {
		t.Errorf("stored %d bytes for %d that do not compress", first.StoredBytes, size)
	}
	// The same data with bytes put in near its start: everything behind them is found again.
	changed := slices.Concat(data[:3<<20], []byte("inserted"), data[3<<20:])
	again, _, err := s.SaveData(t.Context(), bytes.NewReader(changed))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().NewBlobs - first.NewBlobs; n > 3 {
		t.Errorf("%d new blobs for 8 inserted bytes", n)
	}
	other := reopen(t, store)
	for want, ids := range map[string][]ID{string(data): ids, string(changed): again} {
		var got bytes.Buffer
		if err := other.ReadFile(t.Context(), &Node{Name: "f", Type: FileNode, Size: uint64(len(want)), Content: ids}, &got); err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Error("read other bytes than were written")
		}
	}
	sound(t, other)
}

func TestChunkSizes(t *testing.T) {
	t.Parallel()
	table, err := newGearTable(randomPolynomial())
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"noise": noise(2, 40<<20), "zeros": make([]byte, 20<<20), "short": noise(3, 100), "exact": noise(4, minChunk)} {
		c := &chunker{table: table, in: bytes.NewReader(data), pool: &sync.Pool{New: func() any { return new([]byte) }}}
		var whole []byte
		var sizes []int
		for {
			chunk, err := c.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			whole = append(whole, *chunk...)
			sizes = append(sizes, len(*chunk))
		}
		if !bytes.Equal(whole, data) {
			t.Fatalf("%s: chunks do not make up the data", name)
		}
		for i, n := range sizes {
			if n > maxChunk || n < minChunk && i < len(sizes)-1 {
				t.Errorf("%s: chunk %d of %d has %d bytes", name, i, len(sizes), n)
			}
		}
		if mean := len(data) / len(sizes); name == "noise" && (mean < 900<<10 || mean > 1400<<10) {
			t.Errorf("mean size %d", mean)
		}
	}
}

func TestReadErrorsAreSaid(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	broken := errors.New("disk is broken")
	_, _, err := s.SaveData(t.Context(), io.MultiReader(bytes.NewReader(noise(5, 3<<20)), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	// A source that fails does not spoil the saver.
	if _, _, err := s.SaveData(t.Context(), strings.NewReader("fine")); err != nil {
		t.Error(err)
	}
}

func docs(n int) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		for i := range n {
			d := Document{
				Path: fmt.Sprintf("namespaces/ns%d/%s/object-%d.json", i%7, []string{"ConfigMap", "Secret", "Service"}[i%3], i),
				Data: fmt.Appendf(nil, `{"metadata":{"name":"object-%d"},"data":{"k":%q}}`, i, noise(uint64(i), 50)),
			}
			switch i {
			case 5:
				d.Data = nil
			case 6:
				d.Data = noise(9, 3<<20) // cut in several blobs
			case 7, 8:
				d.Data = []byte("two of the same")
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	const n = 2000
	r, store := newTestRepo(t)
	s := newSaver(t, r)
	first, err := saveDocuments(t.Context(), s, docs(n))
	if err != nil || first.Documents != n {
		t.Fatal(first, err)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: first.Tree}); err != nil {
		t.Fatal(err)
	}
	stored := s.Stats().StoredBytes
	second, err := saveDocuments(t.Context(), s, docs(n))
	if err != nil || second.Tree != first.Tree {
		t.Errorf("the same documents make another tree: %v, %v", second, err)
	}
	if err := s.Flush(t.Context()); err != nil || s.Stats().StoredBytes != stored {
		t.Errorf("the same documents take %d bytes more (%v)", s.Stats().StoredBytes-stored, err)
	}
	other := reopen(t, store)
	got := map[string]string{}
	err = other.WalkDocuments(t.Context(), first.Tree, func(path string, data []byte) error {
		if _, twice := got[path]; twice {
			t.Errorf("%s came twice", path)
		}
		got[path] = string(data)
		return nil
	})
	if err != nil || len(got) != n {
		t.Fatalf("%d documents, %v", len(got), err)
	}
	for d := range docs(n) {
		if got[d.Path] != string(d.Data) {
			t.Errorf("%s: other bytes", d.Path)
		}
	}
	node, err := other.Find(t.Context(), first.Tree, "/namespaces/ns6/ConfigMap/object-6.json")
	if err != nil || node.Size != 3<<20 {
		t.Errorf("find: %+v, %v", node, err)
	}
	for _, p := range []string{"", "namespaces/none", "namespaces/ns6/ConfigMap/object-6.json/x"} {
		if _, err := other.Find(t.Context(), first.Tree, p); !errors.Is(err, ErrNotFound) {
			t.Errorf("find %q: %v", p, err)
		}
	}
	sound(t, other)
}

func TestDocumentsThatCannotBe(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	one := func(paths ...string) iter.Seq2[Document, error] {
		return func(yield func(Document, error) bool) {
			for _, p := range paths {
				if !yield(Document{Path: p}, nil) {
					return
				}
			}
		}
	}
	for _, paths := range [][]string{{""}, {"."}, {"/abs"}, {"../up"}, {"a/../b"}, {"a//b"}, {"a/"}, {".."}, {"a", "a/b"}} {
		if _, err := saveDocuments(t.Context(), s, one(paths...)); err == nil {
			t.Errorf("%q were saved", paths)
		}
	}
	broken := errors.New("API server went away")
	_, err := saveDocuments(t.Context(), s, func(yield func(Document, error) bool) { yield(Document{}, broken) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestSnapshots(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	if all, err := r.Snapshots(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("none yet: %v, %v", all, err)
	}
	s := newSaver(t, r)
	tree, err := s.SaveTree(t.Context(), &Tree{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []ID
	for day := range 3 {
		id, err := s.SaveSnapshot(t.Context(), Snapshot{
			Tree: tree, Time: time.Date(2026, 11, 10-day, 0, 0, 0, 0, time.UTC), Hostname: "east", Tags: []string{"app=shop"}, Paths: []string{"/data"},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append([]ID{id}, ids...)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: hash([]byte("no such tree"))}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot of nothing: %v", err)
	}
	other := reopen(t, store)
	all, err := other.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, snap := range all {
		if snap.ID != ids[i] || snap.Hostname != "east" || snap.Tree != tree || !slices.Equal(snap.Tags, []string{"app=shop"}) {
			t.Errorf("%d: %+v", i, snap)
		}
	}
	if snap, err := other.LoadSnapshot(t.Context(), ids[1].String()[:10]); err != nil || snap.ID != ids[1] {
		t.Errorf("by prefix: %v, %v", snap.ID, err)
	}
	for _, p := range []string{"", "zz", strings.Repeat("0", 64)} {
		if _, err := other.LoadSnapshot(t.Context(), p); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", p, err)
		}
	}
}

// TestAnotherWritersBlobsAreFound: a repository that was opened before reads what came after.
func TestAnotherWritersBlobsAreFound(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	early := reopen(t, store)
	if _, err := early.LoadTree(t.Context(), hash(nil)); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing yet: %v", err)
	}
	s := newSaver(t, r)
	result, err := saveDocuments(t.Context(), s, docs(20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: result.Tree}); err != nil {
		t.Fatal(err)
	}
	if _, err := early.LoadTree(t.Context(), result.Tree); err != nil {
		t.Error(err)
	}
}

func TestIrreducible(t *testing.T) {
	t.Parallel()
	for p, want := range map[polynomial]bool{
		0: false, 1: false, 2: true, 3: true, 5: false, 7: true, 0xb: true, 0xf: false,
		0x221e8445d4d913: true, 0x25b468838dcb75: true, 0x3DA3358B4DC173: true, 0x25b468838dcb77: false,
	} {
		if got := p.irreducible(); got != want {
			t.Errorf("%x: %v", uint64(p), got)
		}
	}
	if p := randomPolynomial(); p.degree() != polynomialDegree {
		t.Errorf("degree %d", p.degree())
	}
}
