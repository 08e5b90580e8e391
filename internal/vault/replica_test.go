package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

func quiet(string, ...any) {}

// protect seals a recovery point that names a snapshot of some documents.
func protect(t testing.TB, v *Vault, app, id string, docs map[string][]byte) dr.RecoveryPoint {
	t.Helper()
	saver, err := v.Repo().NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	docTree := repo.NewDocumentTree()
	for path, data := range docs {
		if _, err := docTree.Put(t.Context(), saver, path, data); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := docTree.Save(t.Context(), saver)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := saver.SaveSnapshot(t.Context(), repo.Snapshot{Tree: tree, Paths: []string{"/state"}})
	if err := errors.Join(err, saver.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	p := dr.RecoveryPoint{ID: id, Application: app, Time: time.Now().UTC(), Checkpoint: snap.String(), Epoch: 1}
	if err := v.PutPoint(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func documents(n int, seed string) map[string][]byte {
	docs := map[string][]byte{}
	for i := range n {
		docs[fmt.Sprintf("namespaces/shop/configmaps/c%03d.json", i)] = []byte(strings.Repeat(fmt.Sprintf("%s %d ", seed, i), 200))
	}
	return docs
}

// intact checks that every point of a vault can be read to its last byte.
func intact(t *testing.T, v *Vault, app string) int {
	t.Helper()
	points, err := v.Points(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		snap, err := v.Repo().LoadSnapshot(t.Context(), p.Checkpoint)
		if err != nil {
			t.Fatalf("point %s: %v", p.ID, err)
		}
		if err := v.Repo().WalkDocuments(t.Context(), snap.Tree, func(string, []byte) error { return nil }); err != nil {
			t.Fatalf("point %s: %v", p.ID, err)
		}
	}
	report, err := v.Repo().Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("check: %v %v", report.Problems, err)
	}
	return len(points)
}

func replica(t *testing.T, v *Vault, to blob.Store) *Replica {
	t.Helper()
	r, err := ReplicasOf(v, dr.Vault{}).replicaOf(t.Context(), "far", to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func copied(t *testing.T, v *Vault, to blob.Store) CopyResult {
	t.Helper()
	res, err := replica(t, v, to).Copy(t.Context(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// failing lets a number of puts through and refuses the others, as a line does that breaks.
type failing struct {
	blob.Store
	left atomic.Int64
}

var errLine = errors.New("the line broke")

func (f *failing) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	if f.left.Add(-1) < 0 {
		return "", errLine
	}
	return f.Store.Put(ctx, name, data, cond)
}

// TestAReplicaIsAVaultAtAnyInstant breaks a copy off after every single put.
func TestAReplicaIsAVaultAtAnyInstant(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	own := dr.Ownership{Application: "shop", Site: "east", Epoch: 3}
	if _, err := v.PutOwnership(t.Context(), own, ""); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		protect(t, v, "shop", fmt.Sprintf("p%d", i), documents(30, fmt.Sprint(i)))
	}
	for i := range 5 {
		if err := v.AppendEntry(t.Context(), dr.Entry{Run: "r1", Sequence: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	to := blob.NewMem()
	if _, err := replica(t, v, to).Copy(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	puts := 0
	for range to.List(t.Context(), "") {
		puts++
	}
	for n := range puts {
		part := &failing{Store: blob.NewMem()}
		part.left.Store(1 << 30)
		r := replica(t, v, part)
		part.left.Store(int64(n))
		if _, err := r.Copy(t.Context(), quiet); !errors.Is(err, errLine) {
			t.Fatalf("after %d puts: %v", n, err)
		}
		if _, err := part.Stat(t.Context(), "repo/config"); err == nil {
			there := openAgain(t, part.Store)
			intact(t, there, "shop")
			if _, err := there.Entries(t.Context(), "r1"); err != nil && !errors.Is(err, dr.ErrNotFound) {
				t.Errorf("after %d puts: %v", n, err)
			}
		}
		part.left.Store(1 << 30)
		res, err := r.Copy(t.Context(), quiet)
		if err != nil || res.Objects > puts-n+4 { // four were under way
			t.Fatalf("going on after %d of %d puts: %d objects, %v", n, puts, res.Objects, err)
		}
		if got := intact(t, openAgain(t, part.Store), "shop"); got != 4 {
			t.Errorf("%d points", got)
		}
	}
	if res := copied(t, v, to); res.Objects != 0 || res.Removed != 0 {
		t.Errorf("a copy in step wrote %+v", res)
	}
	lag, err := replica(t, v, to).Lag(t.Context())
	if err != nil || lag.Missing != 0 || lag.Newest["shop"].IsZero() {
		t.Errorf("lag %+v, %v", lag, err)
	}
	protect(t, v, "shop", "p9", documents(30, "new"))
	if lag, err = replica(t, v, to).Lag(t.Context()); err != nil || lag.Missing < 4 {
		t.Errorf("lag %+v, %v", lag, err)
	}
}

// TestACopyRemovesOnlyWhatAPruneDecided.
func TestACopyRemovesOnlyWhatAPruneDecided(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	protect(t, v, "shop", "old", documents(20, "old"))
	var oldNames []string
	for info := range store.List(t.Context(), "repo/") {
		if strings.HasPrefix(info.Name, "repo/data/") || strings.HasPrefix(info.Name, "repo/index/") || strings.HasPrefix(info.Name, "repo/snapshots/") {
			oldNames = append(oldNames, info.Name)
		}
	}
	oldNames = append(oldNames, "control/apps/shop/points/old")
	protect(t, v, "shop", "new", documents(20, "new"))
	to := blob.NewMem()
	copied(t, v, to)

	// The vault comes back empty but for its keys, as a wrong mount or a careless lifecycle rule leaves it.
	for _, name := range oldNames {
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if res := copied(t, v, to); res.Removed != 0 {
		t.Errorf("removed %d objects that nobody decided about", res.Removed)
	}
	if got := intact(t, openAgain(t, to), "shop"); got != 2 {
		t.Errorf("the replica has %d points", got)
	}
	for _, name := range oldNames {
		if err := v.store.Delete(t.Context(), name); err != nil { // as a prune does
			t.Fatal(err)
		}
	}
	if err := v.RecordRemovals(t.Context()); err != nil {
		t.Fatal(err)
	}
	v = openAgain(t, store)
	if res := copied(t, v, to); res.Removed != len(oldNames) {
		t.Errorf("removed %d of %d", res.Removed, len(oldNames))
	}
	if got := intact(t, openAgain(t, to), "shop"); got != 1 {
		t.Errorf("the replica has %d points", got)
	}
}

// TestDamageIsNotCopied: an object that is not what its name says stays where it is, and is named.
func TestDamageIsNotCopied(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	protect(t, v, "shop", "a", documents(20, "a"))
	for info := range store.List(t.Context(), "repo/data/") {
		o, err := store.Get(t.Context(), info.Name, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		o.Data[len(o.Data)/2] ^= 1
		if _, err := store.Put(t.Context(), info.Name, o.Data, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		break
	}
	to := blob.NewMem()
	_, err := replica(t, v, to).Copy(t.Context(), quiet)
	wantDR(t, err, dr.ClassIncomplete, repo.ErrDamaged, "repo/data/")
	if got := intact(t, openAgain(t, to), "shop"); got != 0 {
		t.Errorf("the replica has %d points", got)
	}
}

// vanishing removes an object when it is about to be read, as a prune does.
type vanishing struct {
	blob.Store
	name string
	gone func()
}

func (s *vanishing) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if name == s.name && s.gone != nil {
		gone := s.gone
		s.gone = nil
		gone()
	}
	return s.Store.Get(ctx, name, r)
}

func (s *vanishing) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return s.Store.List(ctx, prefix)
}

// TestACopyDuringAPrune looks again when what it listed is gone.
func TestACopyDuringAPrune(t *testing.T) {
	t.Parallel()
	mem := blob.NewMem()
	if err := initStore(t.Context(), mem, testKey); err != nil {
		t.Fatal(err)
	}
	source := &vanishing{Store: mem}
	v := openAgain(t, source)
	protect(t, v, "shop", "old", documents(20, "old"))
	var names []string
	for _, dir := range []string{"repo/snapshots/", "repo/index/", "repo/data/", "control/apps/shop/points/"} {
		for info := range mem.List(t.Context(), dir) {
			names = append(names, info.Name)
		}
	}
	protect(t, v, "shop", "new", documents(20, "new"))
	source.name, source.gone = names[0], func() {
		for _, name := range names {
			if err := mem.Delete(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
	}
	to := blob.NewMem()
	copied(t, v, to)
	if got := intact(t, openAgain(t, to), "shop"); got != 1 {
		t.Errorf("the replica has %d points", got)
	}
}

func TestAReplicaOfAnotherVault(t *testing.T) {
	t.Parallel()
	to := blob.NewMem()
	copied(t, newVault(t), to)
	_, err := ReplicasOf(newVault(t), dr.Vault{}).replicaOf(t.Context(), "far", to)
	wantDR(t, err, dr.ClassConflict, nil, "another vault")
}

// fleetVault makes a vault in a directory with one replica in another.
func fleetVault(t *testing.T) dr.Vault {
	t.Helper()
	dir := t.TempDir()
	in := dr.Vault{Name: "main", Location: "file://" + dir + "/near", EncryptionKey: dr.KeySource{File: filepath.Join(dir, "key")},
		Replicas: []dr.Replica{{Name: "far", Location: "file://" + dir + "/far"}}}
	if err := CreateKeyFile(in.EncryptionKey.File); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKeyFile(in.EncryptionKey.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := Init(t.Context(), in, key, nil); err != nil {
		t.Fatal(err)
	}
	return in
}

func openVault(t *testing.T, in dr.Vault) *Vault {
	t.Helper()
	v, err := Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func inStep(t *testing.T, v *Vault, in dr.Vault) {
	t.Helper()
	for _, c := range ReplicasOf(v, in).InStep(t.Context(), "", quiet) {
		if c.Err != nil {
			t.Fatalf("%s: %v", c.Replica, c.Err)
		}
	}
}

// TestTheFirstLocationIsLost: a replica is read alone, changes nothing, and becomes the vault when a person
// says so, with every epoch beyond what the lost location can have given out.
func TestTheFirstLocationIsLost(t *testing.T) {
	t.Parallel()
	in := fleetVault(t)
	near := strings.TrimPrefix(in.Location, "file://")
	v := openVault(t, in)
	if _, err := v.PutOwnership(t.Context(), dr.Ownership{Application: "shop", Site: "east", Epoch: 7}, ""); err != nil {
		t.Fatal(err)
	}
	protect(t, v, "shop", "a", documents(10, "a"))
	_, lease, err := v.AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: "h", Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	inStep(t, v, in)
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(near, near+".lost"); err != nil {
		t.Fatal(err)
	}

	far := openVault(t, in.At(in.Replicas[0]))
	if got := intact(t, far, "shop"); got != 1 {
		t.Errorf("%d points", got)
	}
	if lags := ReplicasOf(v, in).Lags(t.Context()); len(lags) != 1 || lags[0].Error == "" {
		t.Errorf("lags of a lost vault: %+v", lags)
	}
	_, _, err = far.AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: "h"})
	wantDR(t, err, dr.ClassBlocked, nil, "promote")
	wantDR(t, far.PutPoint(t.Context(), dr.RecoveryPoint{ID: "b", Application: "shop"}), dr.ClassBlocked, nil, "promote")

	var said []string
	p, err := Promote(t.Context(), in, in.Replicas[0], "east is under water", "me@here", func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) })
	if err != nil || p.Retired || p.Epochs["shop"] != 1000 || !strings.Contains(strings.Join(said, "\n"), "does not answer") {
		t.Fatalf("%+v, %v, %q", p, err, said)
	}
	now := in
	now.Location, now.Replicas = in.Replicas[0].Location, []dr.Replica{{Name: "near", Location: in.Location}}
	promoted := openVault(t, now)
	o, _, err := promoted.Ownership(t.Context(), "shop")
	if err != nil || o.Epoch != 1000 || o.Site != "east" || o.Lease != nil || o.BreakGlass != "east is under water" {
		t.Errorf("%+v, %v", o, err)
	}
	if _, lease, err = promoted.AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: "h"}); err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The lost location comes back, and somebody copies from it by the old fleet file.
	if err := os.Rename(near+".lost", near); err != nil {
		t.Fatal(err)
	}
	old := openVault(t, in)
	protect(t, old, "shop", "b", documents(10, "b"))
	c := ReplicasOf(old, in).InStep(t.Context(), "", quiet)
	wantDR(t, c[0].Err, dr.ClassConflict, nil, "epoch 1000", "promoted")
	if points, err := promoted.Points(t.Context(), "shop"); err != nil || len(points) != 1 {
		t.Errorf("%d points, %v", len(points), err)
	}
	// It may become a replica of the new one, and then knows the later epoch too.
	inStep(t, promoted, now)
	if o, _, err := old.Ownership(t.Context(), "shop"); err != nil || o.Epoch != 1000 {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestPromoteTwiceAndBack: where the old location answers it steps back, what runs there loses its lease,
// and nothing that it knew is lost.
func TestPromoteTwiceAndBack(t *testing.T) {
	t.Parallel()
	in := fleetVault(t)
	v := openVault(t, in)
	if _, err := v.PutOwnership(t.Context(), dr.Ownership{Application: "shop", Site: "east", Epoch: 7}, ""); err != nil {
		t.Fatal(err)
	}
	inStep(t, v, in)
	leased, lease, err := v.AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: "h", Duration: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	protect(t, v, "shop", "late", documents(1, "x"))
	for range 2 {
		p, err := Promote(t.Context(), in, in.Replicas[0], "moving", "me@here", quiet)
		if err != nil || !p.Retired {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	select {
	case <-leased.Done():
		if !errors.Is(context.Cause(leased), dr.ErrLeaseLost) {
			t.Error(context.Cause(leased))
		}
	case <-time.After(20 * time.Second):
		t.Error("what ran by the old location still holds its lease after 20 s")
	}
	_ = lease.Release(t.Context())
	_, err = Open(t.Context(), in)
	wantDR(t, err, dr.ClassConflict, nil, in.Replicas[0].Location, "moving")

	now := in
	now.Location, now.Replicas = in.Replicas[0].Location, []dr.Replica{{Name: "near", Location: in.Location}}
	promoted := openVault(t, now)
	if got := intact(t, promoted, "shop"); got != 1 {
		t.Errorf("%d points", got)
	}
	reading := openVault(t, in.At(dr.Replica{Location: in.Location}))
	if !slices.ContainsFunc(reading.Warnings(), func(w string) bool { return strings.Contains(w, "moved") }) {
		t.Errorf("reading the old place warns %q", reading.Warnings())
	}
	inStep(t, promoted, now)
	if _, err := Promote(t.Context(), now, now.Replicas[0], "and back", "me@here", quiet); err != nil {
		t.Fatal(err)
	}
	back := openVault(t, in)
	if o, _, err := back.Ownership(t.Context(), "shop"); err != nil || o.Epoch < 3000 || o.BreakGlass != "and back" {
		t.Errorf("%+v, %v", o, err)
	}
	_, err = Open(t.Context(), now)
	wantDR(t, err, dr.ClassConflict, nil, in.Location)
}
