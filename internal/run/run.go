// Package run carries out a plan: every step is journaled before it acts, runs under the lease, and is
// never done twice, so that a run can be taken up again on any machine after any crash.
package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Journal keeps the entries of runs where every machine can read them.
type Journal interface {
	// Append creates the entry at (Run, Sequence). Where there is one already it changes nothing and
	// returns dr.ErrExists.
	Append(ctx context.Context, e dr.Entry) error
	// Load returns a run's entries in order. No entries, or dr.ErrNotFound: there is no such run.
	Load(ctx context.Context, run string) ([]dr.Entry, error)
}

// Lease is the application's lease, held by the caller for as long as the run is driven.
type Lease interface {
	// Context returns a child of parent that ends, with cause dr.ErrLeaseLost, when the lease is lost.
	Context(parent context.Context) (context.Context, context.CancelFunc)
	// Epoch is the application's epoch as of taking the lease, or of the last claim under it.
	Epoch() uint64
}

// Handler does the steps of one kind. Both methods return soon after ctx ends. An error of class
// unreachable is tried again until the step's deadline; any other fails the step.
type Handler interface {
	// Observe returns the result of a step that was done before, perhaps by a process that died before
	// it could say so, and nil where it is still to be done. It changes nothing.
	Observe(ctx context.Context, sc StepContext) (*Result, error)
	// Apply does the step. It may be called again after it failed or was cut off.
	Apply(ctx context.Context, sc StepContext) (Result, error)
}

// StepContext is what a step may know of its run.
type StepContext struct {
	Run   string
	Plan  dr.Plan
	Step  dr.Step
	Epoch uint64 // to be presented with every change
	// CutOff: an earlier process began the step and did not live to say how it ended.
	CutOff bool
	// Outputs returns what a step that ended before this one began has left, or nil.
	Outputs func(stepID string) json.RawMessage
	// Progress says, for people, what the step does or waits for now.
	Progress func(text string)
}

// Result is how a step ended.
type Result struct {
	Outcome dr.Outcome // empty means done; else done, skipped or failed
	Reason  string
	Output  any // becomes StepRun.Output as JSON; nil: none
}

// EventType is the type of a journal entry, or EventProgress.
type EventType = dr.EntryType

// EventProgress is said by a step that works or waits; it is not journaled.
const EventProgress EventType = "step-progress"

// Event tells those who watch what just happened.
type Event struct {
	Time    time.Time  `json:"time"`
	Type    EventType  `json:"type"`
	Run     string     `json:"run"`
	Step    string     `json:"step,omitempty"`
	Title   string     `json:"title,omitempty"`
	Outcome dr.Outcome `json:"outcome,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Text    string     `json:"text,omitempty"` // of progress
}

// Options are what a run needs. All but Events must be set.
type Options struct {
	Journal      Journal
	Lease        Lease
	Handlers     map[dr.StepKind]Handler
	Clock        func() time.Time // for the times in journal and events; order never depends on it
	Events       func(Event)      // called by one goroutine at a time
	ProcessToken string           // tells this process from every other
}

// Execute journals a new run of the plan and drives it to its end. The run comes back as far as it got,
// with an error unless every step ended well; it may still be less than verified, which Outcome and
// Reason say. The error's class is interrupted when ctx ended, conflict when the lease was lost or
// somebody else drives the run, and otherwise that of the first step that failed.
func Execute(ctx context.Context, opts Options, runID string, plan dr.Plan) (dr.Run, error) {
	x := newExecution(opts, runID)
	if err := x.able(plan); err != nil {
		return dr.Run{}, err
	}
	if held := opts.Lease.Epoch(); held != plan.Epoch {
		return dr.Run{}, dr.Errorf(dr.ClassConflict, nil, "Look at `lifeboat status`, then plan again.",
			"the owner of %s changed since the plan was made: epoch %d then, %d now", plan.Application, plan.Epoch, held)
	}
	err := x.append(ctx, dr.Entry{Type: dr.EntryRunStarted, Epoch: plan.Epoch, Plan: &plan})
	if err != nil {
		return dr.Run{}, err
	}
	err = x.drive(ctx)
	return x.state.run, err
}

// Resume takes a run up from its journal: steps that ended well stay as they are, those that failed or
// were cut off are tried again. A run that ended well is returned as it is. Errors are as of Execute;
// a run that is not in the journal is of class usage.
func Resume(ctx context.Context, opts Options, runID string) (dr.Run, error) {
	var err error
	x := newExecution(opts, runID)
	if x.state, err = load(ctx, opts.Journal, runID); err != nil {
		return dr.Run{}, err
	}
	if x.state.run.Stage == dr.StageEnded && x.state.run.Outcome != dr.OutcomeFailed {
		return x.state.run, nil
	}
	if err := x.able(x.state.run.Plan); err != nil {
		return x.state.run, err
	}
	if err := x.sameOwner(); err != nil {
		return x.state.run, err
	}
	if err := x.append(ctx, dr.Entry{Type: dr.EntryRunResumed}); err != nil {
		return x.state.run, err
	}
	err = x.drive(ctx)
	return x.state.run, err
}

// Load returns a run as its journal tells it. A run that is not in the journal is an error of class usage.
func Load(ctx context.Context, journal Journal, runID string) (dr.Run, error) {
	s, err := load(ctx, journal, runID)
	return s.run, err
}

func load(ctx context.Context, journal Journal, runID string) (state, error) {
	entries, err := journal.Load(ctx, runID)
	if errors.Is(err, dr.ErrNotFound) || err == nil && len(entries) == 0 {
		return state{}, dr.Errorf(dr.ClassUsage, err, "`lifeboat status` lists the runs.", "there is no run %s", runID)
	}
	if err != nil {
		return state{}, fmt.Errorf("read the journal of run %s: %w", runID, err)
	}
	s, err := fold(entries)
	if err != nil {
		return state{}, dr.Errorf(dr.ClassInternal, err, "Do not go on with this run; plan again.", "the journal of run %s does not make sense", runID)
	}
	return s, nil
}

// able fails closed, before anything starts, on a plan that cannot be carried out to its end.
func (x *execution) able(plan dr.Plan) error {
	steps, err := plan.Order()
	if err != nil {
		return dr.Errorf(dr.ClassUsage, err, "Plan again.", "the plan for %s is not sound", plan.Application)
	}
	for _, s := range steps {
		if s.Params == nil {
			return dr.Errorf(dr.ClassUsage, nil, "Plan again.", "step %s has no kind", s.ID)
		}
		if x.opts.Handlers[s.Params.Kind()] == nil {
			return dr.Errorf(dr.ClassUsage, nil, "Use the version of lifeboat that made the plan, or plan again.",
				"step %s is of kind %q, which this lifeboat cannot do", s.ID, s.Params.Kind())
		}
	}
	return nil
}

// sameOwner refuses to go on with a run that was overtaken. The epoch may be ahead of the journal by
// this run's own claim, which was cut off before it was noted; its handler then tells whose it is.
func (x *execution) sameOwner() error {
	held, r := x.opts.Lease.Epoch(), &x.state.run
	if held == r.Epoch {
		return nil
	}
	for i, s := range r.Plan.Steps {
		if s.Params.Kind() == dr.KindClaim && held > r.Epoch && r.Steps[i].Attempts > 0 && r.Steps[i].Outcome != dr.OutcomeDone {
			return nil
		}
	}
	return dr.Errorf(dr.ClassConflict, nil, "Look at `lifeboat status`, then plan again.",
		"run %s was overtaken: %s is at epoch %d, the run at %d", r.ID, r.Plan.Application, held, r.Epoch)
}
