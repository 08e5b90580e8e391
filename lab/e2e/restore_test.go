package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// kubectl works at a site as a person would.
func (s *scene) kubectl(t *testing.T, site int, args ...string) string {
	t.Helper()
	return ok(t, time.Minute, command{name: "lab-kube", args: append([]string{"kubectl", "--kubeconfig", s.lab.Sites[site].Kubeconfig}, args...)}).stdout
}

// hooked is the fleet file with hooks, as `lifeboat init` wrote it otherwise.
func (s *scene) hooked(t *testing.T, name, hooks string) []string {
	t.Helper()
	text := read(t, s.fleet)
	at := regexp.MustCompile(`(?m)^  namespaces:`).FindStringIndex(text)
	if at == nil {
		t.Fatalf("the fleet file has no namespaces:\n%s", text)
	}
	return []string{"--fleet", write(t, s.dir, name, text[:at[0]]+"  restore:\n    hooks:\n"+hooks+text[at[0]:])}
}

// execHook declares a command in the shop's pod, and jobHook a Job.
func (s *scene) execHook(name, when, rest, script string) string {
	return fmt.Sprintf("    - {name: %s, when: %s, timeout: 20s, %s exec: {namespace: shop, pods: app.kubernetes.io/name=shop, command: [sh, -c, %q]}}\n", name, when, rest, script)
}

func (s *scene) jobHook(name, when, rest, script string) string {
	return fmt.Sprintf("    - {name: %s, when: %s, timeout: 20s, %s job: {namespace: shop, image: %q, command: [sh, -c, %q], env: {WORD: \"a b\"}}}\n",
		name, when, rest, s.lab.Sites[0].Registry+"/shop:1", script)
}

// differing is the part of what `lifeboat points diff -o json` prints that the tests use.
type differing struct {
	Objects []struct {
		Object string `json:"object"`
		Op     string `json:"op"`
		Fields []struct {
			Path string `json:"path"`
		} `json:"fields"`
	} `json:"objects"`
}

func (d differing) lines() []string {
	var out []string
	for _, o := range d.Objects {
		line := o.Op + " " + o.Object
		for _, f := range o.Fields {
			line += " " + f.Path
		}
		out = append(out, line)
	}
	return out
}

// TestRestoreInPlace compares a recovery point with what runs, restores over it, with hooks, and kills what runs
// them.
func TestRestoreInPlace(t *testing.T) {
	needE2E(t)
	s := raise(t, "processes")
	site := s.lab.Sites[0].Name
	ok(t, 2*time.Minute, s.lifeboat("backup", "shop"))
	live := func() []string {
		t.Helper()
		return unmarshal[differing](t, ok(t, time.Minute, s.lifeboat("points", "diff", "shop", "latest", "--live", site, "-o", "json")).stdout).lines()
	}
	if found := live(); len(found) > 0 {
		t.Errorf("right after the backup: %q", found)
	}
	s.kubectl(t, 0, "-n", "shop", "patch", "configmap", "shop", "--type=merge", "-p", `{"data":{"title":"The other shop"}}`)
	s.kubectl(t, 0, "-n", "shop", "patch", "secret", "shop-payment", "--type=merge", "-p", `{"stringData":{"key":"aardvark"}}`)
	s.kubectl(t, 0, "-n", "shop", "create", "configmap", "added", "--from-literal=a=b")
	s.kubectl(t, 0, "-n", "shop", "delete", "cronjob", "stocktaking")
	want := []string{"removed CronJob shop/stocktaking", "added ConfigMap shop/added", "changed ConfigMap shop/shop data.title", "changed Secret shop/shop-payment data.key"}
	if found := live(); !sameSet(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
	text := ok(t, time.Minute, s.lifeboat("points", "diff", "shop", "latest", "--live", site)).stdout
	if strings.Contains(text, "aardvark") || !strings.Contains(text, "~ data.title: The corner shop → The other shop") || !strings.Contains(text, "1 added, 1 removed, 2 changed") {
		t.Errorf("points diff --live:\n%s", text)
	}

	before := s.kubectl(t, 0, "get", "configmap,secret,cronjob,deployment,pvc,route", "-n", "shop", "-o", "name", "--sort-by=.metadata.resourceVersion")
	dry := ok(t, time.Minute, s.lifeboat("restore", "shop", "--no-data", "--dry-run")).stdout
	if after := s.kubectl(t, 0, "get", "configmap,secret,cronjob,deployment,pvc,route", "-n", "shop", "-o", "name", "--sort-by=.metadata.resourceVersion"); after != before {
		t.Errorf("the dry run changed something:\n%s\n%s", before, after)
	}
	for _, part := range []string{"created   CronJob shop/stocktaking\n", "changed   ConfigMap shop/shop\n", "~ data.title: The other shop → The corner shop\n", "~ data.key: (secret, "} {
		if !strings.Contains(dry, part) {
			t.Errorf("the dry run does not say %q:\n%s", part, dry)
		}
	}
	ok(t, 2*time.Minute, s.lifeboat("restore", "shop", "--no-data", "--yes"))
	if found, want := live(), []string{"added ConfigMap shop/added"}; !sameSet(found, want) {
		t.Errorf("after the restore: found %q, want %q", found, want)
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// jobsOf are the Jobs of a hook, with how they ended.
func (s *scene) jobsOf(t *testing.T, hook string) []string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name, Namespace, UID string } `json:"metadata"`
			Status   struct{ Succeeded, Failed int }       `json:"status"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(s.kubectl(t, 0, "get", "jobs", "-A", "-l", "lifeboat.dev/hook="+hook, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, j := range list.Items {
		out = append(out, fmt.Sprintf("%s/%s succeeded %d failed %d", j.Metadata.Namespace, j.Metadata.Name, j.Status.Succeeded, j.Status.Failed))
	}
	return out
}

// hooksScene restores the shop in place, without its data, and looks at what hooks left.
type hooksScene struct {
	*scene
	t *testing.T
}

func (s hooksScene) restore(hooks string, more ...string) command {
	return command{name: "lifeboat", args: append(append(s.hooked(s.t, "hooks.yaml", hooks), "restore", "shop", "--no-data", "--yes", "-o", "json"), more...)}
}

// left is what hooks have written in the shop's pod since the last look.
func (s hooksScene) left() string {
	s.t.Helper()
	return s.kubectl(s.t, 0, "-n", "shop", "exec", "deployment/shop", "--", "sh", "-c", "touch /data/hooks; cat /data/hooks; rm /data/hooks")
}

// fails runs a restore that must fail.
func (s hooksScene) fails(code int, hooks string, parts ...string) {
	s.t.Helper()
	r := run(s.t, 3*time.Minute, s.restore(hooks))
	if r.code != code {
		s.t.Errorf("ended %d, want %d: %s", r.code, code, r.stderr)
	}
	for _, part := range parts {
		if !strings.Contains(r.stderr, part) {
			s.t.Errorf("the error does not say %q: %s", part, r.stderr)
		}
	}
}

// killed runs a restore and kills it soon after a line of its progress says that something has begun.
func (s hooksScene) killed(hooks, line string) {
	s.t.Helper()
	c := s.restore(hooks)
	c.watch = func(l string) bool {
		begun := strings.Contains(l, line)
		if begun {
			time.Sleep(2 * time.Second) // it has to have begun at the site, too
		}
		return begun
	}
	if r := run(s.t, 3*time.Minute, c); !r.killed {
		s.t.Fatalf("never said %q: %s", line, r.stderr)
	}
}

// ends runs a restore, or what is left of one, to its end, and returns how a step of it ended.
func (s hooksScene) ends(hooks, step string) string {
	s.t.Helper()
	for _, x := range unmarshal[runResult](s.t, ok(s.t, 3*time.Minute, s.restore(hooks)).stdout).Run.Steps {
		if x.ID == step {
			return x.Outcome
		}
	}
	return "not a step"
}

// jobs expects one Job of a hook, which succeeded at once.
func (s hooksScene) jobs(hook string) {
	s.t.Helper()
	got := s.jobsOf(s.t, hook)
	if len(got) != 1 || !strings.HasPrefix(got[0], "shop/lifeboat-"+hook+"-") || !strings.HasSuffix(got[0], "succeeded 1 failed 0") {
		s.t.Errorf("Jobs of %s: %q", hook, got)
	}
}

// TestHooks runs hooks in pods and as Jobs, lets them fail, and kills what runs them.
func TestHooks(t *testing.T) {
	needE2E(t)
	s := hooksScene{raise(t, "processes"), t}
	ok(t, 2*time.Minute, s.lifeboat("backup", "shop"))

	good := s.execHook("freeze", "before", "", "echo before >> /data/hooks") + s.jobHook("migrate", "before-workloads", "", `test "$WORD" = "a b"`) +
		s.execHook("thaw", "after", "", "echo after >> /data/hooks")
	if outcome := s.ends(good, "hook-thaw"); outcome != "done" {
		t.Errorf("the last hook ended %s", outcome)
	}
	if got := s.left(); got != "before\nafter\n" {
		t.Errorf("the hooks in the pod left %q", got)
	}
	s.jobs("migrate")
	ok(t, 2*time.Minute, s.restore(good, "--no-hooks"))
	if got := s.left(); got != "" {
		t.Errorf("hooks ran although none was to: %q", got)
	}
	s.jobs("migrate")

	// One that fails stops the run, with its last words; mended, it lets the run go on.
	s.fails(6, s.jobHook("broken", "before", "", "echo the words it died with; exit 3"), "hook broken failed", "the words it died with")
	s.fails(2, good, "no hook broken", "onFailure: warn")
	if outcome := s.ends(s.jobHook("broken", "before", "", "exit 0"), "hook-broken"); outcome != "done" {
		t.Errorf("mended, it ended %s", outcome)
	}
	s.jobs("broken")
	s.fails(6, s.execHook("refused", "before", "", "echo no such table >&2; exit 4"), "ended with status 4", "no such table")
	if outcome := s.ends(s.execHook("refused", "before", "onFailure: warn,", "exit 4"), "hook-refused"); outcome != "skipped" {
		t.Errorf("one whose failure only warns ended %s", outcome)
	}
	s.fails(6, strings.Replace(s.execHook("slow", "before", "", "sleep 60"), "20s", "2s", 1), "not done within 2s")
	s.ends(s.execHook("slow", "before", "", "exit 0"), "hook-slow")
	s.fails(6, strings.Replace(s.execHook("nowhere", "before", "", "exit 0"), "name=shop", "name=nobody", 1), "no pod with app.kubernetes.io/name=nobody is ready")
	s.ends(s.execHook("nowhere", "before", "", "exit 0"), "hook-nowhere")

	// A Job that was under way when its run was killed is waited for, and not made twice.
	long := s.jobHook("long", "before-workloads", "", "sleep 8")
	s.killed(long, "step hook-long: Job shop/lifeboat-long-")
	if outcome := s.ends(long, "hook-long"); outcome != "done" {
		t.Errorf("the Job ended %s", outcome)
	}
	s.jobs("long")

	// Of a command nobody knows whether it ran: a person decides, or the hook says that it may run twice.
	once := s.execHook("once", "after", "", "echo once >> /data/hooks; sleep 5")
	s.killed(once, "step hook-once: running in pod shop/")
	s.fails(7, once, "hook once may have run already", "repeatable")
	s.ends(once, "hook-once")
	if got := s.left(); got != "once\nonce\n" {
		t.Errorf("going on left %q", got)
	}
	twice := s.execHook("twice", "after", "repeatable: true,", "echo twice >> /data/hooks; sleep 5")
	s.killed(twice, "step hook-twice: running in pod shop/")
	s.ends(twice, "hook-twice")
	if got := s.left(); got != "twice\ntwice\n" {
		t.Errorf("a repeatable hook left %q", got)
	}
}
