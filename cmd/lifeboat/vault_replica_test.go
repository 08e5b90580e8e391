package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault"
)

// fleetText is a fleet whose vault has a replica; DIR stands for a directory.
const fleetText = `apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: east}
spec: {cluster: {kubeconfig: DIR/absent}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: west}
spec: {cluster: {kubeconfig: DIR/absent}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Vault
metadata: {name: main}
spec:
  location: DIR/near
  encryptionKey: {file: DIR/keys/vault}
  replicas: [{name: far, location: DIR/far}]
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: shop}
spec: {namespaces: [shop], objectives: {rto: 1h, rpo: 1h}, sites: {preferred: east, recovery: [west]}}
`

// lifeboat runs a command and returns what it wrote and its exit code.
func lifeboat(t *testing.T, fleet string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = realMain(append([]string{"--fleet", fleet}, args...), strings.NewReader(""), &out, &err)
	return out.String(), err.String(), code
}

// TestVaultCommands makes a vault, copies it, reads the copy when the vault is gone, and promotes it.
func TestVaultCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fleet := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(fleet, []byte(strings.ReplaceAll(fleetText, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"vault status", 4, "key file"}, // nothing is made yet
		{"vault init --replica far", 2, "own location"},
		{"vault init", 0, "vault main is at file://" + dir + "/near"},
		{"vault init", 0, "vault main is at"},
		{"vault init --vault other", 2, "[main]"},
		{"vault status", 6, "cannot be looked at"}, // the replica has no directory yet
		{"vault copy --to absent", 2, "no such replica"},
		{"vault copy --replica far", 3, "far"}, // nothing is there yet
		{"vault copy", 0, "replica far is in step: 2 objects copied"},
		{"vault copy --to far", 0, "0 objects copied"},
		{"vault copy --replica far", 2, "own location"},
		{"vault status", 0, "in step; no recovery point there"},
		{"vault status --replica far", 0, "a replica, only read"},
		{"vault status --vault-location " + dir + "/far", 0, "a replica, only read"},
		{"vault status --replica near", 2, "[far]"},
		{"vault status --replica far --vault-location x", 2, "exclude"},
		{"vault promote far", 7, "reason"},
		{"vault promote near --break-glass x", 2, "no replica"},
	} {
		stdout, stderr, code := lifeboat(t, fleet, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", c.args, code, c.code, c.says, stdout, stderr)
		}
	}
	stdout, _, _ := lifeboat(t, fleet, "vault", "status", "-o", "json")
	var st vaultStatus
	if err := json.Unmarshal([]byte(stdout), &st); err != nil || st.Name != "main" || len(st.Replicas) != 1 || st.Replicas[0].Replica != "far" {
		t.Errorf("%s: %v", stdout, err)
	}
	if err := os.Rename(filepath.Join(dir, "near"), filepath.Join(dir, "lost")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := lifeboat(t, fleet, "vault", "status"); code != 3 || !strings.Contains(stderr, "--replica") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	stdout, stderr, code := lifeboat(t, fleet, "vault", "promote", "far", "--break-glass", "lost with the region", "-o", "json")
	var p vault.Promotion
	if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != 0 || p.Reason != "lost with the region" || p.Retired {
		t.Errorf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
}
