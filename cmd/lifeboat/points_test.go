package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

// snapshot has the stock restic store a tree of files, and returns its snapshot's id.
func (f *vaultFixture) snapshot(files map[string]string) string {
	f.t.Helper()
	dir := f.t.TempDir()
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	c := exec.CommandContext(f.t.Context(), "restic", "-r", f.dir+"/vault/repo", "--password-file", f.key, "--no-cache", "backup", "--json", ".")
	c.Dir = dir
	out, err := c.CombinedOutput()
	m := regexp.MustCompile(`"snapshot_id":"([0-9a-f]+)"`).FindSubmatch(out)
	if err != nil || m == nil {
		f.t.Fatalf("restic backup: %v\n%s", err, out)
	}
	return string(m[1])
}

// lifeboat runs a command on the fixture's fleet and checks its exit code.
func (f *vaultFixture) lifeboat(code int, args ...string) (stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	if got := realMain(append([]string{"--fleet", f.dir + "/fleet.yaml"}, args...), strings.NewReader(""), &out, &errs); got != code {
		f.t.Errorf("%v: exit code %d, want %d\n%s%s", args, got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

const (
	deploymentPath = "namespaces/shop/apps/deployments/web.json"
	secretPath     = "namespaces/shop/core/secrets/key.json"
)

// newPointsFixture is a vault with three recovery points, of 10, 11 and 12 o'clock; the last is incomplete.
func newPointsFixture(t *testing.T) *vaultFixture {
	t.Helper()
	f := newVaultFixture(t)
	v, err := vault.Open(t.Context(), dr.Vault{Name: "main", Location: "file://" + f.dir + "/vault", EncryptionKey: dr.KeySource{File: f.key}})
	if err != nil {
		t.Fatal(err)
	}
	state := func(replicas, secret string) map[string]string {
		return map[string]string{
			"meta.json":                         `{"application":"shop","namespaces":["shop"],"objects":3}`,
			"cluster/core/namespaces/shop.json": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`,
			deploymentPath:                      `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop"},"spec":{"replicas":` + replicas + `}}`,
			secretPath:                          `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"key","namespace":"shop"},"data":{"key":"` + secret + `"}}`,
		}
	}
	data := f.snapshot(map[string]string{"orders.log": "one\ntwo\n", "sub/x": "y"})
	for i, files := range []map[string]string{state("2", "YWFyZHZhcms="), state("3", "YWFyZHdvbGY="), state("3", "YWFyZHdvbGY=")} {
		at := time.Date(2026, 1, 1, 10+i, 0, 0, 0, time.UTC)
		p := dr.RecoveryPoint{ID: at.Format("20060102T150405Z") + "-shop-1", Application: "shop", Site: "east", Epoch: 1, Started: at, Time: at, Finished: at.Add(time.Second),
			Checkpoint: f.snapshot(files), Objects: 3, Data: []dr.DataPoint{{Datastore: "orders", Snapshot: data, Bytes: 9, StoredBytes: 4, Files: 2, Consistency: dr.LiveCopy,
				Beacon: dr.Beacon{Datastore: "orders", Sequence: uint64(i + 1), Time: at}}}}
		if i == 2 {
			p.Missing = []string{"group broken.example.com/v1"}
		}
		if err := v.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestPoints(t *testing.T) {
	t.Parallel()
	f := newPointsFixture(t)
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string // on standard output, or of an error on standard error
	}{
		{"list", []string{"points", "list", "shop"}, 0, []string{"20260101T120000Z-shop-1", "lacks group broken.example.com/v1", "9 B", "4 B", "yes"}},
		{"show the newest complete", []string{"points", "show", "shop"}, 0, []string{"recovery point 20260101T110000Z-shop-1", "1 deployments.apps", "1 secrets", "namespace shop", "orders: 9 B in 2 files", "beacon 2"}},
		{"show by time", []string{"points", "show", "shop", "2026-01-01T10:30:00Z"}, 0, []string{"recovery point 20260101T100000Z-shop-1"}},
		{"show an incomplete one by name", []string{"points", "show", "shop", "20260101T12"}, 0, []string{"lacks group broken.example.com/v1"}},
		{"a time before all", []string{"points", "show", "shop", "2025-01-01"}, 7, []string{"no recovery point up to", "--at 20260101T100000Z-shop-1"}},
		{"an unknown one", []string{"points", "show", "shop", "nothing"}, 2, []string{`no recovery point "nothing"`}},
		{"diff", []string{"points", "diff", "shop", "20260101T10", "latest"}, 0, []string{"~ Deployment shop/web\n    ~ spec.replicas: 2 → 3", "~ data.key: (secret, 8 bytes) → (secret, 8 bytes), others", "0 added, 0 removed, 2 changed"}},
		{"diff of a kind", []string{"points", "diff", "shop", "20260101T10", "latest", "--kind", "deploy"}, 0, []string{"1 changed"}},
		{"diff of equals", []string{"points", "diff", "shop", "latest", "20260101T12"}, 0, []string{"0 added, 0 removed, 0 changed"}},
		{"diff with what", []string{"points", "diff", "shop", "latest"}, 2, []string{"--live SITE"}},
		{"browse", []string{"points", "browse", "shop", "latest"}, 0, []string{"state/\n", "data/\n"}},
		{"browse the state", []string{"points", "browse", "shop", "latest", "state/namespaces/shop"}, 0, []string{"state/namespaces/shop/apps/", "state/namespaces/shop/core/"}},
		{"browse the data", []string{"points", "browse", "shop", "latest", "data/orders"}, 0, []string{"data/orders/orders.log", "8 B", "data/orders/sub/"}},
		{"a document", []string{"points", "browse", "shop", "latest", "state/" + deploymentPath}, 0, []string{`"replicas":3`}},
		{"a file", []string{"points", "browse", "shop", "latest", "data/orders/orders.log"}, 0, []string{"one\ntwo\n"}},
		{"a file in JSON", []string{"points", "browse", "shop", "latest", "data/orders/orders.log", "-o", "json"}, 0, []string{`"content": "b25lCnR3bwo="`}},
		{"nothing there", []string{"points", "browse", "shop", "latest", "state/x"}, 2, []string{"no state/x"}},
		{"out of it", []string{"points", "browse", "shop", "latest", "../../etc/passwd"}, 2, []string{"It has state, data/orders"}},
		{"completion", []string{"__complete", "points", "show", "shop", ""}, 0, []string{"latest\t", "20260101T110000Z-shop-1\t"}},
		{"completion of a flag", []string{"__complete", "restore", "shop", "--at", "20260101T10"}, 0, []string{"20260101T100000Z-shop-1\t"}},
		{"a policy that is none", []string{"restore", "shop", "--existing", "crush"}, 2, []string{"keep, patch, replace"}},
		{"a map that is none", []string{"restore", "shop", "--namespace-map", "x"}, 2, []string{"is not OLD=NEW"}},
	} {
		out, errs := f.lifeboat(c.code, c.args...)
		text := out
		if c.code != 0 {
			text = errs
		}
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s%s", c.name, want, out, errs)
			}
		}
		if strings.Contains(out, "aardv") || c.name != "a document" && strings.Contains(out, "YWFyZ") {
			t.Errorf("%s: a secret is shown:\n%s", c.name, out)
		}
	}
	for _, args := range [][]string{{"list", "shop"}, {"show", "shop"}, {"diff", "shop", "20260101T10", "latest"}, {"browse", "shop", "latest", "state"}} {
		out, _ := f.lifeboat(0, append(append([]string{"points"}, args...), "-o", "json")...)
		if !json.Valid([]byte(out)) {
			t.Errorf("points %v: not JSON:\n%s", args, out)
		}
	}
}
