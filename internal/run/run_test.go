package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestExecute(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	opts := options(w, j, worker{world: w})
	var events []string
	opts.Events = func(e Event) { events = append(events, string(e.Type)+" "+e.Step+" "+string(e.Outcome)) }
	r, err := Execute(t.Context(), opts, "r1", failover())
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != dr.OutcomeVerified || r.Epoch != 4 || stages(r) != "ddddddddd" {
		t.Errorf("ended %s at epoch %d with steps %s, want verified at 4 with all done", r.Outcome, r.Epoch, stages(r))
	}
	mustOnce(t, w)
	checkJournal(t, j, r)
	if first, last := events[0], events[len(events)-1]; first != "run-started  " || last != "run-ended  verified" {
		t.Errorf("events from %q to %q", first, last)
	}
	want := []string{"step-started claim ", "epoch-changed claim ", "step-ended claim done", "step-started foundation "}
	if !reflect.DeepEqual(events[3:7], want) {
		t.Errorf("events %q, want %q", events[3:7], want)
	}
	if again, err := Resume(t.Context(), opts, "r1"); err != nil || !reflect.DeepEqual(stages(again), stages(r)) {
		t.Errorf("resuming what has ended well: %v", err)
	}
	mustOnce(t, w)
}

// However the driving process dies, the run ends the same on the next one and nothing is done twice.
func TestCrashAtEveryEntry(t *testing.T) {
	t.Parallel()
	total := 0
	for crashAt := 1; total == 0 || crashAt <= total; crashAt++ {
		for _, stored := range []bool{false, true} {
			n := crashOnce(t, crashAt, stored)
			total = max(total, n)
		}
	}
	if want := 1 + 2*len(failover().Steps) + 1 + 1; total != want {
		t.Errorf("a run has %d entries, want %d", total, want)
	}
}

// crashOnce runs, crashes at that entry (before or after it is stored), resumes, and returns how many
// entries an uninterrupted run has.
func crashOnce(t *testing.T, crashAt int, stored bool) int {
	t.Helper()
	w, j := newWorld(), &memory{}
	var mu sync.Mutex
	dead := false
	j.hook = func(e dr.Entry, store func() error) error {
		mu.Lock()
		defer mu.Unlock()
		if !dead && e.Sequence == crashAt {
			dead = true
			if stored {
				if err := store(); err != nil {
					return err
				}
			}
		}
		if dead {
			panic(errCrash)
		}
		return store()
	}
	crashed := func() (crashed bool) {
		defer func() { crashed = recover() != nil }()
		_, err := Execute(t.Context(), options(w, j, worker{world: w}), "r1", failover())
		if err != nil {
			t.Errorf("crash at %d: %v", crashAt, err)
		}
		return false
	}()
	if !crashed {
		mustOnce(t, w)
		return len(j.entries)
	}
	j.hook = nil
	opts := options(w, j, worker{world: w})
	opts.ProcessToken = "two"
	r, err := Resume(t.Context(), opts, "r1")
	if crashAt == 1 && !stored { // nothing was ever written: it is a new run
		if dr.ClassOf(err) != dr.ClassUsage {
			t.Errorf("resuming what never began: %v", err)
		}
		r, err = Execute(t.Context(), opts, "r1", failover())
	}
	if err != nil || r.Outcome != dr.OutcomeVerified || r.Epoch != 4 {
		t.Errorf("crash at %d (stored %t): ended %q at epoch %d: %v", crashAt, stored, r.Outcome, r.Epoch, err)
	}
	mustOnce(t, w)
	checkJournal(t, j, r)
	return 0
}

// Interrupted at any effect, the run is resumable and nothing is done twice.
func TestInterruptAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, step := range failover().Steps {
		for _, after := range []bool{false, true} {
			w, j := newWorld(), &memory{}
			ctx, cancel := context.WithCancel(t.Context())
			h := worker{world: w, before: func(ctx context.Context, sc StepContext) error {
				if sc.Step.ID != step.ID {
					return nil
				}
				cancel()
				if after {
					return nil // the effect was under way and is completed
				}
				return ctx.Err()
			}}
			r, err := Execute(ctx, options(w, j, h), "r1", failover())
			if after && step.ID == "probe" {
				if err != nil {
					t.Errorf("interrupted when all was done: %v", err)
				}
				continue
			}
			if dr.ClassOf(err) != dr.ClassInterrupted || !errors.Is(err, context.Canceled) {
				t.Errorf("interrupted at %s: %v", step.ID, err)
			}
			var e *dr.Error
			if errors.As(err, &e) && !strings.Contains(e.Next, "lifeboat resume r1") {
				t.Errorf("next is %q", e.Next)
			}
			if r.Stage != dr.StageRunning {
				t.Errorf("interrupted at %s: the run is %s", step.ID, r.Stage)
			}
			checkJournal(t, j, r)
			r, err = Resume(t.Context(), options(w, j, worker{world: w}), "r1")
			if err != nil || r.Outcome != dr.OutcomeVerified {
				t.Errorf("resumed after %s: %s %v", step.ID, r.Outcome, err)
			}
			mustOnce(t, w)
			checkJournal(t, j, r)
		}
	}
}

func TestFailedStepLeavesTheRestAndIsRetriedOnResume(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	h := worker{world: w, before: func(_ context.Context, sc StepContext) error {
		if sc.Step.ID == "data-a" {
			return dr.Errorf(dr.ClassDenied, os.ErrPermission, "Renew the token.", "cannot write volume a")
		}
		return nil
	}}
	r, err := Execute(t.Context(), options(w, j, h), "r1", failover())
	if dr.ClassOf(err) != dr.ClassDenied || !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
	var e *dr.Error
	if errors.As(err, &e) && e.Next != "Renew the token. Then: lifeboat resume r1" {
		t.Errorf("next is %q", e.Next)
	}
	if stages(r) != "dddfd----" || r.Stage != dr.StageEnded || r.Outcome != dr.OutcomeFailed {
		t.Errorf("steps %s, run %s %s", stages(r), r.Stage, r.Outcome)
	}
	if want := "data-a: data-a: cannot write volume a: permission denied"; strings.Contains(r.Reason, want) || !strings.Contains(r.Reason, "cannot write volume a") {
		t.Errorf("reason is %q", r.Reason)
	}
	r, err = Resume(t.Context(), options(w, j, worker{world: w}), "r1")
	if err != nil || r.Outcome != dr.OutcomeVerified || r.Steps[3].Attempts != 2 || r.Steps[4].Attempts != 1 {
		t.Errorf("resumed: %s %v, attempts %d and %d", r.Outcome, err, r.Steps[3].Attempts, r.Steps[4].Attempts)
	}
	mustOnce(t, w)
	checkJournal(t, j, r)
}

func TestUnreachableIsRetriedUntilTheDeadline(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		down    time.Duration
		outcome dr.Outcome
	}{{20 * time.Second, dr.OutcomeVerified}, {2 * time.Minute, dr.OutcomeFailed}} {
		synctest.Test(t, func(t *testing.T) {
			w, j := newWorld(), &memory{}
			began := time.Now()
			tries := 0
			h := worker{world: w, before: func(_ context.Context, sc StepContext) error {
				if sc.Step.ID != "traffic" {
					return nil
				}
				tries++
				if time.Since(began) < c.down {
					return fmt.Errorf("update: %w", dr.Errorf(dr.ClassUnreachable, nil, "", "cannot reach the DNS server"))
				}
				return nil
			}}
			opts := options(w, j, h)
			var said []string
			opts.Events = func(e Event) {
				if e.Type == EventProgress {
					said = append(said, e.Text)
				}
			}
			r, err := Execute(t.Context(), opts, "r1", failover())
			if r.Outcome != c.outcome {
				t.Fatalf("ended %s: %v", r.Outcome, err)
			}
			if tries < 4 || tries > 12 || len(said) == 0 || !strings.HasPrefix(said[0], "trying again in 500ms: update: cannot reach") {
				t.Errorf("%d tries, said %q", tries, said)
			}
			if c.outcome == dr.OutcomeFailed {
				if took := time.Since(began); took != time.Minute {
					t.Errorf("gave up after %s, the deadline is 1m", took)
				}
				if dr.ClassOf(err) != dr.ClassUnreachable || !strings.Contains(err.Error(), "not done within 1m0s; at last: trying again") {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestStepThatHangsIsCutAtItsDeadlineAndNamesTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := worker{world: w, before: func(ctx context.Context, sc StepContext) error {
			if sc.Step.ID != "ready" {
				return nil
			}
			sc.Progress("waiting for deployment shop/web: 0 of 2 ready")
			<-ctx.Done()
			return ctx.Err()
		}}
		r, err := Execute(t.Context(), options(w, &memory{}, h), "r1", failover())
		if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), "0 of 2 ready") {
			t.Errorf("got %v", err)
		}
		if stages(r) != "ddddddf--" {
			t.Errorf("steps %s", stages(r))
		}
	})
}

func TestLostLeaseStopsEverything(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	opts := options(w, j, nil)
	lost := make(chan struct{})
	opts.Lease = held{w, lost}
	opts.Handlers = handlers(worker{world: w, before: func(ctx context.Context, sc StepContext) error {
		switch sc.Step.ID {
		case "data-a":
			close(lost)
			<-ctx.Done()
			return ctx.Err()
		case "data-b":
			<-ctx.Done()
			return nil // the effect was under way and is completed
		}
		return nil
	}})
	r, err := Execute(t.Context(), opts, "r1", failover())
	if dr.ClassOf(err) != dr.ClassConflict || !errors.Is(err, dr.ErrLeaseLost) {
		t.Errorf("got %v", err)
	}
	if stages(r) != "dddRR----" {
		t.Errorf("steps %s: nothing may be journaled without the lease", stages(r))
	}
	checkJournal(t, j, r)
}

func TestSomebodyElseDrives(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	j.hook = func(e dr.Entry, store func() error) error {
		if e.Sequence == 6 {
			e.By = "other"
			other := &memory{entries: j.entries}
			if err := other.Append(t.Context(), e); err != nil {
				return err
			}
			j.entries = other.entries
		}
		return store()
	}
	r, err := Execute(t.Context(), options(w, j, worker{world: w}), "r1", failover())
	if dr.ClassOf(err) != dr.ClassConflict || !strings.Contains(err.Error(), "driven by other") {
		t.Errorf("got %v", err)
	}
	if w.count("foundation") != 0 || stages(r) != "dR-------" {
		t.Errorf("went on: steps %s", stages(r))
	}
	if _, err := Execute(t.Context(), options(w, &memory{entries: j.entries}, worker{world: w}), "r1", dr.Plan{Steps: failover().Steps, Epoch: 4}); dr.ClassOf(err) != dr.ClassConflict {
		t.Errorf("starting a run that is there: %v", err)
	}
}

func TestJournalOutages(t *testing.T) {
	t.Parallel()
	unreachable := dr.Errorf(dr.ClassUnreachable, nil, "", "vault does not answer")
	for _, c := range []struct {
		name   string
		hook   func(n int, store func() error) error
		class  dr.Class
		stages string
	}{
		{"answers are lost", func(_ int, store func() error) error {
			if err := store(); err != nil {
				return err
			}
			return unreachable
		}, "", "ddddddddd"},
		{"a short one", func(n int, store func() error) error {
			if n > 8 && n < 13 {
				return unreachable
			}
			return store()
		}, "", "ddddddddd"},
		{"a long one", func(n int, store func() error) error {
			if n > 8 {
				return unreachable
			}
			return store()
		}, dr.ClassUnreachable, "ddd------"},
		{"one for good", func(n int, store func() error) error {
			if n > 8 {
				return os.ErrPermission
			}
			return store()
		}, dr.ClassInternal, "ddd------"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, j := newWorld(), &memory{}
			n := 0
			j.hook = func(_ dr.Entry, store func() error) error {
				n++
				return c.hook(n, store)
			}
			r, err := Execute(t.Context(), options(w, j, worker{world: w}), "r1", failover())
			if (err == nil) != (c.class == "") || err != nil && dr.ClassOf(err) != c.class {
				t.Errorf("%s: got %v, want class %q", c.name, err, c.class)
			}
			if stages(r) != c.stages {
				t.Errorf("%s: steps %s, want %s", c.name, stages(r), c.stages)
			}
			checkJournal(t, j, r)
		})
	}
}

func TestRefusalsBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Options, *dr.Plan)
		class  dr.Class
		want   string
	}{
		{"unknown kind", func(o *Options, _ *dr.Plan) { delete(o.Handlers, dr.KindProbe) }, dr.ClassUsage, `kind "probe", which this lifeboat cannot do`},
		{"no kind", func(_ *Options, p *dr.Plan) { p.Steps[8].Params = nil }, dr.ClassUsage, "step probe has no kind"},
		{"circle", func(_ *Options, p *dr.Plan) { p.Steps[0].Needs = []string{"probe"} }, dr.ClassUsage, "circle"},
		{"old plan", func(_ *Options, p *dr.Plan) { p.Epoch = 2 }, dr.ClassConflict, "epoch 2 then, 3 now"},
	} {
		w, j := newWorld(), &memory{}
		opts, plan := options(w, j, worker{world: w}), failover()
		c.change(&opts, &plan)
		_, err := Execute(t.Context(), opts, "r1", plan)
		if dr.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.name, err)
		}
		if len(j.entries) > 0 || len(w.effects) > 0 {
			t.Errorf("%s: something was done", c.name)
		}
	}
}

func TestOvertakenRunIsNotResumed(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	ctx, cancel := context.WithCancel(t.Context())
	h := worker{world: w, before: func(context.Context, StepContext) error { cancel(); return nil }}
	if _, err := Execute(ctx, options(w, j, h), "r1", failover()); dr.ClassOf(err) != dr.ClassInterrupted {
		t.Fatal(err)
	}
	w.epoch = 9 // before the claim had begun: it was not this run's
	before := len(j.entries)
	_, err := Resume(t.Context(), options(w, j, worker{world: w}), "r1")
	if dr.ClassOf(err) != dr.ClassConflict || !strings.Contains(err.Error(), "overtaken: shop is at epoch 9, the run at 3") {
		t.Errorf("got %v", err)
	}
	if len(j.entries) != before || w.count("claim") != 0 {
		t.Error("something was done")
	}
}

func TestStepsRunBesideEachOtherUpToALimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		plan := dr.Plan{Goal: dr.GoalBackup, Application: "shop", Epoch: 3}
		for i := range 20 {
			plan.Steps = append(plan.Steps, dr.Step{ID: fmt.Sprint("s", i), Params: dr.ProtectData{}, Deadline: time.Minute})
		}
		h := worker{world: w, before: func(context.Context, StepContext) error { time.Sleep(time.Second); return nil }}
		opts := options(w, &memory{}, h)
		opts.Handlers[dr.KindProtectData] = h
		began := time.Now()
		r, err := Execute(t.Context(), opts, "r1", plan)
		if err != nil || r.Outcome != dr.OutcomeDone || r.Reason != "" {
			t.Errorf("ended %s %q: %v", r.Outcome, r.Reason, err)
		}
		if w.most != parallel || time.Since(began) != 3*time.Second {
			t.Errorf("%d at a time, in %s; want %d in 3s", w.most, time.Since(began), parallel)
		}
	})
}

func TestStepsThatDoNotReturnAreNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		h := worker{world: w, before: func(context.Context, StepContext) error { cancel(); <-release; return nil }}
		began := time.Now()
		_, err := Execute(ctx, options(w, &memory{}, h), "r1", failover())
		if dr.ClassOf(err) != dr.ClassInterrupted || !strings.Contains(err.Error(), "running: fence") || time.Since(began) != stopGrace {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		close(release)
	})
}
