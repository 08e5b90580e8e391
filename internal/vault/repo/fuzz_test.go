package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// The fuzzers feed what is behind the seal, for nobody without the key gets past that: what they find is
// what a faulty program, or a holder of the key, could do to a reader.

func fuzzRepo(f *testing.F) (*Repo, blob.Store) {
	f.Helper()
	store := blob.NewMem()
	r, err := Init(f.Context(), store, testPassword)
	if err != nil {
		f.Fatal(err)
	}
	return r, store
}

// damaged: whatever a reader says of bytes that are not what they should be, it says that they are damaged.
func damaged(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want something that is %v", err, ErrDamaged)
	}
}

func FuzzPackHeader(f *testing.F) {
	r, _ := fuzzRepo(f)
	p := &packFile{}
	p.add(hash([]byte("a")), DataBlob, make([]byte, 40), 0)
	p.add(hash([]byte("b")), TreeBlob, make([]byte, 50), 100)
	raw := p.finish(r.master)
	header, err := r.master.open(bytes.Clone(raw[90 : len(raw)-4]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(header, int64(90))
	f.Add([]byte{}, int64(0))
	f.Add(header[:40], int64(40))
	f.Add(bytes.Repeat([]byte{0xff}, 82), int64(1<<40))
	f.Fuzz(func(t *testing.T, header []byte, end int64) {
		blobs, err := parseHeader(r.master, r.master.seal(nil, header), end)
		damaged(t, err)
		at := int64(0)
		for _, b := range blobs {
			if int64(b.Offset) != at || b.Type > TreeBlob || b.plainLength() > maxBlob {
				t.Errorf("blob %+v at %d", b, at)
			}
			at += int64(b.Length)
		}
		if err == nil && at != end {
			t.Errorf("blobs end at %d, the header begins at %d", at, end)
		}
	})
}

// fuzzObject stores data sealed as an object below dir, as it is and compressed, and hands out its id.
func fuzzObject(t *testing.T, r *Repo, dir string, data []byte, fn func(id ID)) {
	t.Helper()
	for _, plain := range [][]byte{data, r.zenc.EncodeAll(data, []byte{compressedJSON}), append([]byte{compressedJSON}, data...)} {
		sealed := r.master.seal(nil, plain)
		id := hash(sealed)
		if _, err := r.store.Put(t.Context(), dir+id.String(), sealed, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		fn(id)
		if err := r.store.Delete(t.Context(), dir+id.String()); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	r, _ := fuzzRepo(f)
	good, err := json.Marshal(indexOf(map[ID][]packedBlob{hash(nil): {{ID: hash([]byte("a")), Type: TreeBlob, place: place{Length: 50, Plain: 7}}}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, seed := range []string{"", "{}", "null", "[]", `{"packs":null}`, `{"packs":[{}]}`, `{"packs":[{"id":"00","blobs":[]}]}`, `{"packs":[{"blobs":[{"type":"data","length":4294967295}]}]}`,
		`{"supersedes":["x"]}`, strings.Repeat("[", 300), `{"packs":` + strings.Repeat("[", 200)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzObject(t, r, indexDir, data, func(ID) {
			r.catalog.forget()
			err := r.catalog.refresh(t.Context())
			damaged(t, err)
			l, ledgerErr := readLedger(t.Context(), r)
			damaged(t, ledgerErr)
			if (err == nil) != (ledgerErr == nil) {
				t.Errorf("catalog: %v, ledger: %v", err, ledgerErr)
			}
			if l != nil && len(l.entries) > 0 && len(l.entries)*40 > len(data) {
				t.Errorf("%d entries out of %d bytes", len(l.entries), len(data))
			}
			report, err := r.Check(t.Context(), CheckOptions{ReadData: true})
			if err != nil {
				t.Error(err)
			} else if l != nil && len(l.packs) > 0 && len(l.entries) > 0 && len(report.Problems) == 0 {
				t.Error("packs that are not there are no problem")
			}
		})
	})
}

func FuzzTree(f *testing.F) {
	good, err := json.Marshal(&Tree{Nodes: []*Node{
		{Name: "a\xff", Type: FileNode, Content: []ID{hash(nil)}, Xattrs: []Xattr{{Name: "user.x", Value: []byte("y")}}},
		{Name: "b", Type: DirNode, Subtree: hash(nil)}, {Name: "c", Type: SymlinkNode, LinkTarget: "\xfe"},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, seed := range []string{"", "{}", "null", `{"nodes":null}`, `{"nodes":[null]}`, `{"nodes":[{}]}`, `{"nodes":[{"name":".."}]}`, `{"nodes":[{"name":"a/b"}]}`,
		`{"nodes":[{"name":"a\\x2fb"}]}`, `{"nodes":[{"name":"a","mtime":"9999-99-99"}]}`, `{"x":[[[]]],"nodes":[]}`, `{"nodes":[]}{`, strings.Repeat(`{"nodes":[`, 100)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := parseTree(hash(data), data)
		damaged(t, err)
		if err != nil {
			return
		}
		for _, node := range tree.Nodes {
			if node.checkName() != nil {
				t.Errorf("a node is named %q", node.Name)
			}
		}
		// What encoding/json reads is what there is to be read.
		var want struct {
			Nodes []*Node `json:"nodes"`
		}
		if json.Unmarshal(data, &want) == nil && bytes.Count(bytes.ToLower(data), []byte("nodes")) == 1 && !reflect.DeepEqual(tree.Nodes, want.Nodes) && len(tree.Nodes)+len(want.Nodes) > 0 {
			t.Errorf("read %+v, want %+v", tree.Nodes, want.Nodes)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	r, _ := fuzzRepo(f)
	good, err := json.Marshal(Snapshot{Time: time.Now(), Tree: hash(nil), Paths: []string{"/"}, Tags: []string{"a=b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, seed := range []string{"", "{}", "null", `{"tree":null}`, `{"tree":"zz"}`, `{"time":"x"}`, `{"paths":{}}`, `{"parent":""}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzObject(t, r, snapshotDir, data, func(id ID) {
			snap, err := r.LoadSnapshot(t.Context(), id.String())
			damaged(t, err)
			if err == nil && snap.ID != id {
				t.Errorf("%v has id %v", id, snap.ID)
			}
			if _, err := r.Check(t.Context(), CheckOptions{}); err != nil {
				t.Error(err)
			}
		})
	})
}

func FuzzConfig(f *testing.F) {
	good, err := json.Marshal(newConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, seed := range []string{"", "{}", "null", `{"version":1}`, `{"version":2}`, `{"version":2,"chunker_polynomial":"0"}`, `{"version":2,"chunker_polynomial":"ffffffffffffffff"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseConfig(data); err == nil {
			if _, err := newGearTable(c.Polynomial); err != nil || c.Version != formatVersion {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	_, store := fuzzRepo(f)
	for info := range store.List(f.Context(), keysDir) {
		o, err := store.Get(f.Context(), info.Name, blob.Range{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(o.Data)
	}
	for _, seed := range []string{"", "{}", "null", `{"kdf":"scrypt"}`, `{"kdf":"scrypt","N":1073741824,"r":8,"p":1}`, `{"kdf":"scrypt","N":-1,"r":-1,"p":-1}`,
		`{"kdf":"scrypt","N":3,"r":1,"p":1,"data":"AA=="}`, `{"kdf":"scrypt","N":2,"r":9223372036854775807,"p":1}`, `{"kdf":"scrypt","N":2,"r":1,"p":1,"data":"` + strings.Repeat("A", 64) + `"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseKeyFile(data)
		if err != nil {
			return
		}
		if k.N > 1<<8 || k.R > 8 || k.P > 2 {
			k.N = min(k.N, 1<<31) // bounds are tried below; the work itself takes too long here
			if k.N > 0 && k.R > 0 && k.P > 0 && k.N > 1<<30/128/k.R {
				if _, err := k.open(testPassword); err == nil {
					t.Error("a key that takes a gigabyte was tried")
				}
			}
			return
		}
		_, _ = k.open(testPassword) // a wrong key is the best that can come of it
	})
}

// FuzzBlob reads blobs of which the index says anything.
func FuzzBlob(f *testing.F) {
	r, _ := fuzzRepo(f)
	f.Add(r.zenc.EncodeAll([]byte("text"), nil), uint32(4))
	f.Add([]byte("text"), uint32(0))
	f.Add(bomb(f, 1<<20), uint32(100))
	f.Add(bomb(f, 1<<20), uint32(maxBlob))
	f.Fuzz(func(t *testing.T, data []byte, plain uint32) {
		sealed := r.master.seal(nil, data)
		got, err := r.unpack(DataBlob, hash(data), ID{}, place{Length: uint32(len(sealed)), Plain: plain}, sealed)
		damaged(t, err)
		if err == nil && hash(got) != hash(data) {
			t.Error("other bytes than its id says")
		}
	})
}

// bomb is little data that decompresses to n zeros and does not say so.
func bomb(t testing.TB, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range n >> 20 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBombsAndForgedLengths: a little data that claims to be a lot takes little memory.
func TestBombsAndForgedLengths(t *testing.T) {
	r, store := newTestRepo(t)
	large := bomb(t, 1<<30)
	allocated := func(fn func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fn()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, plain := range map[string]uint32{"of few bytes": 100, "of a chunk": maxChunk} {
		sealed := r.master.seal(nil, large)
		used := allocated(func() {
			if _, err := r.unpack(DataBlob, ID{}, ID{}, place{Length: uint32(len(sealed)), Plain: plain}, sealed); !errors.Is(err, ErrDamaged) {
				t.Errorf("a bomb that claims to be %s: %v", name, err)
			}
		})
		if used > 64<<20 {
			t.Errorf("a bomb that claims to be %s takes %d MiB", name, used>>20)
		}
	}
	sealed := r.master.seal(nil, r.zenc.EncodeAll([]byte("x"), nil))
	used := allocated(func() {
		if _, err := r.unpack(DataBlob, ID{}, ID{}, place{Length: uint32(len(sealed)), Plain: maxBlob}, sealed); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
	if used > 16<<20 {
		t.Errorf("a blob that claims a gigabyte and has a byte takes %d MiB", used>>20)
	}
	// An object that is a bomb.
	object := r.master.seal(nil, append([]byte{compressedJSON}, large...))
	id := hash(object)
	if _, err := store.Put(t.Context(), snapshotDir+id.String(), object, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	used = allocated(func() {
		if _, err := r.LoadSnapshot(t.Context(), id.String()); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
	if used > 3*maxObject {
		t.Errorf("a snapshot that is a bomb takes %d MiB", used>>20)
	}
	// A key that would take for ever, or all memory.
	for _, c := range []scryptCost{{1 << 30, 8, 1}, {1 << 20, 8, 1 << 20}, {2, 1 << 40, 1}, {2, 1, 1 << 40}, {-2, 1, 1}, {1 << 23, 1, 1 << 20}} {
		began := time.Now()
		if _, err := deriveKey(testPassword, nil, c); err == nil || time.Since(began) > time.Second {
			t.Errorf("%+v: %v after %v", c, err, time.Since(began))
		}
	}
}

// TestEveryFlippedBitIsDetected flips bits of every object of a repository, one at a time: at its ends
// and at places spread over it, each bit of the byte in turn.
func TestEveryFlippedBitIsDetected(t *testing.T) {
	t.Parallel()
	_, store := newTestRepo(t)
	r := reopen(t, store)
	if _, err := AddKey(t.Context(), r, otherPassword); err != nil {
		t.Fatal(err)
	}
	mustSave(t, r, 0, 12)
	mustSave(t, r, 6, 20)
	var names []string
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	flips := 0
	for _, name := range names {
		whole, err := store.Get(t.Context(), name, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		n := len(whole.Data)
		for i := range min(n, 48) {
			at := i * n / min(n, 48)
			switch {
			case i < 8:
				at = i
			case i >= 40:
				at = n - 48 + i
			}
			changed := bytes.Clone(whole.Data)
			changed[at] ^= 1 << (i % 8)
			if _, err := store.Put(t.Context(), name, changed, blob.Condition{}); err != nil {
				t.Fatal(err)
			}
			flips++
			report, err := r.Check(t.Context(), CheckOptions{ReadData: true})
			if err != nil {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
			if len(report.Problems) == 0 {
				t.Errorf("%s: bit %d of byte %d of %d changed, and nobody noticed", name, i%8, at, n)
			}
		}
		if _, err := store.Put(t.Context(), name, whole.Data, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	sound(t, r)
	if len(names) < 9 || flips < 300 {
		t.Errorf("only %d flips in %d objects", flips, len(names))
	}
	t.Log(fmt.Sprint(flips, " flips in ", len(names), " objects"))
}
