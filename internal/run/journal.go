package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// append writes the next entry and only then believes it. An entry that could not follow is never
// written.
func (x *execution) append(work context.Context, e dr.Entry) error {
	e.Run, e.Sequence, e.By = x.id, x.state.sequence+1, x.opts.ProcessToken
	e.Time = x.opts.Clock().UTC().Round(0) // as it will be read back
	if e.Epoch == 0 {
		e.Epoch = x.state.run.Epoch
	}
	next, err := transition(x.state, e)
	if err != nil {
		return dr.Errorf(dr.ClassInternal, err, "", "run %s: entry %s cannot follow", x.id, e.Type)
	}
	if err := x.write(work, e); err != nil {
		return err
	}
	x.state = next
	event := Event{Time: e.Time, Type: e.Type, Run: x.id, Step: e.Step, Outcome: e.Outcome, Reason: e.Reason}
	for _, s := range x.state.run.Plan.Steps {
		if s.ID == e.Step {
			event.Title = s.Title
		}
	}
	x.emit(event)
	return nil
}

// write puts an entry into the journal, through short outages. A try is not cut off with the work: what
// was done must be noted even as the run is stopped, and appendTry bounds it.
func (x *execution) write(work context.Context, e dr.Entry) error {
	uncut := context.WithoutCancel(work)
	deadline := time.After(appendDeadline)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		ctx, cancel := context.WithTimeout(uncut, appendTry)
		err := x.opts.Journal.Append(ctx, e)
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(err, dr.ErrExists) {
			return x.taken(uncut, e)
		}
		failed := fmt.Errorf("journal %s of run %s: %w", e.Type, x.id, err)
		if !transient(err) {
			return failed
		}
		x.emit(Event{Time: e.Time, Type: EventProgress, Run: x.id, Step: e.Step, Text: "waiting for the journal: " + err.Error()})
		select {
		case <-time.After(pause):
		case <-deadline:
			return failed
		case <-work.Done():
			return failed
		}
	}
}

// taken is called when the entry's place in the journal is filled: by an earlier try of ours whose
// answer was lost, or by somebody else who drives the same run.
func (x *execution) taken(uncut context.Context, e dr.Entry) error {
	ctx, cancel := context.WithTimeout(uncut, appendTry)
	defer cancel()
	entries, err := x.opts.Journal.Load(ctx, x.id)
	by := "somebody"
	if err == nil && len(entries) >= e.Sequence {
		got := entries[e.Sequence-1]
		if got.By == e.By && got.Type == e.Type && got.Step == e.Step && got.Time.Equal(e.Time) {
			return nil
		}
		by = got.By
	}
	return dr.Errorf(dr.ClassConflict, dr.ErrExists, "Look at `lifeboat status`; leave the run to them, or resume it when they have stopped.",
		"run %s is driven by %s", x.id, by)
}
