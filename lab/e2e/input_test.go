package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWrongInputIsRefusedBeforeAnythingChanges gives the commands what people get wrong.
func TestWrongInputIsRefusedBeforeAnythingChanges(t *testing.T) {
	needE2E(t)
	s := raise(t, "processes")
	good := read(t, s.fleet)
	to := s.lab.Sites[1].Name
	edit := func(old, now string) func(*testing.T) []string {
		return func(t *testing.T) []string {
			text := strings.Replace(good, old, now, 1)
			if text == good {
				t.Fatalf("the fleet file has no %q:\n%s", old, good)
			}
			return []string{"--fleet", write(t, s.dir, "edited.yaml", text)}
		}
	}
	wrongKey := write(t, s.dir, "other.key", "c29tZWJvZHkgZWxzZSdzIGtleSBvZiB0aGUgdmF1bHQ=\n")
	expired := expiredKubeconfig(t, s)
	cases := []struct {
		name  string
		fleet func(*testing.T) []string
		args  []string
		code  int
		says  []string
	}{
		{"unknown field", edit("region:", "regoin:"), []string{"backup", "shop"}, 2, []string{"edited.yaml:", "regoin", "region"}},
		{"missing site", edit("preferred: "+s.lab.Sites[0].Name, "preferred: nowhere"), []string{"backup", "shop"}, 2, []string{"edited.yaml:", "nowhere", to}},
		{"duplicate name", func(t *testing.T) []string {
			doc, _, _ := strings.Cut(good, "\n---")
			return []string{"--fleet", write(t, s.dir, "edited.yaml", good+"\n---\n"+doc+"\n")}
		}, []string{"backup", "shop"}, 2, []string{"edited.yaml:", "twice"}},
		{"unreachable cluster", func(t *testing.T) []string {
			dead := write(t, s.dir, "dead.kubeconfig", strings.Replace(read(t, s.lab.Sites[0].Kubeconfig), ":6443", ":6999", 1))
			return edit(s.lab.Sites[0].Kubeconfig, dead)(t)
		}, []string{"backup", "shop"}, 3, []string{s.lab.Sites[0].Name, "refused"}},
		{"wrong vault key", edit(filepath.Join(s.dir, "vault.key"), wrongKey), []string{"backup", "shop"}, 4, []string{"wrong key", "other.key"}},
		{"expired kubeconfig", func(t *testing.T) []string { return edit(s.lab.Sites[0].Kubeconfig, expired)(t) }, []string{"backup", "shop"}, 4, []string{s.lab.Sites[0].Name, "expired"}},
		{"no such application", edit("region:", "region:"+" "), []string{"backup", "nothing"}, 2, []string{"nothing", "shop"}},
		{"no recovery point yet", edit("region:", "region:"+" "), []string{"failover", "shop", "--to", to, "--yes"}, 7, []string{"recovery point", "lifeboat backup shop"}},
		{"not confirmed", edit("region:", "region:"+" "), []string{"failover", "shop", "--to", to}, 7, nil},
	}
	before := tree(t, filepath.Join(s.dir, "vault"))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, time.Minute, command{name: "lifeboat", args: append(c.fleet(t), c.args...)})
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("the error does not say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("stdout: %s\nstderr: %s", r.stdout, r.stderr)
			}
			if after := tree(t, filepath.Join(s.dir, "vault")); after != before {
				t.Errorf("the vault changed:\nbefore %s\nafter %s", before, after)
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// tree lists a directory's files; locks come and go while a vault is open.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(p, "lock") {
			b.WriteString(p + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
