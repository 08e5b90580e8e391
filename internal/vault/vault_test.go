package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

var testKey = []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")

// newVault returns a vault in memory.
func newVault(t testing.TB) *Vault {
	t.Helper()
	store := blob.NewMem()
	if err := initStore(t.Context(), store, testKey); err != nil {
		t.Fatal(err)
	}
	return openAgain(t, store)
}

func openAgain(t testing.TB, store blob.Store) *Vault {
	t.Helper()
	v, err := openStore(t.Context(), dr.Vault{Name: "main", Location: "mem:"}, store, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantDR checks an error's class, what it wraps and what it says.
func wantDR(t *testing.T, err error, class dr.Class, wraps error, says ...string) {
	t.Helper()
	var e *dr.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v, want a *dr.Error", err)
		return
	}
	if e.Class != class {
		t.Errorf("%v: class %s, want %s", err, e.Class, class)
	}
	if wraps != nil && !errors.Is(err, wraps) {
		t.Errorf("%v does not wrap %v", err, wraps)
	}
	for _, s := range says {
		if !strings.Contains(e.Error()+" "+e.Next, s) {
			t.Errorf("%q, %q do not say %q", e.Error(), e.Next, s)
		}
	}
	if e.Next == "" {
		t.Errorf("%v: says no next step", err)
	}
}

func TestInitAndOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	location, keyFile := "file://"+dir+"/vault", filepath.Join(dir, "key")
	if err := CreateKeyFile(keyFile); err != nil {
		t.Fatal(err)
	}
	wantDR(t, CreateKeyFile(keyFile), dr.ClassConflict, dr.ErrExists, keyFile)
	wantDR(t, CreateKeyFile(filepath.Join(dir, "no", "key")), dr.ClassUsage, os.ErrNotExist)
	key, err := ReadKeyFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	in := dr.Vault{Name: "main", Location: location, EncryptionKey: dr.KeySource{File: keyFile}}

	_, err = Open(t.Context(), in)
	wantDR(t, err, dr.ClassUnreachable, blob.ErrNoDirectory, location)
	if err := os.Mkdir(filepath.Join(dir, "vault"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), in)
	wantDR(t, err, dr.ClassUsage, dr.ErrNotFound, location, "lifeboat init")
	if err := Init(t.Context(), dr.Vault{Location: location}, key, nil); err != nil {
		t.Fatal(err)
	}
	wantDR(t, Init(t.Context(), dr.Vault{Location: location}, key, nil), dr.ClassConflict, dr.ErrExists, location)
	v, err := Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if v.Location() != location || v.Name() != "main" || v.Repo() == nil {
		t.Errorf("%q %q", v.Location(), v.Name())
	}
	other := in
	other.EncryptionKey.File = filepath.Join(dir, "other")
	if err := CreateKeyFile(other.EncryptionKey.File); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), other)
	wantDR(t, err, dr.ClassDenied, dr.ErrWrongKey, other.EncryptionKey.File, location)
	for _, bad := range []string{"gs://bucket", "s3://", "file://relative", ""} {
		other = in
		other.Location = bad
		_, err = Open(t.Context(), other)
		wantDR(t, err, dr.ClassUsage, blob.ErrScheme, "file:///")
	}
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{write("good", " secret \n", 0o600), write("group", "secret", 0o640), write("read", "secret\n", 0o400)} {
		if key, err := ReadKeyFile(path); err != nil || string(key) != "secret" {
			t.Errorf("%s: %q, %v", path, key, err)
		}
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "missing"):   "no such file",
		write("empty", "", 0o600):       "is empty",
		write("blank", " \n\n", 0o600):  "is empty",
		write("world", "secret", 0o644): "chmod 600",
		write("wide", "secret", 0o602):  "chmod 600",
		dir:                             "not a file",
	} {
		_, err := ReadKeyFile(path)
		wantDR(t, err, dr.ClassDenied, nil, path, says)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v holds the key", err)
		}
	}
	_, err := ReadKeyFile("")
	wantDR(t, err, dr.ClassUsage, nil)
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	if _, _, err := v.Ownership(t.Context(), "shop"); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("nobody yet: %v", err)
	}
	o := dr.Ownership{Application: "shop", Site: "east", Epoch: 4, Changed: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	token, err := v.PutOwnership(t.Context(), o, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.PutOwnership(t.Context(), o, ""); !errors.Is(err, dr.ErrStale) {
		t.Errorf("created twice: %v", err)
	}
	is, same, err := v.Ownership(t.Context(), "shop")
	if err != nil || is != o || same != token {
		t.Errorf("%+v at %s, %v", is, same, err)
	}
	o.Site, o.Epoch = "west", 5
	if _, err := v.PutOwnership(t.Context(), o, token); err != nil {
		t.Fatal(err)
	}
	_, err = v.PutOwnership(t.Context(), o, token)
	if !errors.Is(err, dr.ErrStale) {
		t.Errorf("with an old token: %v", err)
	}
	_, token, _ = v.Ownership(t.Context(), "shop")
	o.Epoch = 3
	if _, err := v.PutOwnership(t.Context(), o, token); err == nil || errors.Is(err, dr.ErrStale) {
		t.Errorf("an epoch that falls: %v", err)
	}
	for _, app := range []string{"", "a/b", "..", "a b"} {
		_, _, err := v.Ownership(t.Context(), app)
		wantDR(t, err, dr.ClassUsage, blob.ErrName)
	}
}

func startRun(t *testing.T, v *Vault, run string) {
	t.Helper()
	plan := &dr.Plan{Application: "shop", Goal: dr.GoalFailover, Steps: []dr.Step{{ID: "claim", Params: dr.Claim{Site: "west"}}}}
	if err := v.AppendEntry(t.Context(), dr.Entry{Run: run, Sequence: 1, Type: dr.EntryRunStarted, Plan: plan}); err != nil {
		t.Fatal(err)
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	if runs, err := v.Runs(t.Context(), "shop"); err != nil || runs == nil || len(runs) != 0 {
		t.Errorf("no runs yet: %v, %v", runs, err)
	}
	if _, err := v.Entries(t.Context(), "r1"); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("no entries yet: %v", err)
	}
	begin := time.Date(2026, 11, 22, 23, 31, 21, 482e6, time.UTC)
	var runs []string
	for i := range 3 {
		runs = append(runs, NewID(begin.Add(time.Duration(i)*time.Millisecond), "shop"))
		startRun(t, v, runs[i])
	}
	if !strings.HasPrefix(runs[0], "20261122t233121482-shop-") {
		t.Errorf("id %s", runs[0])
	}
	for i := 2; i <= 12; i++ {
		if err := v.AppendEntry(t.Context(), dr.Entry{Run: runs[1], Sequence: i, Type: dr.EntryStepStarted, Step: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	err := v.AppendEntry(t.Context(), dr.Entry{Run: runs[1], Sequence: 7})
	if !errors.Is(err, dr.ErrExists) {
		t.Errorf("the same sequence again: %v", err)
	}
	entries, err := openAgain(t, v.store).Entries(t.Context(), runs[1])
	if err != nil || len(entries) != 12 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Sequence != i+1 || i > 0 && e.Step != fmt.Sprint(i+1) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	if entries[0].Plan.Steps[0].Params != (dr.Claim{Site: "west"}) {
		t.Errorf("plan: %+v", entries[0].Plan)
	}
	newest := slices.Clone(runs)
	slices.Reverse(newest)
	// A run that ended before its first entry is not listed.
	if err := v.listRun(t.Context(), "shop", NewID(begin.Add(time.Hour), "shop")); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Runs(t.Context(), "shop"); err != nil || !slices.Equal(got, newest) {
		t.Errorf("runs %v, %v; want %v", got, err, newest)
	}
	if got, err := v.Runs(t.Context(), "other"); err != nil || len(got) != 0 {
		t.Errorf("runs of another application: %v, %v", got, err)
	}
	if err := v.store.Delete(t.Context(), "control/runs/"+runs[1]+"/000005"); err != nil {
		t.Fatal(err)
	}
	_, err = v.Entries(t.Context(), runs[1])
	wantDR(t, err, dr.ClassIncomplete, repo.ErrDamaged, "000005", runs[1])
}

func TestPoints(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	if points, err := v.Points(t.Context(), "shop"); err != nil || points == nil || len(points) != 0 {
		t.Errorf("none yet: %v, %v", points, err)
	}
	if _, err := v.Point(t.Context(), "shop", Latest); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("none yet: %v", err)
	}
	at := func(hour int) time.Time { return time.Date(2026, 11, 22, hour, 0, 0, 0, time.UTC) }
	for _, p := range []dr.RecoveryPoint{
		{ID: "c", Application: "shop", Time: at(3), Missing: []string{"claim uploads"}},
		{ID: "z", Application: "shop", Time: at(1), Objects: 7, Data: []dr.DataPoint{{Datastore: "orders", Beacon: dr.Beacon{Sequence: 9}}}},
		{ID: "a", Application: "shop", Time: at(2)},
		{ID: "q", Application: "shop2", Time: at(9)},
	} {
		if err := v.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := v.PutPoint(t.Context(), p); !errors.Is(err, dr.ErrExists) {
			t.Errorf("put twice: %v", err)
		}
	}
	points, err := v.Points(t.Context(), "shop")
	if err != nil || len(points) != 3 || points[0].ID != "z" || points[1].ID != "a" || points[2].ID != "c" {
		t.Errorf("%+v, %v", points, err)
	}
	if p, err := v.Point(t.Context(), "shop", Latest); err != nil || p.ID != "a" {
		t.Errorf("latest: %+v, %v", p, err)
	}
	if p, err := v.Point(t.Context(), "shop", "z"); err != nil || p.Data[0].Beacon.Sequence != 9 {
		t.Errorf("z: %+v, %v", p, err)
	}
	if _, err := v.Point(t.Context(), "shop", "q"); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("another application's: %v", err)
	}
}

func TestEvidenceAndFleet(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	if _, err := v.Evidence(t.Context(), "r"); !errors.Is(err, dr.ErrNotFound) {
		t.Error(err)
	}
	for range 2 {
		if err := v.PutEvidence(t.Context(), "r", []byte("proof")); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.PutEvidence(t.Context(), "r", []byte("forged")); !errors.Is(err, dr.ErrExists) {
		t.Errorf("other evidence: %v", err)
	}
	if got, err := v.Evidence(t.Context(), "r"); err != nil || string(got) != "proof" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := v.Fleet(t.Context()); !errors.Is(err, dr.ErrNotFound) {
		t.Error(err)
	}
	for _, fleet := range []string{"one", "two", "two", "one", "three"} {
		if err := v.PutFleet(t.Context(), []byte(fleet)); err != nil {
			t.Fatal(err)
		}
		if got, err := openAgain(t, v.store).Fleet(t.Context()); err != nil || string(got) != fleet {
			t.Errorf("%q, %v; want %q", got, err, fleet)
		}
	}
	if names, _ := v.list(t.Context(), "control/fleet"); len(names) != 4 {
		t.Errorf("versions: %v", names)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := v.PutFleet(t.Context(), fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if names, _ := v.list(t.Context(), "control/fleet"); len(names) != 14 {
		t.Errorf("versions: %v", names)
	}
}

// TestDamagedRecordsAreNamed: whatever happens to a record, no list leaves it out.
func TestDamagedRecordsAreNamed(t *testing.T) {
	t.Parallel()
	damage := map[string]func(good, other []byte) []byte{
		"a bit":           func(good, _ []byte) []byte { good[len(good)/2] ^= 1; return good },
		"cut short":       func(good, _ []byte) []byte { return good[:len(good)-3] },
		"empty":           func(_, _ []byte) []byte { return nil },
		"plain text":      func(_, _ []byte) []byte { return []byte(`{"site":"evil"}`) },
		"another's place": func(_, other []byte) []byte { return other },
	}
	for name, change := range damage {
		v := newVault(t)
		ctx := t.Context()
		for _, id := range []string{"p1", "p2"} {
			if err := v.PutPoint(ctx, dr.RecoveryPoint{ID: id, Application: "shop"}); err != nil {
				t.Fatal(err)
			}
		}
		const object = "control/apps/shop/points/p2"
		good, err := v.store.Get(ctx, object, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(good.Data), "shop") {
			t.Error("the record is not sealed")
		}
		other, _ := v.store.Get(ctx, "control/apps/shop/points/p1", blob.Range{})
		if _, err := v.store.Put(ctx, object, change(good.Data, other.Data), blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		_, err = v.Points(ctx, "shop")
		if err == nil || !strings.Contains(err.Error(), object) || !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%s: points: %v", name, err)
		}
		_, err = v.Point(ctx, "shop", Latest)
		wantDR(t, err, dr.ClassIncomplete, repo.ErrDamaged, object)
		if _, err = v.Point(ctx, "shop", "p1"); err != nil {
			t.Errorf("%s: a sound point: %v", name, err)
		}
	}
}

// TestVaultGone: a vault that is unmounted is not one without records.
func TestVaultGone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "vault")
	if err := Init(t.Context(), dr.Vault{Location: "file://" + dir}, testKey, nil); err != nil {
		t.Fatal(err)
	}
	store, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	_, err = v.Points(t.Context(), "shop")
	wantDR(t, err, dr.ClassUnreachable, blob.ErrNoDirectory)
	_, err = v.Runs(t.Context(), "shop")
	wantDR(t, err, dr.ClassUnreachable, blob.ErrNoDirectory)
	_, _, err = v.Ownership(t.Context(), "shop")
	wantDR(t, err, dr.ClassUnreachable, blob.ErrNoDirectory)
	if errors.Is(err, dr.ErrNotFound) {
		t.Error("a vault that is gone says that there is no owner")
	}
}

// TestRecordsKeepEveryField reads back what the types can say.
func TestRecordsKeepEveryField(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	o := dr.Ownership{Application: "a", Site: "b", Epoch: 1 << 60, Run: "c", Changed: time.Now().UTC().Round(0),
		Lease: &dr.Lease{Holder: "d", Sequence: 1<<63 + 1, Duration: time.Hour, By: "e"}, BreakGlass: "f"}
	if _, err := v.PutOwnership(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
	got, _, err := v.Ownership(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(o)
	if string(a) != string(b) {
		t.Errorf("got %s, want %s", a, b)
	}
}
