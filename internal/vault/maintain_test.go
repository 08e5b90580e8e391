package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// dayOf is the day of the n-th recovery point of the tests.
func dayOf(n int) time.Time { return time.Date(2026, 11, 1+n, 8, 0, 0, 0, time.UTC) }

// backUp takes a recovery point of two parts, without sealing it.
func backUp(ctx context.Context, v *Vault, app string, n int) (dr.RecoveryPoint, error) {
	p := dr.RecoveryPoint{ID: NewID(dayOf(n), app), Application: app, Epoch: 1, Time: dayOf(n)}
	s, err := v.Repo().NewSaver(ctx)
	if err != nil {
		return p, err
	}
	save := func(part string) (string, error) {
		ids, size, err := s.SaveData(ctx, strings.NewReader(strings.Repeat(fmt.Sprintf("%s of %s, day %d. ", part, app, n), 3000)))
		if err != nil {
			return "", err
		}
		tree, err := s.SaveTree(ctx, &repo.Tree{Nodes: []*repo.Node{{Name: part, Type: repo.FileNode, Size: uint64(size), Content: ids}}})
		if err != nil {
			return "", err
		}
		id, err := s.SaveSnapshot(ctx, repo.Snapshot{Time: dayOf(n), Tree: tree, Tags: []string{"application=" + app, "point=" + p.ID, "part=" + part}})
		return id.String(), err
	}
	p.Checkpoint, err = save("state")
	if err == nil {
		p.Data = []dr.DataPoint{{Datastore: "orders"}}
		p.Data[0].Snapshot, err = save("orders")
	}
	return p, errors.Join(err, s.Close(ctx))
}

func mustBackUp(t testing.TB, v *Vault, app string, n int) dr.RecoveryPoint {
	t.Helper()
	p, err := backUp(t.Context(), v, app, n)
	if err == nil {
		err = SealPoint(t.Context(), v, p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func keepLast(n int, apps ...string) PruneOptions {
	o := PruneOptions{Retention: map[string]dr.Retention{}, Now: dayOf(20)}
	for _, app := range apps {
		o.Retention[app] = dr.Retention{Last: n}
	}
	return o
}

// whole checks the vault, and that the application has exactly these recovery points.
func whole(t testing.TB, v *Vault, app string, want ...dr.RecoveryPoint) {
	t.Helper()
	report, err := Check(t.Context(), v, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("check: %s", p)
	}
	points, err := v.Points(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	var got, wanted []string
	for _, p := range points {
		got = append(got, p.ID)
	}
	for _, p := range want {
		wanted = append(wanted, p.ID)
	}
	if strings.Join(got, " ") != strings.Join(wanted, " ") {
		t.Errorf("%s has %v, want %v", app, got, wanted)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	var shop []dr.RecoveryPoint
	for n := range 5 {
		shop = append(shop, mustBackUp(t, v, "shop", n))
	}
	blog := []dr.RecoveryPoint{mustBackUp(t, v, "blog", 0), mustBackUp(t, v, "blog", 1)}
	unsealed, err := backUp(t.Context(), v, "shop", 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backUp(t.Context(), v, "lost", 0); err != nil { // all of its records are gone
		t.Fatal(err)
	}
	o := keepLast(2, "shop")
	plan, err := PlanPrune(t.Context(), v, o)
	if err != nil {
		t.Fatal(err)
	}
	whole(t, v, "shop", shop...)
	report, err := Prune(t.Context(), v, o)
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for i, f := range report.Points {
		if plan.Points[i].Point.ID != f.Point.ID || plan.Points[i].Keep != f.Keep {
			t.Errorf("did %+v, plan was %+v", f, plan.Points[i])
		}
		if !f.Keep {
			gone++
		}
		if f.Point.Application == "blog" && f.Why[len(f.Why)-1] != "no retention is declared" {
			t.Errorf("%+v", f)
		}
	}
	if gone != 3 || !report.Done || plan.Done {
		t.Errorf("%d points went: %+v", gone, report)
	}
	for _, l := range report.Leftovers {
		if l.Keep != (l.Application == "lost") || l.Why == "" {
			t.Errorf("%+v", l)
		}
	}
	if len(report.Leftovers) != 4 || report.Repository.Snapshots != 4+4+2 || report.Repository.RemovedBytes == 0 || plan.Repository.Snapshots != report.Repository.Snapshots {
		t.Errorf("%d leftovers, %+v", len(report.Leftovers), report.Repository)
	}
	whole(t, v, "shop", shop[3:]...)
	whole(t, v, "blog", blog...)
	if err := SealPoint(t.Context(), v, unsealed); dr.ClassOf(err) != dr.ClassIncomplete {
		t.Errorf("a point of which the snapshots are gone: %v", err)
	}
	whole(t, v, "shop", shop[3:]...)
}

// TestPruneLeavesABackupUnderWay: what is not sealed yet, and younger than the grace.
func TestPruneLeavesABackupUnderWay(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	first := mustBackUp(t, v, "shop", 0)
	p, err := backUp(t.Context(), v, "shop", 1)
	if err != nil {
		t.Fatal(err)
	}
	o := keepLast(1, "shop")
	o.Now = dayOf(1).Add(DefaultGrace - time.Minute)
	report, err := Prune(t.Context(), v, o)
	if err != nil || len(report.Leftovers) != 2 || !report.Leftovers[0].Keep {
		t.Fatalf("%+v, %v", report, err)
	}
	if err := SealPoint(t.Context(), v, p); err != nil {
		t.Error(err)
	}
	whole(t, v, "shop", first, p)
}

// TestPruneLeavesWhatARunNeeds, so that a failover that was interrupted can be resumed.
func TestPruneLeavesWhatARunNeeds(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	var points []dr.RecoveryPoint
	for n := range 4 {
		points = append(points, mustBackUp(t, v, "shop", n))
	}
	begin := func(when time.Time, point string, ended bool) {
		run := NewID(when, "shop")
		entries := []dr.Entry{{Run: run, Sequence: 1, Type: dr.EntryRunStarted, Plan: &dr.Plan{Application: "shop", RecoveryPoint: point}}}
		if ended {
			entries = append(entries, dr.Entry{Run: run, Sequence: 2, Type: dr.EntryRunEnded})
		}
		for _, e := range entries {
			if err := v.AppendEntry(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := keepLast(1, "shop")
	begin(o.Now.Add(-time.Hour), points[0].ID, false)
	begin(o.Now.Add(-time.Hour), points[1].ID, true)
	begin(o.Now.Add(-8*24*time.Hour), points[2].ID, false)
	if _, err := Prune(t.Context(), v, o); err != nil {
		t.Fatal(err)
	}
	whole(t, v, "shop", points[0], points[3])
}

// TestPruneOfADamagedVaultRemovesNothing: a record that cannot be read may name anything.
func TestPruneOfADamagedVaultRemovesNothing(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	for n := range 3 {
		mustBackUp(t, v, "shop", n)
	}
	points, err := v.list(t.Context(), "control/apps/shop/points")
	if err != nil {
		t.Fatal(err)
	}
	name := "control/apps/shop/points/" + points[0]
	if _, err := v.store.Put(t.Context(), name, []byte("damaged"), blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	_, err = Prune(t.Context(), v, keepLast(1, "shop"))
	wantDR(t, err, dr.ClassIncomplete, repo.ErrDamaged, name)
	report, err := Check(t.Context(), v, false, nil)
	if err != nil || len(report.Problems) != 1 || !strings.Contains(report.Problems[0], name) || report.Repository.Snapshots != 6 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestCheckFindsWhatPointsLack(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	p := mustBackUp(t, v, "shop", 0)
	other := mustBackUp(t, v, "shop", 1)
	if err := v.store.Delete(t.Context(), "repo/snapshots/"+p.Data[0].Snapshot); err != nil {
		t.Fatal(err)
	}
	// A record that was copied over another one.
	o, err := v.store.Get(t.Context(), "control/apps/shop/points/"+other.ID, blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.store.Put(t.Context(), "control/apps/shop/points/forged", o.Data, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	report, err := Check(t.Context(), v, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Join(report.Problems, "\n")
	for _, want := range []string{"recovery point " + p.ID + " of shop: its snapshot " + p.Data[0].Snapshot[:8] + " is missing", "points/forged: damaged: it is a copy of"} {
		if !strings.Contains(found, want) {
			t.Errorf("found %s, want %s", found, want)
		}
	}
	if len(report.Problems) != 2 || report.Records != 3 {
		t.Errorf("%+v", report)
	}
}

// crashing lets a number of writes through, and none afterwards.
type crashing struct {
	blob.Store
	left chan struct{} // a value for each write that is let through
}

var errCrash = errors.New("crashed")

func (s crashing) write() error {
	select {
	case <-s.left:
		return nil
	default:
		return errCrash
	}
}

func (s crashing) Put(ctx context.Context, name string, data []byte, c blob.Condition) (blob.Version, error) {
	if err := s.write(); err != nil {
		return "", err
	}
	return s.Store.Put(ctx, name, data, c)
}

func (s crashing) Delete(ctx context.Context, name string) error {
	if err := s.write(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, name)
}

// TestPruneCrashesAtEveryWrite: whatever is left, each point that can be seen is whole, and what was to
// stay is there.
func TestPruneCrashesAtEveryWrite(t *testing.T) {
	t.Parallel()
	for writes := 0; ; writes++ {
		store := blob.NewMem()
		if err := initStore(t.Context(), store, testKey); err != nil {
			t.Fatal(err)
		}
		v := openAgain(t, store)
		var points []dr.RecoveryPoint
		for n := range 4 {
			points = append(points, mustBackUp(t, v, "shop", n))
		}
		left := make(chan struct{}, writes)
		for range writes {
			left <- struct{}{}
		}
		_, err := Prune(t.Context(), openAgain(t, crashing{store, left}), keepLast(2, "shop"))
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		for info := range store.List(t.Context(), "repo/locks/") {
			if err := store.Delete(t.Context(), info.Name); err != nil {
				t.Fatal(err)
			}
		}
		after := openAgain(t, store)
		seen, pointsErr := after.Points(t.Context(), "shop")
		if pointsErr != nil || len(seen) < 2 || len(seen) > 4 {
			t.Fatalf("after %d writes: %d points, %v", writes, len(seen), pointsErr)
		}
		whole(t, after, "shop", seen...)
		if seen[len(seen)-1].ID != points[3].ID || seen[len(seen)-2].ID != points[2].ID {
			t.Fatalf("after %d writes a point is lost that was to stay", writes)
		}
		if _, err := Prune(t.Context(), after, keepLast(2, "shop")); err != nil {
			t.Fatalf("a prune after the crash at write %d: %v", writes, err)
		}
		whole(t, after, "shop", points[2:]...)
		if report, _ := Check(t.Context(), after, false, nil); report.Repository.Snapshots != 4 || report.Repository.Unused != 0 {
			t.Errorf("after %d writes and another prune: %+v", writes, report.Repository)
		}
		if err == nil {
			if writes < 8 {
				t.Errorf("only %d writes", writes)
			}
			return
		}
	}
}

// TestPruneWhereTheStoreKeepsRecords: a point of which the record stays keeps its snapshots.
func TestPruneWhereTheStoreKeepsRecords(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, retaining{store})
	var points []dr.RecoveryPoint
	for n := range 3 {
		points = append(points, mustBackUp(t, v, "shop", n))
	}
	report, err := Prune(t.Context(), v, keepLast(1, "shop"))
	if err != nil || report.Retained != 2 || !report.Points[0].Keep {
		t.Errorf("%+v, %v", report, err)
	}
	whole(t, v, "shop", points...)
}

// retaining refuses to delete recovery points.
type retaining struct{ blob.Store }

func (s retaining) Delete(ctx context.Context, name string) error {
	if strings.Contains(name, "/points/") {
		return fmt.Errorf("delete %s: %w", name, blob.ErrRetained)
	}
	return s.Store.Delete(ctx, name)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	file := filepath.Join(t.TempDir(), "second.key")
	if err := CreateKeyFile(file); err != nil {
		t.Fatal(err)
	}
	keys, err := Keys(t.Context(), v)
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	first := keys[0].ID.String()
	_, err = RemoveKey(t.Context(), v, first, true, 0, nil)
	wantDR(t, err, dr.ClassBlocked, repo.ErrLastKey, "keys add")
	id, err := AddKey(t.Context(), v, file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = AddKey(t.Context(), v, file)
	wantDR(t, err, dr.ClassConflict, dr.ErrExists, file)
	_, err = RemoveKey(t.Context(), v, first, false, 0, nil)
	wantDR(t, err, dr.ClassBlocked, repo.ErrKeyInUse, "--in-use")
	_, err = RemoveKey(t.Context(), v, "zz", false, 0, nil)
	wantDR(t, err, dr.ClassUsage, repo.ErrNotFound, "keys list")
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := openStore(t.Context(), dr.Vault{Name: "main"}, store, []byte(strings.TrimSpace(string(key))))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := RemoveKey(t.Context(), other, first, false, 0, nil); err != nil || k.ID.String() != first {
		t.Fatal(k, err)
	}
	if keys, err := Keys(t.Context(), other); err != nil || len(keys) != 1 || keys[0].ID.String() != id || !keys[0].InUse {
		t.Errorf("%+v, %v", keys, err)
	}
	_, err = openStore(t.Context(), dr.Vault{Name: "main"}, store, testKey)
	wantDR(t, err, dr.ClassDenied, dr.ErrWrongKey)
}
