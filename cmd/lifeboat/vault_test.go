package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault"
)

// vaultFixture is a vault whose repository the stock restic made, and a fleet file that names it.
type vaultFixture struct {
	t        *testing.T
	dir, key string
}

func newVaultFixture(t *testing.T) *vaultFixture {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("restic is not installed: apt-get install restic")
		}
		t.Skip("restic is not installed: apt-get install restic")
	}
	f := &vaultFixture{t: t, dir: t.TempDir()}
	f.key = filepath.Join(f.dir, "vault.key")
	if err := vault.CreateKeyFile(f.key); err != nil {
		t.Fatal(err)
	}
	f.fleet(f.key)
	f.restic("init")
	f.restic("backup", f.key, "--tag", "application=shop", "--tag", "point=p1", "--tag", "part=state")
	f.restic("backup", f.key, "--tag", "of somebody else")
	return f
}

func (f *vaultFixture) fleet(key string) {
	f.t.Helper()
	text := fmt.Sprintf(`apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: east}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: west}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Vault
metadata: {name: main}
spec: {location: "file://%s/vault", encryptionKey: {file: %s}, retention: {daily: 7}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: shop}
spec: {namespaces: [shop], objectives: {rto: 5m, rpo: 30s}, sites: {preferred: east, recovery: [west]}}
`, f.dir, key)
	if err := os.WriteFile(filepath.Join(f.dir, "fleet.yaml"), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *vaultFixture) restic(args ...string) string {
	f.t.Helper()
	c := exec.CommandContext(f.t.Context(), "restic", append([]string{"-r", f.dir + "/vault/repo", "--password-file", f.key, "--no-cache"}, args...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		f.t.Fatalf("restic %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// run runs a command and checks its exit code.
func (f *vaultFixture) run(code int, args ...string) (stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"--fleet", f.dir + "/fleet.yaml", "vault"}, args...)
	if got := realMain(args, strings.NewReader(""), &out, &errs); got != code {
		f.t.Errorf("%v: exit code %d, want %d\n%s%s", args, got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func TestVaultKeys(t *testing.T) {
	t.Parallel()
	f := newVaultFixture(t)
	var keys []vault.Key
	list := func() {
		t.Helper()
		out, _ := f.run(0, "keys", "list", "-o", "json")
		if err := json.Unmarshal([]byte(out), &keys); err != nil {
			t.Fatal(err)
		}
	}
	list()
	if len(keys) != 1 || !keys[0].InUse {
		t.Fatalf("%+v", keys)
	}
	first := keys[0].ID.String()
	if _, errs := f.run(7, "keys", "remove", first, "--in-use"); !strings.Contains(errs, "last key") {
		t.Errorf("the last key: %s", errs)
	}
	second := filepath.Join(f.dir, "second.key")
	f.run(0, "keys", "add", second)
	f.run(5, "keys", "add", second)
	f.run(7, "keys", "remove", first[:8])
	f.run(2, "keys", "remove", "ffffffffffff")
	f.run(2, "keys", "remove")
	list()
	if len(keys) != 2 {
		t.Fatalf("%+v", keys)
	}
	third := filepath.Join(f.dir, "third.key")
	if out, _ := f.run(0, "keys", "rotate", third); !strings.Contains(out, third) {
		t.Errorf("rotate: %s", out)
	}
	f.run(4, "keys", "list") // the fleet file names the old one
	f.fleet(third)
	list()
	f.key = second
	if out := f.restic("key", "list"); len(keys) != 2 || !strings.Contains(out, keys[0].ID.String()[:8]) {
		t.Errorf("%+v\n%s", keys, out)
	}
	f.run(0, "check", "--read-data")
}

func TestVaultPruneAndCheck(t *testing.T) {
	t.Parallel()
	f := newVaultFixture(t)
	out, _ := f.run(0, "prune", "--dry-run")
	if !strings.Contains(out, "stays  snapshot") || !strings.Contains(out, "no recovery point of the application is there at all") {
		t.Errorf("dry run: %s", out)
	}
	var report vault.PruneReport
	out, _ = f.run(0, "prune", "-o", "json", "--keep-last", "1", "--max-unused", "0")
	if err := json.Unmarshal([]byte(out), &report); err != nil || !report.Done || report.Repository.Snapshots != 2 {
		t.Errorf("%v: %s", err, out)
	}
	f.run(2, "prune", "--keep-last", "-1")
	f.run(2, "prune", "--application", "nobody")
	f.run(2, "prune", "--vault", "other")
	if out, _ := f.run(0, "unlock"); !strings.Contains(out, "removed 0 stale locks") {
		t.Errorf("unlock: %s", out)
	}
	f.restic("check", "--read-data")
	if out, _ := f.run(0, "check"); !strings.Contains(out, "2 snapshots") {
		t.Errorf("check: %s", out)
	}
	packs, err := filepath.Glob(f.dir + "/vault/repo/data/*/*")
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	if err := os.Remove(packs[0]); err != nil {
		t.Fatal(err)
	}
	out, errs := f.run(6, "check", "-o", "json")
	var found vault.CheckReport
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found.Problems) == 0 || !strings.Contains(errs, `"class": "incomplete"`) {
		t.Errorf("%v: %s%s", err, out, errs)
	}
	before := len(packs)
	f.run(6, "prune") // of what is not whole, nothing is removed
	if packs, _ := filepath.Glob(f.dir + "/vault/repo/data/*/*"); len(packs) != before-1 {
		t.Errorf("%d packs, %d before", len(packs), before-1)
	}
}
