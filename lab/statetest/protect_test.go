package statetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/wire"
)

// protection is an application with a vault of its own.
type protection struct {
	t     *testing.T
	fleet *dr.Fleet
	vault *vault.Vault
	dir   string
}

func newProtection(t *testing.T, ns string, data ...dr.Datastore) *protection {
	t.Helper()
	dir := t.TempDir()
	key, location := filepath.Join(dir, "key"), "file://"+filepath.Join(dir, "vault")
	if err := vault.CreateKeyFile(key); err != nil {
		t.Fatal(err)
	}
	secret, err := vault.ReadKeyFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.Init(t.Context(), dr.Vault{Location: location}, secret, nil); err != nil {
		t.Fatal(err)
	}
	s := start()
	p := &protection{t: t, dir: filepath.Join(dir, "vault"), fleet: &dr.Fleet{
		Sites:  []dr.Site{{Name: "east", Cluster: dr.Cluster{Kubeconfig: s.east.Kubeconfig}}, {Name: "west", Cluster: dr.Cluster{Kubeconfig: s.west.Kubeconfig}}},
		Vaults: []dr.Vault{{Name: "main", Location: location, EncryptionKey: dr.KeySource{File: key}}},
		Applications: []dr.Application{{Name: ns, Namespaces: []string{ns}, Vault: "main", Strategy: dr.BackupRestore, Data: data,
			Sites: dr.Placement{Preferred: "east", Recovery: []string{"west"}}}},
	}}
	if p.vault, err = vault.Open(t.Context(), p.fleet.Vaults[0]); err != nil {
		t.Fatal(err)
	}
	return p
}

// protecting is a process that protects.
type protecting struct {
	t      *testing.T
	mu     sync.Mutex
	events []wire.ProtectEvent
	stop   func() error
}

func (p *protection) protect(opts wire.ProtectOptions) *protecting {
	p.t.Helper()
	op, err := wire.Open(p.t.Context(), p.fleet, &p.fleet.Applications[0], wire.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	r := &protecting{t: p.t}
	opts.Event = func(e wire.ProtectEvent) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
		p.t.Logf("%s %s %v", e.Type, e.Text, e.Point)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- op.Protect(ctx, opts) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Minute):
			return fmt.Errorf("it did not end within a minute")
		}
	})
	p.t.Cleanup(func() { _ = r.stop() })
	return r
}

// until waits for an event that fits, and returns it.
func (r *protecting) until(what string, fits func(wire.ProtectEvent) bool) wire.ProtectEvent {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 90*time.Second)
	defer cancel()
	var found wire.ProtectEvent
	err := kube.WaitFor(ctx, what, 50*time.Millisecond, func(context.Context) (bool, string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.IndexFunc(r.events, fits)
		if i >= 0 {
			found = r.events[i]
		}
		return i >= 0, fmt.Sprintf("%d events", len(r.events)), nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// document reads a document of a point.
func (p *protection) document(point *dr.RecoveryPoint, path string) string {
	p.t.Helper()
	if point == nil {
		return ""
	}
	snap, err := p.vault.Repo().LoadSnapshot(p.t.Context(), point.Checkpoint)
	if err != nil {
		p.t.Fatal(err)
	}
	doc := ""
	err = p.vault.Repo().WalkDocuments(p.t.Context(), snap.Tree, func(name string, data []byte) error {
		if name == path {
			doc = string(data)
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return doc
}

func TestProtectThroughOutagesAndMoves(t *testing.T) {
	slow(t)
	t.Parallel()
	east, west := connect(t)
	const ns = "protected"
	config := `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}, data: {at: "0"}}
`
	create(t, east, ns, config)
	create(t, west, ns, strings.Replace(config, `"0"`, "west", 1))
	p := newProtection(t, ns)
	opts := wire.ProtectOptions{Interval: time.Second}
	first := p.protect(opts)
	holds := func(value string) func(wire.ProtectEvent) bool {
		return func(e wire.ProtectEvent) bool {
			return e.Type == wire.EventPoint && strings.Contains(p.document(e.Point, "namespaces/protected/core/configmaps/a.json"), `"at":"`+value+`"`)
		}
	}
	e := first.until("the first point", holds("0"))
	if e.Point.Site != "east" || e.Point.Epoch != 1 || !e.Point.Complete() || e.Point.Started.After(e.Point.Finished) {
		t.Errorf("first point %+v", e.Point)
	}
	if kept, err := p.vault.Point(t.Context(), ns, vault.Latest); err != nil || kept.Checkpoint != e.Point.Checkpoint {
		t.Errorf("the vault has %+v (%v)", kept, err)
	}
	changed := time.Now()
	patch(t, east, ns, "v1/ConfigMap/a", `data: {at: "1"}`)
	if e := first.until("a change", holds("1")); e.Point.Started.Before(changed.Add(-time.Second)) {
		t.Errorf("a change at %s is in a point of %s", changed, e.Point.Started)
	}

	// A second process waits, and takes over when the first one ends.
	second := p.protect(opts)
	second.until("the second one to wait", func(e wire.ProtectEvent) bool {
		return e.Type == wire.EventWaiting && strings.Contains(e.Text, "which protects it now")
	})
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	patch(t, east, ns, "v1/ConfigMap/a", `data: {at: "2"}`)
	if e := second.until("the second one to go on", holds("2")); e.Changed > 3 {
		t.Errorf("it began anew: %d changes", e.Changed)
	}

	// The vault goes away, and comes back.
	if err := os.Rename(p.dir, p.dir+".away"); err != nil {
		t.Fatal(err)
	}
	patch(t, east, ns, "v1/ConfigMap/a", `data: {at: "3"}`)
	second.until("the vault to be waited for", func(e wire.ProtectEvent) bool {
		return e.Type == wire.EventWaiting && strings.Contains(e.Text, "vault")
	})
	if err := os.Rename(p.dir+".away", p.dir); err != nil {
		t.Fatal(err)
	}
	second.until("what changed meanwhile", holds("3"))

	// The application moves: it is protected where it is now, and the old site's state is not kept as its.
	own, token, err := p.vault.Ownership(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	own.Site, own.Epoch = "west", own.Epoch+1
	if _, err := p.vault.PutOwnership(t.Context(), own, token); err != nil {
		t.Fatal(err)
	}
	patch(t, east, ns, "v1/ConfigMap/a", `data: {at: stale}`)
	e = second.until("the new site", holds("west"))
	if e.Point.Site != "west" || e.Point.Epoch != 2 {
		t.Errorf("point of the new site %+v", e.Point)
	}
	if err := second.stop(); err != nil {
		t.Error(err)
	}
	points, err := p.vault.Points(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range points {
		if strings.Contains(p.document(&x, "namespaces/protected/core/configmaps/a.json"), "stale") {
			t.Errorf("point %s is of a site that the application had left", x.ID)
		}
	}
}

func TestProtectOnceAndData(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "once"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}`)
	p := newProtection(t, ns, dr.Datastore{Name: "orders", Volume: &dr.VolumeRef{Namespace: ns, Claim: "orders"}})
	once := func() []dr.RecoveryPoint {
		t.Helper()
		op, err := wire.Open(t.Context(), p.fleet, &p.fleet.Applications[0], wire.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Protect(t.Context(), wire.ProtectOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
		points, err := p.vault.Points(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		return points
	}
	points := once()
	if len(points) != 1 || !slices.Contains(points[0].Missing, "datastore orders: it was not copied yet at site east") {
		t.Fatalf("points %+v", points)
	}
	if points := once(); len(points) != 1 {
		t.Errorf("%d points of one state", len(points))
	}
	// A copy of the data, as a backup leaves it.
	copied := time.Now().Add(-time.Hour).UTC()
	backup := points[0]
	backup.ID, backup.Missing, backup.Time = vault.NewID(time.Now(), ns), nil, copied
	backup.Data = []dr.DataPoint{{Datastore: "orders", Snapshot: backup.Checkpoint, Beacon: dr.Beacon{Sequence: 4, Time: copied}}}
	if err := p.vault.PutPoint(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: new, namespace: @NS@}}`)
	began := time.Now()
	points = once()
	newest := slices.MaxFunc(points, func(a, b dr.RecoveryPoint) int { return a.Started.Compare(b.Started) })
	if len(points) != 3 || !newest.Complete() || len(newest.Data) != 1 || newest.Data[0].Beacon.Sequence != 4 {
		t.Fatalf("points %+v", points)
	}
	if !newest.Time.Equal(copied) || newest.Started.Before(began.Add(-time.Second)) {
		t.Errorf("a point of state at %s and data at %s is of %s", newest.Started, copied, newest.Time)
	}
	if latest, err := p.vault.Point(t.Context(), ns, vault.Latest); err != nil || latest.ID != newest.ID {
		t.Errorf("the latest is %s, not %s (%v)", latest.ID, newest.ID, err)
	}
}
