package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runResult is the part of what `lifeboat failover -o json` prints that the tests use.
type runResult struct {
	Run struct {
		ID      string `json:"id"`
		Stage   string `json:"stage"`
		Outcome string `json:"outcome"`
		Epoch   uint64 `json:"epoch"`
		Steps   []struct {
			ID       string `json:"id"`
			Outcome  string `json:"outcome"`
			Attempts int    `json:"attempts"`
		} `json:"steps"`
	} `json:"run"`
	Traffic []struct {
		After []string `json:"after"`
	} `json:"traffic"`
}

// TestKilledOrchestratorResumes kills the failover with SIGKILL as soon as each of its steps has ended, and
// starts it again: every process does one step more, and the end is the same as if there had been one.
func TestKilledOrchestratorResumes(t *testing.T) {
	needPods(t)
	s := raise(t, "pods")
	from, to := s.lab.Sites[0], s.lab.Sites[1]
	log := filepath.Join(s.dir, "orders.jsonl")
	s.orders(t, log, 3*time.Second)
	ok(t, 2*time.Minute, s.lifeboat("backup", "shop", "-o", "json"))
	ok(t, 30*time.Second, command{name: "lifeboat-lab", args: []string{"kill", from.Name, "--dir", s.labDir}})

	kills := 0
	ended := map[string]bool{} // steps whose end was seen
	args := []string{"failover", "shop", "--to", to.Name, "--yes", "--break-glass", "test: the site was killed", "-o", "json"}
	var last result
	for try := 0; ; try++ {
		if try > 20 {
			t.Fatalf("the failover did not end after %d starts\n%s", try, last.stderr)
		}
		c := s.lifeboat(args...)
		c.watch = func(line string) bool {
			step, ok := endedStep(line)
			if !ok || ended[step] {
				return false
			}
			ended[step] = true
			return true
		}
		// The first stop is what Ctrl-C does: it ends in order, and says so.
		c.interrupt = try == 0
		last = run(t, 4*time.Minute, c)
		if !last.killed {
			break
		}
		if c.interrupt && last.code != 8 {
			t.Errorf("an interrupted failover ended %d, want 8: %s", last.code, last.stderr)
		}
		kills++
	}
	if last.code != 0 {
		t.Fatalf("the last start ended %d: %s\n%s", last.code, last.stdout, last.stderr)
	}
	r := unmarshal[runResult](t, last.stdout)
	if kills < 5 {
		t.Errorf("killed only %d times: %v", kills, ended)
	}
	if r.Run.Outcome != "verified" || r.Run.Epoch != 2 {
		t.Errorf("the run ended %s under epoch %d, want verified under epoch 2", r.Run.Outcome, r.Run.Epoch)
	}
	for _, step := range r.Run.Steps {
		// A process killed between a step's effect and the record of it may do the step once more.
		if step.Attempts > 2 {
			t.Errorf("step %s was begun %d times", step.ID, step.Attempts)
		}
	}
	f := s.verify(t, log)
	if f.Acknowledged == 0 || f.Recovered != f.Acknowledged {
		t.Errorf("%d orders acknowledged before the recovery point, %d recovered", f.Acknowledged, f.Recovered)
	}
	// Nothing is left to do: another start says so and changes nothing.
	again := run(t, time.Minute, s.lifeboat(args...))
	if again.code == 0 {
		t.Errorf("a failover to the site that owns the application ended 0: %s", again.stdout)
	}
	t.Logf("killed %d times", kills)
}

// endedStep reads "step ID ended: done (…)" out of a line of progress.
func endedStep(line string) (string, bool) {
	_, rest, ok := strings.Cut(line, "step ")
	if !ok {
		return "", false
	}
	id, rest, ok := strings.Cut(rest, " ")
	return id, ok && strings.HasPrefix(rest, "ended")
}
