package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

const (
	parallel       = 8                // steps at a time
	stopGrace      = 15 * time.Second // for steps to return once they are cancelled
	appendTry      = 10 * time.Second // for one try at an entry
	appendDeadline = time.Minute      // for an entry, retries included
	firstPause     = 500 * time.Millisecond
	longestPause   = 10 * time.Second
)

// execution drives one run. All of its fields belong to the goroutine that drives; the steps' own
// goroutines speak to it through the channels alone.
type execution struct {
	opts     Options
	id       string
	state    state
	active   int
	errs     []error // of the steps that failed in this process
	ended    chan stepEnd
	progress chan Event
}

type stepEnd struct {
	step   dr.Step
	result Result
	err    error
}

func newExecution(opts Options, id string) *execution {
	return &execution{
		opts: opts, id: id,
		ended:    make(chan stepEnd),
		progress: make(chan Event, 64),
	}
}

// drive runs steps until none is left that could, or until it must stop.
func (x *execution) drive(parent context.Context) error {
	leased, release := x.opts.Lease.Context(parent)
	defer release()
	work, stop := context.WithCancelCause(leased)
	defer stop(nil)
	gone := make(chan struct{}) // frees goroutines that outlast this call
	defer close(gone)
	var broken error // the journal cannot be written: nothing more may be done
	var grace <-chan time.Time
	cancelled := work.Done()
	for {
		if broken == nil && work.Err() == nil {
			broken = x.startReady(work, gone)
		}
		if broken != nil {
			stop(broken)
		}
		if x.active == 0 {
			return x.conclude(parent, work, broken)
		}
		select {
		case e := <-x.progress:
			x.emit(e)
		case end := <-x.ended:
			x.active--
			if err := x.finish(work, end, broken); err != nil {
				broken = err
			}
		case <-cancelled:
			cancelled, grace = nil, time.After(stopGrace)
		case <-grace:
			return x.conclude(parent, work, broken)
		}
	}
}

// startReady begins every step whose turn it is, each after its intent is in the journal.
func (x *execution) startReady(work context.Context, gone <-chan struct{}) error {
	for i, step := range x.state.run.Plan.Steps {
		if x.active == parallel || work.Err() != nil {
			return nil
		}
		if !x.ready(i) {
			continue
		}
		if err := x.append(work, dr.Entry{Type: dr.EntryStepStarted, Step: step.ID}); err != nil {
			return err
		}
		x.active++
		sc := x.stepContext(step)
		go func() {
			result, err := perform(work, x.opts.Handlers[step.Params.Kind()], sc)
			select {
			case x.ended <- stepEnd{step, result, err}:
			case <-gone:
			}
		}()
	}
	return nil
}

func (x *execution) ready(i int) bool {
	r := &x.state.run
	if r.Steps[i].Stage != dr.StagePending {
		return false
	}
	for _, need := range r.Plan.Steps[i].Needs {
		if n, err := stepOf(r, need); err != nil || !endedWell(n) {
			return false
		}
	}
	return true
}

func (x *execution) stepContext(step dr.Step) StepContext {
	outputs, cut := map[string]json.RawMessage{}, false
	for _, s := range x.state.run.Steps {
		cut = cut || s.ID == step.ID && s.CutOff
		if endedWell(&s) {
			outputs[s.ID] = s.Output
		}
	}
	return StepContext{
		Run: x.id, Plan: x.state.run.Plan, Step: step, Epoch: x.state.run.Epoch, CutOff: cut,
		Outputs: func(id string) json.RawMessage { return outputs[id] },
		Progress: func(text string) {
			e := Event{Time: x.opts.Clock(), Type: EventProgress, Run: x.id, Step: step.ID, Title: step.Title, Text: text}
			select {
			case x.progress <- e:
			default: // nobody keeps up: work goes before talk
			}
		},
	}
}

// finish journals how a step ended. A step that was cut off is left running in the journal: whoever
// resumes looks whether it was done. After the lease is lost nothing is written, since the next
// sequence belongs to the new holder.
func (x *execution) finish(work context.Context, end stepEnd, broken error) error {
	for len(x.progress) > 0 { // what the step said before it ended
		x.emit(<-x.progress)
	}
	lost := errors.Is(context.Cause(work), dr.ErrLeaseLost)
	if broken != nil || lost || end.err != nil && work.Err() != nil {
		return broken
	}
	entry := dr.Entry{Type: dr.EntryStepEnded, Step: end.step.ID, Outcome: end.result.Outcome, Reason: end.result.Reason}
	if entry.Outcome == dr.OutcomeNone {
		entry.Outcome = dr.OutcomeDone
	}
	err := end.err
	if err == nil && end.result.Output != nil {
		entry.Output, err = json.Marshal(end.result.Output)
	}
	var epoch uint64
	if err == nil && end.step.Params.Kind() == dr.KindClaim && entry.Outcome == dr.OutcomeDone {
		epoch, err = x.claimed(entry.Output)
	}
	if err == nil && epoch > x.state.run.Epoch {
		if err := x.append(work, dr.Entry{Type: dr.EntryEpochChanged, Step: end.step.ID, Epoch: epoch}); err != nil {
			return err
		}
	}
	if err != nil {
		entry.Outcome, entry.Reason, entry.Output = dr.OutcomeFailed, err.Error(), nil
		x.errs = append(x.errs, fmt.Errorf("%s: %w", end.step.ID, err))
	}
	return x.append(work, entry)
}

// claimed reads the epoch that a claim left.
func (x *execution) claimed(output json.RawMessage) (uint64, error) {
	var out dr.ClaimOutput
	if err := json.Unmarshal(output, &out); err != nil {
		return 0, fmt.Errorf("read what the claim left: %w", err)
	}
	if out.Epoch <= x.state.run.Plan.Epoch || out.Epoch < x.state.run.Epoch {
		return 0, fmt.Errorf("the claim left epoch %d, which is not above %d", out.Epoch, x.state.run.Plan.Epoch)
	}
	return out.Epoch, nil
}

// conclude says how the run ended, or why it stopped.
func (x *execution) conclude(parent, work context.Context, broken error) error {
	r := &x.state.run
	again := "Go on with `lifeboat resume " + x.id + "`, or give the same command again."
	cut := x.active > 0 // steps that did not even return
	for i := range r.Steps {
		cut = cut || r.Steps[i].Stage == dr.StageRunning || x.ready(i)
	}
	switch {
	case errors.Is(context.Cause(work), dr.ErrLeaseLost):
		return dr.Errorf(dr.ClassConflict, context.Cause(work), "See who holds it with `lifeboat status`. "+again, "run %s stopped", x.id)
	case broken != nil:
		return broken
	case cut && parent.Err() != nil:
		return dr.Errorf(dr.ClassInterrupted, context.Cause(parent), again, "run %s was interrupted%s", x.id, x.unreturned())
	case cut:
		return dr.Errorf(dr.ClassInternal, context.Cause(work), again, "run %s stopped%s", x.id, x.unreturned())
	}
	outcome, reason := verdict(r)
	if err := x.append(work, dr.Entry{Type: dr.EntryRunEnded, Outcome: outcome, Reason: reason}); err != nil {
		return err
	}
	if outcome != dr.OutcomeFailed {
		return nil
	}
	return x.failure()
}

// failure words the end of a run of which steps failed; the first to fail gives the class.
func (x *execution) failure() error {
	r := &x.state.run
	class, why := dr.ClassIncomplete, errors.New(r.Reason)
	next := "Remove the cause, then: lifeboat resume " + x.id
	for i, err := range x.errs {
		var e *dr.Error
		switch {
		case i > 0:
			why = fmt.Errorf("%w; %w", why, err)
			continue
		case errors.As(err, &e) && e.Next != "":
			next = e.Next + " Then: lifeboat resume " + x.id
		}
		class, why = dr.ClassOf(err), err
	}
	return dr.Errorf(class, why, next, "the %s of %s failed in run %s", r.Plan.Goal, r.Plan.Application, x.id)
}

func (x *execution) unreturned() string {
	if x.active == 0 {
		return ""
	}
	var ids []string
	for _, s := range x.state.run.Steps {
		if s.Stage == dr.StageRunning {
			ids = append(ids, s.ID)
		}
	}
	return fmt.Sprintf(" (%d steps did not return within %s; running: %s)", x.active, stopGrace, strings.Join(ids, ", "))
}

func (x *execution) emit(e Event) {
	if x.opts.Events != nil {
		x.opts.Events(e)
	}
}
