package drivertest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// DatastoreHarness gives the suite datastores to work on.
type DatastoreHarness interface {
	// Driver is a driver as a process has it that begins anew, over the same vault and site each time.
	Driver(t *testing.T) driver.Datastore
	// Broken is a driver whose next Restore fails in the middle, with some of the data brought back.
	Broken(t *testing.T) driver.Datastore
	// New makes an empty datastore.
	New(t *testing.T) dr.Datastore
	// Missing names a datastore that is not there.
	Missing(t *testing.T) dr.Datastore
	// Write stores a value as the application does; once it returned, the value is acknowledged.
	Write(t *testing.T, ds dr.Datastore, key string, value []byte)
	// Read returns what the application finds.
	Read(t *testing.T, ds dr.Datastore) map[string][]byte
}

// Datastore runs the contract of driver.Datastore.
func Datastore(t *testing.T, h DatastoreHarness) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, DatastoreHarness)
	}{
		{"inspects without changing", datastoreInspect},
		{"what was acknowledged before the beacon comes back", datastoreRoundTrip},
		{"an older point brings back the older data", datastoreOlder},
		{"beacons grow, across a restore too", datastoreSequence},
		{"writes while it copies do no harm", datastoreLive},
		{"data of others is not written over", datastoreStray},
		{"a restore is not done over by doing it again", datastoreAgain},
		{"a restore that broke off is seen, and resumed", datastoreBroken},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, h)
		})
	}
}

const application = "shop"

// values are small and large, empty and random.
func values(t *testing.T, h DatastoreHarness, ds dr.Datastore) map[string][]byte {
	t.Helper()
	all := map[string][]byte{"empty": {}, "small": []byte("order 1"), "repeated": bytes.Repeat([]byte("abc"), 100_000)}
	for i := range 12 {
		all[fmt.Sprintf("random-%d", i)] = random(300_000 + i)
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		h.Write(t, ds, k, all[k])
	}
	return all
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func protect(t *testing.T, d driver.Datastore, ds dr.Datastore, point string) dr.DataPoint {
	t.Helper()
	before := time.Now()
	p, err := d.Protect(t.Context(), driver.ProtectRequest{Application: application, Point: point, Datastore: ds,
		Beacon: dr.Beacon{Application: application, Datastore: ds.Name, Site: "east", Epoch: 3}})
	if err != nil {
		t.Fatalf("protect for point %s: %v", point, err)
	}
	b := p.Beacon
	if b.Application != application || b.Datastore != ds.Name || b.Site != "east" || b.Epoch != 3 || b.Sequence == 0 {
		t.Errorf("point %s: got beacon %+v", point, b)
	}
	if b.Time.Before(before.Add(-time.Second)) || b.Time.After(time.Now().Add(time.Second)) || b.Time.Location() != time.UTC {
		t.Errorf("point %s: beacon is dated %s, which is not now in UTC", point, b.Time)
	}
	if p.Datastore != ds.Name || p.Snapshot == "" || p.Consistency == "" {
		t.Errorf("point %s: got %+v", point, p)
	}
	return p
}

func restoreRequest(ds dr.Datastore, point string, p dr.DataPoint) driver.RestoreRequest {
	return driver.RestoreRequest{Application: application, Point: point, Datastore: ds, Data: p}
}

func restore(t *testing.T, d driver.Datastore, ds dr.Datastore, point string, p dr.DataPoint) dr.DataOutput {
	t.Helper()
	out, err := d.Restore(t.Context(), restoreRequest(ds, point, p))
	if err != nil {
		t.Fatalf("restore of point %s: %v", point, err)
	}
	if out.Beacon != p.Beacon {
		t.Errorf("restore of point %s: read beacon %+v back, want %+v", point, out.Beacon, p.Beacon)
	}
	return out
}

func wantValues(t *testing.T, h DatastoreHarness, ds dr.Datastore, want map[string][]byte) {
	t.Helper()
	got := h.Read(t, ds)
	if maps.EqualFunc(got, want, bytes.Equal) {
		return
	}
	t.Errorf("the application finds %d values, %v; want %d, %v", len(got), slices.Sorted(maps.Keys(got)), len(want), slices.Sorted(maps.Keys(want)))
}

func wantRestored(t *testing.T, d driver.Datastore, req driver.RestoreRequest, want *dr.DataOutput) {
	t.Helper()
	got, err := d.Restored(t.Context(), req)
	switch {
	case err != nil:
		t.Errorf("restored: %v", err)
	case want == nil && got != nil:
		t.Errorf("restored: got %+v, want nil", *got)
	case want != nil && (got == nil || got.Beacon != want.Beacon || got.Files != want.Files || got.Bytes != want.Bytes):
		t.Errorf("restored: got %+v, want %+v", got, *want)
	}
}

func inspectDatastore(t *testing.T, d driver.Datastore, ds dr.Datastore) driver.DataState {
	t.Helper()
	s, err := d.Inspect(t.Context(), ds)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return s
}

func datastoreInspect(t *testing.T, h DatastoreHarness) {
	d, ds := h.Driver(t), h.New(t)
	h.Write(t, ds, "a", []byte("1"))
	if s := inspectDatastore(t, d, ds); s.Description == "" || s.Restoring != "" {
		t.Errorf("got %+v", s)
	}
	wantValues(t, h, ds, map[string][]byte{"a": []byte("1")})
	if _, err := d.Inspect(t.Context(), h.Missing(t)); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("a missing datastore: got error %v, want dr.ErrNotFound", err)
	}
}

func datastoreRoundTrip(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	want := values(t, h, source)
	p := protect(t, d, source, "p1")
	if p.Bytes < 3_600_000 || p.StoredBytes < 3_600_000 || p.Files < 15 {
		t.Errorf("point counts %d bytes, %d stored, %d files", p.Bytes, p.StoredBytes, p.Files)
	}
	req := restoreRequest(target, "p1", p)
	wantRestored(t, d, req, nil)
	out := restore(t, d, target, "p1", p)
	wantValues(t, h, target, want)
	wantRestored(t, h.Driver(t), req, &out)
	wantRestored(t, d, restoreRequest(target, "p2", p), nil)
	if s := inspectDatastore(t, d, target); s.Restoring != "" {
		t.Errorf("after its end the restore of %s is said to go on", s.Restoring)
	}
	if second := protect(t, d, source, "p2"); second.StoredBytes > 200_000 {
		t.Errorf("a second copy of the same data stored %d bytes", second.StoredBytes)
	}
}

func datastoreOlder(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	h.Write(t, source, "a", []byte("old"))
	p1 := protect(t, d, source, "p1")
	h.Write(t, source, "a", []byte("newer"))
	h.Write(t, source, "b", []byte("late"))
	protect(t, d, source, "p2")
	restore(t, d, target, "p1", p1)
	wantValues(t, h, target, map[string][]byte{"a": []byte("old")})
}

func datastoreSequence(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	h.Write(t, source, "a", []byte("1"))
	last := protect(t, d, source, "p1")
	for i := range 2 {
		p := protect(t, h.Driver(t), source, fmt.Sprintf("p%d", i+2))
		if p.Beacon.Sequence != last.Beacon.Sequence+1 || p.Beacon.Time.Before(last.Beacon.Time) {
			t.Errorf("beacon %+v follows %+v", p.Beacon, last.Beacon)
		}
		last = p
	}
	restore(t, d, target, "p3", last)
	if p := protect(t, d, target, "p4"); p.Beacon.Sequence != last.Beacon.Sequence+1 {
		t.Errorf("after a restore of beacon %d comes %d", last.Beacon.Sequence, p.Beacon.Sequence)
	}
}

func datastoreLive(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	want := values(t, h, source)
	var stop atomic.Bool
	type write struct {
		key  string
		done time.Time
	}
	writes := make(chan []write, 1)
	go func() {
		var all []write
		for i := 0; !stop.Load() && i < 10_000; i++ {
			key := fmt.Sprintf("live-%d", i)
			h.Write(t, source, key, []byte(key))
			all = append(all, write{key, time.Now()})
		}
		writes <- all
	}()
	time.Sleep(20 * time.Millisecond)
	p := protect(t, d, source, "p1")
	stop.Store(true)
	acknowledged := <-writes
	restore(t, d, target, "p1", p)
	got := h.Read(t, target)
	for k, v := range want {
		if !bytes.Equal(got[k], v) {
			t.Errorf("%s was there before and is lost or changed", k)
		}
	}
	early := 0
	for _, w := range acknowledged {
		if w.done.After(p.Beacon.Time) {
			break
		}
		if early++; string(got[w.key]) != w.key {
			t.Errorf("%s was acknowledged at %s, before beacon %s, and is lost", w.key, w.done, p.Beacon.Time)
		}
	}
	t.Logf("%d writes while it copied, %d of them before the beacon", len(acknowledged), early)
}

func datastoreStray(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	h.Write(t, source, "a", []byte("copied"))
	p := protect(t, d, source, "p1")
	h.Write(t, target, "a", []byte("precious"))
	if _, err := d.Restore(t.Context(), restoreRequest(target, "p1", p)); dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("got error %v, want one of class blocked", err)
	}
	wantValues(t, h, target, map[string][]byte{"a": []byte("precious")})
	wantRestored(t, d, restoreRequest(target, "p1", p), nil)
	protect(t, d, target, "p2") // which a restore that was refused must not prevent
}

func datastoreAgain(t *testing.T, h DatastoreHarness) {
	d, source, target := h.Driver(t), h.New(t), h.New(t)
	h.Write(t, source, "a", []byte("1"))
	p1 := protect(t, d, source, "p1")
	h.Write(t, source, "a", []byte("2"))
	p2 := protect(t, d, source, "p2")
	first := restore(t, d, target, "p1", p1)
	h.Write(t, target, "b", []byte("written since"))
	second := restore(t, h.Driver(t), target, "p1", p1)
	if first.Files != second.Files || first.Bytes != second.Bytes {
		t.Errorf("got %+v and then %+v", first, second)
	}
	want := map[string][]byte{"a": []byte("1"), "b": []byte("written since")}
	wantValues(t, h, target, want)
	if _, err := d.Restore(t.Context(), restoreRequest(target, "p2", p2)); dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("another point over it: got error %v, want one of class blocked", err)
	}
	wantValues(t, h, target, want)
}

func datastoreBroken(t *testing.T, h DatastoreHarness) {
	source, target := h.New(t), h.New(t)
	want := values(t, h, source)
	d := h.Driver(t)
	p := protect(t, d, source, "p1")
	other := protect(t, d, source, "p2")
	req := restoreRequest(target, "p1", p)
	if _, err := h.Broken(t).Restore(t.Context(), req); err == nil {
		t.Fatal("the harness's broken driver ended a restore without an error")
	}
	wantRestored(t, d, req, nil)
	if s := inspectDatastore(t, d, target); s.Restoring != "p1" {
		t.Errorf("inspect says that %q is being restored, want p1", s.Restoring)
	}
	_, err := d.Protect(t.Context(), driver.ProtectRequest{Application: application, Point: "p3", Datastore: target})
	if dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("protect of half a restore: got error %v, want one of class blocked", err)
	}
	if _, err := d.Restore(t.Context(), restoreRequest(target, "p2", other)); dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("another point over half a restore: got error %v, want one of class blocked", err)
	}
	out := restore(t, d, target, "p1", p)
	wantValues(t, h, target, want)
	wantRestored(t, d, req, &out)
	if s := inspectDatastore(t, d, target); s.Restoring != "" {
		t.Errorf("after its end the restore of %s is said to go on", s.Restoring)
	}
	protect(t, d, target, "p4")
}
