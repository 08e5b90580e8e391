package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// Document is a small file.
type Document struct {
	Path string
	Data []byte
}

type documentsResult struct {
	Tree      ID
	Documents int
}

// saveDocuments stores documents as a tree.
func saveDocuments(ctx context.Context, s *Saver, docs iter.Seq2[Document, error]) (documentsResult, error) {
	tree := NewDocumentTree()
	for d, err := range docs {
		if err != nil {
			return documentsResult{}, err
		}
		if _, err := tree.Put(ctx, s, d.Path, d.Data); err != nil {
			return documentsResult{}, err
		}
	}
	id, err := tree.Save(ctx, s)
	return documentsResult{id, tree.Len()}, err
}

// contents reads a tree of documents.
func contents(t *testing.T, r *Repo, tree ID) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := r.WalkDocuments(t.Context(), tree, func(p string, data []byte) error {
		if _, twice := got[p]; twice {
			t.Errorf("%s came twice", p)
		}
		got[p] = string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDocumentTreeFollowsAMap changes a tree and a map at random, the same way, through limits at which
// directories are cut and made whole. A tree that was changed, one that was filled anew and one that was
// loaded are the same.
func TestDocumentTreeFollowsAMap(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	random := rand.New(rand.NewPCG(1, 2))
	tree, want := NewDocumentTree(), map[string]string{}
	for round, names := range []int{5, dirLimit, 3 * dirLimit, 40 * dirLimit, dirLimit, 20 * dirLimit, 3} {
		for range 3 * names {
			p := fmt.Sprintf("d%d/e/%d.json", random.IntN(2), random.IntN(names))
			if random.IntN(4) == 0 {
				_, there := want[p]
				if tree.Delete(p) != there {
					t.Fatalf("deleting %s: was there %v", p, there)
				}
				delete(want, p)
				continue
			}
			data := fmt.Sprint(p, random.IntN(3))
			changed, err := tree.Put(t.Context(), s, p, []byte(data))
			if err != nil || changed != (want[p] != data) {
				t.Fatalf("putting %s: changed %v, %v", p, changed, err)
			}
			want[p] = data
		}
		for p := range maps.Clone(want) { // fewer names in the next round: the others go
			if random.IntN(3) > 0 {
				tree.Delete(p)
				delete(want, p)
			}
		}
		if got := slices.Sorted(tree.Paths()); !slices.Equal(got, slices.Sorted(maps.Keys(want))) || tree.Len() != len(want) {
			t.Fatalf("round %d: %d paths, want %d", round, len(got), len(want))
		}
		id, err := tree.Save(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, r, id); !maps.Equal(got, want) {
			t.Fatalf("round %d: %d documents read, want %d", round, len(got), len(want))
		}
		again := NewDocumentTree()
		for p, data := range want { // in any order
			if _, err := again.Put(t.Context(), s, p, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := LoadDocumentTree(t.Context(), r, id)
		if err != nil {
			t.Fatal(err)
		}
		for name, other := range map[string]*DocumentTree{"filled anew": again, "loaded": loaded} {
			if is, err := other.Save(t.Context(), s); err != nil || is != id {
				t.Errorf("round %d: a tree that was %s has id %s, not %s (%v)", round, name, is.short(), id.short(), err)
			}
		}
		for p := range want {
			if n, err := r.Find(t.Context(), id, p); err != nil || n.Name != path.Base(p) {
				t.Fatalf("find %s: %v, %v", p, n, err)
			}
			break
		}
	}
}

// TestDocumentTreesAreTrees holds what is written by hand against SaveTree.
func TestDocumentTreesAreTrees(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	tree := NewDocumentTree()
	for _, p := range []string{"a.json", "dir/b.json", `od"d\ <&>é` + "\x01", "z:y", "empty", "large"} {
		data := []byte(p)
		switch p {
		case "empty":
			data = nil
		case "large":
			data = noise(3, 3<<20)
		}
		if _, err := tree.Put(t.Context(), s, p, data); err != nil {
			t.Fatal(err)
		}
	}
	id, err := tree.Save(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := r.LoadBlob(t.Context(), TreeBlob, id)
	if err != nil {
		t.Fatal(err)
	}
	is, err := parseTree(id, raw)
	if err != nil || len(is.Nodes) != 6 {
		t.Fatal(is, err)
	}
	want, err := json.Marshal(is)
	if err != nil || string(append(want, '\n')) != string(raw) {
		t.Errorf("written by hand:\n%s\nby SaveTree:\n%s (%v)", raw, want, err)
	}
	if again, err := s.SaveTree(t.Context(), is); err != nil || again != id {
		t.Errorf("SaveTree makes %s of it, not %s (%v)", again.short(), id.short(), err)
	}
}

// TestFlatDirectoriesAreRead reads and takes over what an earlier version wrote.
func TestFlatDirectoriesAreRead(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	flat, want := &Tree{}, map[string]string{}
	for i := range 10 * dirLimit {
		name := fmt.Sprintf("object-%d.json", i)
		want["core/"+name] = name
		id, err := s.saveSmall(t.Context(), DataBlob, []byte(name))
		if err != nil {
			t.Fatal(err)
		}
		flat.Nodes = append(flat.Nodes, &Node{Name: name, Type: FileNode, Mode: 0o600, Size: uint64(len(name)), Content: []ID{id}, ModTime: time.Unix(0, 0).UTC(), AccessTime: time.Unix(0, 0).UTC(), ChangeTime: time.Unix(0, 0).UTC()})
	}
	sub, err := s.SaveTree(t.Context(), flat)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.SaveTree(t.Context(), &Tree{Nodes: []*Node{{Name: "core", Type: DirNode, Mode: 0o700 | fs.ModeDir, Subtree: sub}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r, root); !maps.Equal(got, want) {
		t.Errorf("%d documents, want %d", len(got), len(want))
	}
	tree, err := LoadDocumentTree(t.Context(), r, root)
	if err != nil || tree.Len() != len(want) {
		t.Fatal(tree, err)
	}
	if changed, err := tree.Put(t.Context(), s, "core/object-7.json", []byte("object-7.json")); changed || err != nil {
		t.Errorf("the same content is a change (%v)", err)
	}
	id, err := tree.Save(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r, id); !maps.Equal(got, want) {
		t.Errorf("taken over: %d documents, want %d", len(got), len(want))
	}
}

// TestAChangeCostsLittle measures what one change in a hundred adds to the store.
func TestAChangeCostsLittle(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	tree := NewDocumentTree()
	put := func(i, round int) {
		dir := []string{"configmaps", "secrets", "configmaps", "widgets", "configmaps"}[i/5%5]
		p := fmt.Sprintf("namespaces/pop-%d/core/%s/object-%06d.json", i%5, dir, i)
		data := fmt.Appendf(nil, `{"round":%d,"data":"%x%s"}`, round, noise(uint64(i), 450), strings.Repeat("word ", 100))
		if _, err := tree.Put(t.Context(), s, p, data); err != nil {
			t.Fatal(err)
		}
	}
	save := func() int64 {
		id, err := tree.Save(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: id}); err != nil {
			t.Fatal(err)
		}
		return s.Stats().StoredBytes
	}
	for i := range n {
		put(i, 0)
	}
	first := save()
	for i := 0; i < n; i += 100 {
		put(i+i/100%100, 1)
	}
	changed := save() - first
	t.Logf("first %d bytes, one change in a hundred %d: %.2f %%", first, changed, 100*float64(changed)/float64(first))
	if changed*100 > first*3 {
		t.Errorf("one change in a hundred stores %d bytes of %d", changed, first)
	}
	if before := s.Stats().StoredBytes; save()-before > 1000 {
		t.Errorf("no change stores %d bytes", s.Stats().StoredBytes-before)
	}
}

func TestDocumentNamesThatAreTaken(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	for _, p := range []string{"a/~3/b", "~0", "a/~7"} {
		if _, err := NewDocumentTree().Put(t.Context(), s, p, nil); err == nil {
			t.Errorf("%s was put", p)
		}
	}
	for _, p := range []string{"a/~8/b", "~", "a/~x", "~33"} {
		if _, err := NewDocumentTree().Put(t.Context(), s, p, bytes.Repeat([]byte("x"), 3)); err != nil {
			t.Error(err)
		}
	}
}
