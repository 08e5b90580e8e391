package run

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// state is what the entries so far add up to.
type state struct {
	run      dr.Run
	sequence int // of the last entry
}

// Fold returns the run that a journal describes. A step that a crash cut off is still running in it.
func Fold(entries []dr.Entry) (dr.Run, error) {
	s, err := fold(entries)
	return s.run, err
}

func fold(entries []dr.Entry) (state, error) {
	var s state
	if len(entries) == 0 {
		return s, errors.New("the journal is empty")
	}
	for _, e := range entries {
		next, err := transition(s, e)
		if err != nil {
			return s, fmt.Errorf("entry %d (%s): %w", e.Sequence, e.Type, err)
		}
		s = next
	}
	return s, nil
}

// transition is the one place that says which entry may follow which. It leaves s alone.
func transition(s state, e dr.Entry) (state, error) {
	if e.Sequence != s.sequence+1 {
		return s, fmt.Errorf("sequence %d does not follow %d", e.Sequence, s.sequence)
	}
	next := state{run: s.run, sequence: e.Sequence}
	next.run.Steps = slices.Clone(s.run.Steps)
	r := &next.run
	if e.Type == dr.EntryRunStarted {
		return next, start(r, e)
	}
	if err := follows(r, e); err != nil {
		return s, err
	}
	var err error
	switch e.Type {
	case dr.EntryRunResumed:
		err = resume(r)
	case dr.EntryStepStarted:
		err = startStep(r, e)
	case dr.EntryStepEnded:
		err = endStep(r, e)
	case dr.EntryEpochChanged:
		r.Epoch = e.Epoch
	case dr.EntryRunEnded:
		err = end(r, e)
	default:
		err = fmt.Errorf("unknown type of entry: this journal needs a newer lifeboat")
	}
	if err != nil {
		return s, err
	}
	return next, nil
}

// follows checks what holds for every entry after the first.
func follows(r *dr.Run, e dr.Entry) error {
	switch {
	case r.ID == "":
		return errors.New("the run has not started")
	case e.Run != r.ID:
		return fmt.Errorf("it belongs to run %s", e.Run)
	case e.Type == dr.EntryEpochChanged && e.Epoch <= r.Epoch:
		return fmt.Errorf("epoch %d is not above %d", e.Epoch, r.Epoch)
	case e.Type != dr.EntryEpochChanged && e.Epoch != r.Epoch:
		return fmt.Errorf("epoch is %d, not %d", e.Epoch, r.Epoch)
	case e.Type != dr.EntryRunResumed && r.Stage != dr.StageRunning:
		return errors.New("the run has ended")
	}
	return nil
}

func start(r *dr.Run, e dr.Entry) error {
	switch {
	case r.ID != "":
		return errors.New("the run has started already")
	case e.Run == "":
		return errors.New("the run has no id")
	case e.Plan == nil:
		return errors.New("there is no plan in it")
	case e.Epoch != e.Plan.Epoch:
		return fmt.Errorf("epoch is %d, not the plan's %d", e.Epoch, e.Plan.Epoch)
	}
	if _, err := e.Plan.Order(); err != nil {
		return err
	}
	*r = dr.Run{ID: e.Run, Plan: *e.Plan, Epoch: e.Epoch, Stage: dr.StageRunning, Started: e.Time}
	for _, s := range e.Plan.Steps {
		r.Steps = append(r.Steps, dr.StepRun{ID: s.ID, Stage: dr.StagePending})
	}
	return nil
}

// resume makes every step that did not end well pending again.
func resume(r *dr.Run) error {
	if r.Stage == dr.StageEnded && r.Outcome != dr.OutcomeFailed {
		return errors.New("the run has ended well")
	}
	r.Stage, r.Outcome, r.Reason = dr.StageRunning, dr.OutcomeNone, ""
	r.Ended = time.Time{}
	for i := range r.Steps {
		if s := &r.Steps[i]; !endedWell(s) {
			cut := s.Stage == dr.StageRunning || s.CutOff && s.Stage == dr.StagePending
			*s = dr.StepRun{ID: s.ID, Stage: dr.StagePending, Attempts: s.Attempts, CutOff: cut, Started: s.Started}
		}
	}
	return nil
}

func startStep(r *dr.Run, e dr.Entry) error {
	s, err := stepOf(r, e.Step)
	if err != nil {
		return err
	}
	if s.Stage != dr.StagePending {
		return fmt.Errorf("step %s is %s, not pending", s.ID, s.Stage)
	}
	for _, need := range needs(r, s.ID) {
		if n, err := stepOf(r, need); err != nil || !endedWell(n) {
			return fmt.Errorf("step %s needs %s, which has not ended well", s.ID, need)
		}
	}
	s.Stage = dr.StageRunning
	s.Attempts++
	if s.Started.IsZero() {
		s.Started = e.Time
	}
	return nil
}

func endStep(r *dr.Run, e dr.Entry) error {
	s, err := stepOf(r, e.Step)
	if err != nil {
		return err
	}
	if s.Stage != dr.StageRunning {
		return fmt.Errorf("step %s is %s, not running", s.ID, s.Stage)
	}
	switch e.Outcome {
	case dr.OutcomeDone, dr.OutcomeSkipped, dr.OutcomeFailed:
	default:
		return fmt.Errorf("a step does not end %q", e.Outcome)
	}
	s.Stage, s.Outcome, s.Reason, s.Ended, s.Output = dr.StageEnded, e.Outcome, e.Reason, e.Time, e.Output
	return nil
}

func end(r *dr.Run, e dr.Entry) error {
	switch e.Outcome {
	case dr.OutcomeVerified, dr.OutcomeDone, dr.OutcomeFailed:
	default:
		return fmt.Errorf("a run does not end %q", e.Outcome)
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Stage == dr.StageRunning {
			return fmt.Errorf("step %s is still running", s.ID)
		}
		if e.Outcome != dr.OutcomeFailed && !endedWell(s) {
			return fmt.Errorf("step %s has not ended well", s.ID)
		}
	}
	r.Stage, r.Outcome, r.Reason, r.Ended = dr.StageEnded, e.Outcome, e.Reason, e.Time
	return nil
}

func endedWell(s *dr.StepRun) bool {
	return s.Stage == dr.StageEnded && (s.Outcome == dr.OutcomeDone || s.Outcome == dr.OutcomeSkipped)
}

func stepOf(r *dr.Run, id string) (*dr.StepRun, error) {
	for i := range r.Steps {
		if r.Steps[i].ID == id {
			return &r.Steps[i], nil
		}
	}
	return nil, fmt.Errorf("there is no step %q in the plan", id)
}

func needs(r *dr.Run, id string) []string {
	for _, s := range r.Plan.Steps {
		if s.ID == id {
			return s.Needs
		}
	}
	return nil
}

// verdict says how a run ends whose steps have all ended or can no longer begin.
func verdict(r *dr.Run) (dr.Outcome, string) {
	var failed, missing []string
	verifying := 0
	for i, s := range r.Steps {
		if s.Stage == dr.StageEnded && s.Outcome == dr.OutcomeFailed {
			failed = append(failed, s.ID+": "+s.Reason)
		}
		kind := r.Plan.Steps[i].Params.Kind()
		if kind != dr.KindAwaitReady && kind != dr.KindProbe {
			continue
		}
		if kind == dr.KindProbe || r.Plan.Goal != dr.GoalFailover {
			verifying++
		}
		if s.Outcome != dr.OutcomeDone {
			missing = append(missing, fmt.Sprintf("%s was %s: %s", s.ID, s.Outcome, s.Reason))
		}
	}
	switch {
	case len(failed) > 0:
		return dr.OutcomeFailed, strings.Join(failed, "; ")
	case len(missing) > 0:
		return dr.OutcomeDone, "not verified: " + strings.Join(missing, "; ")
	case verifying == 0 && r.Plan.Goal == dr.GoalFailover:
		return dr.OutcomeDone, "not verified: no probe asked from outside"
	case verifying == 0:
		return dr.OutcomeDone, ""
	}
	return dr.OutcomeVerified, ""
}
