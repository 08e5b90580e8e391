package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// failover is a plan of the shape that the planner makes, with a branch that needs nothing of the rest.
func failover() dr.Plan {
	step := func(id string, p dr.Params, needs ...string) dr.Step {
		return dr.Step{ID: id, Title: "Do " + id, Needs: needs, Params: p, Deadline: time.Minute}
	}
	return dr.Plan{
		Goal: dr.GoalFailover, Application: "shop", From: "east", To: "west", RecoveryPoint: "p1", Epoch: 3,
		Steps: []dr.Step{
			step("fence", dr.FenceSite{Site: "east"}),
			step("claim", dr.Claim{Site: "west"}, "fence"),
			step("foundation", dr.RestoreState{Site: "west", Stage: dr.StageFoundation}, "claim"),
			step("data-a", dr.RestoreData{Site: "west", Datastore: "a"}, "foundation"),
			step("data-b", dr.RestoreData{Site: "west", Datastore: "b"}, "foundation"),
			step("workloads", dr.RestoreState{Site: "west", Stage: dr.StageWorkloads}, "data-a", "data-b"),
			step("ready", dr.AwaitReady{Site: "west"}, "workloads"),
			step("traffic", dr.SwitchTraffic{Site: "west", Host: "h"}, "ready"),
			step("probe", dr.ProbeFromOutside{Site: "west", Probe: "p"}, "traffic"),
		},
	}
}

// world is what steps act upon: it outlives every crash of the process that drives the run.
type world struct {
	mu      sync.Mutex
	effects map[string]int // step → how often it acted
	epoch   uint64
	active  int
	most    int // steps that were active at a time
}

func newWorld() *world { return &world{effects: map[string]int{}, epoch: 3} }

func (w *world) count(step string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.effects[step]
}

// worker is the handler of every kind. before is called ahead of each effect and may refuse it.
type worker struct {
	world  *world
	before func(ctx context.Context, sc StepContext) error
}

func (h worker) result(step dr.Step) Result {
	if step.Params.Kind() == dr.KindClaim {
		return Result{Output: dr.ClaimOutput{Epoch: h.world.epoch}}
	}
	return Result{Output: map[string]string{"did": step.ID}}
}

func (h worker) Observe(_ context.Context, sc StepContext) (*Result, error) {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	if h.world.effects[sc.Step.ID] == 0 {
		return nil, nil
	}
	r := h.result(sc.Step)
	return &r, nil
}

func (h worker) Apply(ctx context.Context, sc StepContext) (Result, error) {
	h.world.mu.Lock()
	h.world.active++
	h.world.most = max(h.world.most, h.world.active)
	h.world.mu.Unlock()
	defer func() {
		h.world.mu.Lock()
		defer h.world.mu.Unlock()
		h.world.active--
	}()
	if h.before != nil {
		if err := h.before(ctx, sc); err != nil {
			return Result{}, err
		}
	}
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	if sc.Epoch != h.world.epoch {
		return Result{}, fmt.Errorf("step %s presents epoch %d, the world is at %d", sc.Step.ID, sc.Epoch, h.world.epoch)
	}
	for _, need := range sc.Step.Needs {
		if sc.Outputs(need) == nil {
			return Result{}, fmt.Errorf("step %s does not see what %s left", sc.Step.ID, need)
		}
	}
	if sc.Step.Params.Kind() == dr.KindClaim {
		h.world.epoch++
	}
	h.world.effects[sc.Step.ID]++
	return h.result(sc.Step), nil
}

func handlers(h Handler) map[dr.StepKind]Handler {
	out := map[dr.StepKind]Handler{}
	for _, s := range failover().Steps {
		out[s.Params.Kind()] = h
	}
	return out
}

// memory is a journal that keeps entries as JSON, as a real one does. hook, where set, stands in for
// the storage: it may store, fail, or both.
type memory struct {
	mu      sync.Mutex
	entries [][]byte
	hook    func(e dr.Entry, store func() error) error
}

func (m *memory) Append(_ context.Context, e dr.Entry) error {
	store := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.Sequence <= len(m.entries) {
			return fmt.Errorf("entry %d: %w", e.Sequence, dr.ErrExists)
		}
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		m.entries = append(m.entries, raw)
		return nil
	}
	if m.hook != nil {
		return m.hook(e, store)
	}
	return store()
}

func (m *memory) Load(context.Context, string) ([]dr.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]dr.Entry, len(m.entries))
	for i, raw := range m.entries {
		if err := json.Unmarshal(raw, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// held is a lease that the test can take away.
type held struct {
	world *world
	lost  chan struct{}
}

func (l held) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	go func() {
		select {
		case <-l.lost:
			cancel(fmt.Errorf("renewed by another: %w", dr.ErrLeaseLost))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (l held) Epoch() uint64 {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	return l.world.epoch
}

func options(w *world, j Journal, h Handler) Options {
	return Options{Journal: j, Lease: held{w, nil}, Handlers: handlers(h), Clock: time.Now, ProcessToken: "one"}
}

// checkJournal fails the test unless what is in the journal folds to want.
func checkJournal(t *testing.T, j *memory, want dr.Run) {
	t.Helper()
	entries, err := j.Load(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Fold(entries)
	if err != nil {
		t.Fatalf("the journal does not fold: %v", err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("the journal says\n%s\nthe run is\n%s", a, b)
	}
}

func stages(r dr.Run) string {
	var out string
	for _, s := range r.Steps {
		switch {
		case s.Stage == dr.StageEnded:
			out += string(s.Outcome[0])
		case s.Stage == dr.StageRunning:
			out += "R"
		default:
			out += "-"
		}
	}
	return out
}

func mustOnce(t testing.TB, w *world) {
	t.Helper()
	for _, s := range failover().Steps {
		if n := w.count(s.ID); n != 1 {
			t.Errorf("step %s acted %d times, want once", s.ID, n)
		}
	}
}

var errCrash = errors.New("crash")
