package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// files are the checksums of what is in the shop's volume in a namespace; beacons aside, which tell when it was
// protected, and the shop's own sign of life.
func (s *scene) files(t *testing.T, site int, ns string) string {
	t.Helper()
	return s.kubectl(t, site, "-n", ns, "exec", "deployment/shop", "--", "sh", "-c", "cd /data && find . -type f ! -path '*lifeboat*' ! -name health -exec sha256sum {} + | sort -k 2")
}

// kept is what of the original a copy must not touch: everything there, as it is.
func (s *scene) kept(t *testing.T) string {
	t.Helper()
	return s.kubectl(t, 0, "-n", "shop", "get", "configmap,secret,serviceaccount,role,rolebinding,pvc,deployment,service,route,cronjob,discount,pod", "-o",
		`jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)
}

// sameLines expects the same lines, and shows those that are not.
func sameLines(t *testing.T, what, want, got string) {
	t.Helper()
	for line := range strings.Lines(want) {
		if !strings.Contains(got, line) {
			t.Errorf("%s lacks %s", what, line)
		}
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(want, line) {
			t.Errorf("%s has %s", what, line)
		}
	}
}

// TestCopyWithItsData makes copies of the shop with its data, at its own site and at the other; the first one is
// killed at the end of every step, and while its data is on its way.
func TestCopyWithItsData(t *testing.T) {
	needE2E(t)
	s := raise(t, "processes")
	s.orders(t, s.dir+"/orders.jsonl", 2*time.Second)
	s.kubectl(t, 0, "-n", "shop", "exec", "deployment/shop", "--", "sh", "-c",
		"mkdir -p /data/many && for i in $(seq 300); do echo $i > /data/many/$i; done; dd if=/dev/urandom of=/data/large bs=1M count=96 2>/dev/null")
	ok(t, 2*time.Minute, s.lifeboat("backup", "shop"))
	want, original := s.files(t, 0, "shop"), s.kept(t)
	if strings.Count(want, "\n") < 301 {
		t.Fatalf("the volume holds\n%s", want)
	}

	args := []string{"restore", "shop", "--namespace-map", "shop=shop-copy", "--yes", "-o", "json"}
	ended, kills, underway := map[string]bool{}, 0, false
	var last result
	for try := 0; ; try++ {
		if try > 20 {
			t.Fatalf("the copy was not made after %d starts\n%s", try, last.stderr)
		}
		c := s.lifeboat(args...)
		c.watch = func(line string) bool {
			if !underway && strings.Contains(line, "step restore-data-orders: ") {
				underway = true
				return true
			}
			step, over := endedStep(line)
			if !over || ended[step] {
				return false
			}
			ended[step] = true
			return true
		}
		if last = run(t, 4*time.Minute, c); !last.killed {
			break
		}
		kills++
	}
	if last.code != 0 {
		t.Fatalf("the last start ended %d: %s\n%s", last.code, last.stdout, last.stderr)
	}
	if !underway || kills < 4 {
		t.Errorf("killed %d times, %v, while data was on its way: %v", kills, ended, underway)
	}
	sameLines(t, "the copy's volume", want, s.files(t, 0, "shop-copy"))
	sameLines(t, "the original", original, s.kept(t))
	if suspended := s.kubectl(t, 0, "-n", "shop-copy", "get", "cronjob", "stocktaking", "-o", "jsonpath={.spec.suspend}"); suspended != "true" {
		t.Errorf("the copy's schedule is suspended: %q", suspended)
	}
	if left := s.kubectl(t, 0, "-n", "shop-copy", "get", "jobs,pods", "-l", "lifeboat.dev/transient", "-o", "name"); left != "" {
		t.Errorf("movers are left: %s", left)
	}
	dry := unmarshal[struct {
		DryRun struct {
			Counts map[string]int `json:"counts"`
		} `json:"dryRun"`
	}](t, ok(t, time.Minute, s.lifeboat("restore", "shop", "--namespace-map", "shop=shop-copy", "--dry-run", "-o", "json")).stdout)
	if n := dry.DryRun.Counts; n["created"]+n["changed"]+n["replaced"]+n["refused"] > 0 || n["unchanged"] == 0 {
		t.Errorf("a dry run of the copy once more: %v", n)
	}

	to := s.lab.Sites[1].Name
	ok(t, 3*time.Minute, s.lifeboat("restore", "shop", "--to", to, "--namespace-map", "shop=shop-there", "--yes"))
	sameLines(t, "the volume of the copy at "+to, want, s.files(t, 1, "shop-there"))
	owner := ok(t, time.Minute, s.lifeboat("status", "shop", "-o", "json")).stdout
	if !strings.Contains(owner, fmt.Sprintf(`"site": %q`, s.lab.Sites[0].Name)) {
		t.Errorf("a copy changed who owns the application:\n%s", owner)
	}
}
