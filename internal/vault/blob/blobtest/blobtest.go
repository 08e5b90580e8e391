// Package blobtest is the contract suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// Run runs the suite. open returns a new, empty store each time; further calls of another with the
// same store return one that shares its objects, as a second process would have it.
func Run(t *testing.T, open func(t *testing.T) blob.Store, another func(t *testing.T, s blob.Store) blob.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s, other blob.Store)
	}{
		{"WhatIsPutIsRead", testRoundTrip},
		{"EmptyObject", testEmpty},
		{"Ranges", testRanges},
		{"MissingObjects", testMissing},
		{"CreateOnce", testCreateOnce},
		{"CompareAndSwap", testCompareAndSwap},
		{"FiftyIncrementACounter", testCounter},
		{"CreateRaceHasOneWinner", testCreateRace},
		{"ListIsOrderedAndWhole", testList},
		{"ListStopsEarly", testListStops},
		{"Delete", testDelete},
		{"Names", testNames},
		{"CancelledContext", testCancelled},
		{"ReadersNeverSeeHalf", testNoHalves},
		{"DataIsTheCallersOwn", testAliasing},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			c.test(t, s, another(t, s))
		})
	}
}

func put(t *testing.T, s blob.Store, name, data string, cond blob.Condition) blob.Version {
	t.Helper()
	v, err := s.Put(t.Context(), name, []byte(data), cond)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	if v == "" {
		t.Fatalf("put %s: empty version", name)
	}
	return v
}

func get(t *testing.T, s blob.Store, name string) (string, blob.Version) {
	t.Helper()
	o, err := s.Get(t.Context(), name, blob.Range{})
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return string(o.Data), o.Version
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func testRoundTrip(t *testing.T, s, other blob.Store) {
	v := put(t, s, "a/b/c", "one", blob.Condition{})
	if data, got := get(t, other, "a/b/c"); data != "one" || got != v {
		t.Errorf("got %q at %q, want %q at %q", data, got, "one", v)
	}
	w := put(t, other, "a/b/c", "two and longer", blob.Condition{})
	if w == v {
		t.Error("another content has the same version")
	}
	if data, _ := get(t, s, "a/b/c"); data != "two and longer" {
		t.Errorf("got %q after it was replaced", data)
	}
	info, err := s.Stat(t.Context(), "a/b/c")
	if err != nil || info != (blob.Info{Name: "a/b/c", Size: 14}) {
		t.Errorf("stat: %+v, %v", info, err)
	}
}

func testEmpty(t *testing.T, s, _ blob.Store) {
	v := put(t, s, "empty", "", blob.IfAbsent())
	if data, got := get(t, s, "empty"); data != "" || got != v {
		t.Errorf("got %q at %q", data, got)
	}
	if o, err := s.Get(t.Context(), "empty", blob.Range{Length: 10}); err != nil || len(o.Data) != 0 {
		t.Errorf("range of an empty object: %q, %v", o.Data, err)
	}
	put(t, s, "empty", "full", blob.IfVersion(v))
}

func testRanges(t *testing.T, s, _ blob.Store) {
	put(t, s, "r", "0123456789", blob.Condition{})
	for _, c := range []struct {
		offset, length int64
		want           string
		err            error
	}{
		{0, 0, "0123456789", nil}, {0, 1, "0", nil}, {0, 10, "0123456789", nil}, {0, 99, "0123456789", nil},
		{3, 4, "3456", nil}, {3, 0, "3456789", nil}, {9, 1, "9", nil}, {9, 5, "9", nil},
		{10, 0, "", nil}, {10, 3, "", nil}, {11, 0, "", blob.ErrRange}, {11, 1, "", blob.ErrRange},
		{-1, 2, "", blob.ErrRange}, {2, -1, "", blob.ErrRange},
	} {
		o, err := s.Get(t.Context(), "r", blob.Range{Offset: c.offset, Length: c.length})
		if string(o.Data) != c.want || !errors.Is(err, c.err) {
			t.Errorf("range %d+%d: %q, %v; want %q, %v", c.offset, c.length, o.Data, err, c.want, c.err)
		}
	}
}

func testMissing(t *testing.T, s, _ blob.Store) {
	put(t, s, "dir/there", "x", blob.Condition{})
	for _, name := range []string{"missing", "dir/missing", "no/dir/at/all", "dir"} {
		_, err := s.Get(t.Context(), name, blob.Range{})
		wantErr(t, err, blob.ErrNotFound)
		_, err = s.Stat(t.Context(), name)
		wantErr(t, err, blob.ErrNotFound)
		if err := s.Delete(t.Context(), name); err != nil && name != "dir" {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	_, err := s.Put(t.Context(), "missing", []byte("x"), blob.IfVersion("1"))
	wantErr(t, err, blob.ErrNotFound)
	if names := list(t, s, ""); !slices.Equal(names, []string{"dir/there"}) {
		t.Errorf("left: %v", names)
	}
}

func testCreateOnce(t *testing.T, s, other blob.Store) {
	v := put(t, s, "once", "first", blob.IfAbsent())
	_, err := other.Put(t.Context(), "once", []byte("second"), blob.IfAbsent())
	wantErr(t, err, blob.ErrExists)
	_, err = s.Put(t.Context(), "once", []byte("first"), blob.IfAbsent())
	wantErr(t, err, blob.ErrExists)
	if data, got := get(t, s, "once"); data != "first" || got != v {
		t.Errorf("got %q at %q", data, got)
	}
	if err := s.Delete(t.Context(), "once"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "once", "again", blob.IfAbsent())
}

func testCompareAndSwap(t *testing.T, s, other blob.Store) {
	v1 := put(t, s, "cas", "1", blob.IfAbsent())
	v2 := put(t, other, "cas", "2", blob.IfVersion(v1))
	_, err := s.Put(t.Context(), "cas", []byte("3"), blob.IfVersion(v1))
	wantErr(t, err, blob.ErrStale)
	if data, got := get(t, s, "cas"); data != "2" || got != v2 {
		t.Errorf("got %q at %q, want 2 at %q", data, got, v2)
	}
	if err := other.Delete(t.Context(), "cas"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Put(t.Context(), "cas", []byte("3"), blob.IfVersion(v2))
	wantErr(t, err, blob.ErrNotFound)
}

func testCounter(t *testing.T, s, other blob.Store) {
	const workers, each = 50, 4
	put(t, s, "counter", "0", blob.IfAbsent())
	var wg sync.WaitGroup
	for w := range workers {
		store := s
		if w%2 == 1 {
			store = other
		}
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), store); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if data, _ := get(t, s, "counter"); data != strconv.Itoa(workers*each) {
		t.Errorf("counted %s of %d", data, workers*each)
	}
}

func increment(ctx context.Context, s blob.Store) error {
	for {
		o, err := s.Get(ctx, "counter", blob.Range{})
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(o.Data))
		if err != nil {
			return fmt.Errorf("counter holds %q", o.Data)
		}
		_, err = s.Put(ctx, "counter", []byte(strconv.Itoa(n+1)), blob.IfVersion(o.Version))
		if !errors.Is(err, blob.ErrStale) {
			return err
		}
	}
}

func testCreateRace(t *testing.T, s, other blob.Store) {
	var winners atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for w := range 50 {
		store := s
		if w%2 == 1 {
			store = other
		}
		wg.Go(func() {
			me := fmt.Sprintf("worker %d", w)
			_, err := store.Put(t.Context(), "new/dir/race", []byte(me), blob.IfAbsent())
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(me)
			case !errors.Is(err, blob.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	data, _ := get(t, s, "new/dir/race")
	if winners.Load() != 1 || winner.Load() != data {
		t.Errorf("%d winners, the last %v; the object says %q", winners.Load(), winner.Load(), data)
	}
}

func list(t *testing.T, s blob.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		names = append(names, info.Name)
	}
	return names
}

func testList(t *testing.T, s, other blob.Store) {
	all := []string{"a-b", "a/b", "a/b-c", "a/b.c/d", "a/bb", "a0", "b/1", "b/10", "b/2", "c"}
	for i := range 300 {
		all = append(all, fmt.Sprintf("many/%04d", i))
	}
	for i := len(all) - 1; i >= 0; i-- {
		if _, err := s.Put(t.Context(), all[i], []byte(all[i]), blob.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b.c", "a/b.c/", "a/b.c/d", "b", "b/1", "many/", "many/01", "zz", "c/", "many/0050/x"} {
		want := []string{}
		for _, name := range all {
			if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
				want = append(want, name)
			}
		}
		if got := list(t, other, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %d names %.60v, want %d %.60v", prefix, len(got), got, len(want), want)
		}
	}
	for info, err := range s.List(t.Context(), "b/") {
		if err != nil || info.Size != int64(len(info.Name)) {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

func testListStops(t *testing.T, s, _ blob.Store) {
	for i := range 20 {
		put(t, s, fmt.Sprintf("x/%d/y", i), "", blob.Condition{})
	}
	seen := 0
	for range s.List(t.Context(), "") {
		if seen++; seen == 3 {
			break
		}
	}
	if seen != 3 {
		t.Errorf("saw %d", seen)
	}
}

func testDelete(t *testing.T, s, other blob.Store) {
	put(t, s, "d/1", "x", blob.Condition{})
	put(t, s, "d/2", "x", blob.Condition{})
	for range 2 {
		if err := other.Delete(t.Context(), "d/1"); err != nil {
			t.Fatal(err)
		}
	}
	if names := list(t, s, "d/"); !slices.Equal(names, []string{"d/2"}) {
		t.Errorf("left: %v", names)
	}
}

func testNames(t *testing.T, s, _ blob.Store) {
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.hidden", ".lock", "a b", "a\x00", "é", "a\\b", "a:b", string(bytes.Repeat([]byte("n"), 600))} {
		_, err := s.Put(t.Context(), name, []byte("x"), blob.Condition{})
		wantErr(t, err, blob.ErrName)
		_, err = s.Get(t.Context(), name, blob.Range{})
		wantErr(t, err, blob.ErrName)
		_, err = s.Stat(t.Context(), name)
		wantErr(t, err, blob.ErrName)
		wantErr(t, s.Delete(t.Context(), name), blob.ErrName)
	}
	if names := list(t, s, ""); len(names) != 0 {
		t.Errorf("invalid names left %v", names)
	}
}

func testCancelled(t *testing.T, s, _ blob.Store) {
	put(t, s, "a", "x", blob.Condition{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Put(ctx, "b", nil, blob.Condition{})
	wantErr(t, err, context.Canceled)
	_, err = s.Get(ctx, "a", blob.Range{})
	wantErr(t, err, context.Canceled)
	wantErr(t, s.Delete(ctx, "a"), context.Canceled)
	for _, err := range s.List(ctx, "") {
		wantErr(t, err, context.Canceled)
	}
	if names := list(t, s, ""); !slices.Equal(names, []string{"a"}) {
		t.Errorf("left: %v", names)
	}
}

// testNoHalves reads while others replace: every read is one write's content, from end to end.
func testNoHalves(t *testing.T, s, other blob.Store) {
	content := func(c byte) []byte { return bytes.Repeat([]byte{c}, 100_000+int(c)*100) }
	put(t, s, "half", string(content(0)), blob.Condition{})
	var wg sync.WaitGroup
	for c := range byte(20) {
		wg.Go(func() {
			if _, err := s.Put(t.Context(), "half", content(c), blob.Condition{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			o, err := other.Get(t.Context(), "half", blob.Range{})
			if err != nil {
				t.Error(err)
				return
			}
			if !bytes.Equal(o.Data, content(o.Data[0])) {
				t.Errorf("read %d bytes that no write wrote", len(o.Data))
			}
		})
	}
	wg.Wait()
}

func testAliasing(t *testing.T, s, _ blob.Store) {
	data := []byte("mine")
	if _, err := s.Put(t.Context(), "alias", data, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	data[0] = 'X'
	o, err := s.Get(t.Context(), "alias", blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	o.Data[1] = 'X'
	if got, _ := get(t, s, "alias"); got != "mine" {
		t.Errorf("the store shares its memory: %q", got)
	}
}
