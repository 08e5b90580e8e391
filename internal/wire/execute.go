package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/run"
	"lifeboat.dev/lifeboat/internal/vault"
)

// LeaseDuration is how long a process that stopped renewing keeps others waiting.
const LeaseDuration = 6 * time.Second

// Result is what a run came to.
type Result struct {
	Run       dr.Run
	Point     *dr.RecoveryPoint // sealed, or brought back
	Ready     *dr.ReadyOutput
	Traffic   []dr.TrafficOutput
	Probes    []dr.ProbeOutput
	LeaseWait time.Duration // waited for somebody else's lease to run out
}

// Execute carries a plan out as a new run.
func (o *Operation) Execute(ctx context.Context, p dr.Plan) (*Result, error) {
	if p.Goal == dr.GoalBackup && p.Epoch == 0 {
		var err error
		if p, err = o.adopt(ctx, p); err != nil {
			return nil, err
		}
	}
	id := vault.NewID(time.Now(), o.app.Name)
	res, err := o.drive(ctx, p, id, func(ctx context.Context, opts run.Options) (dr.Run, error) {
		o.say("run %s", id)
		return run.Execute(ctx, opts, id, p)
	})
	if err == nil && p.Goal == dr.GoalBackup {
		o.replicate(ctx)
	}
	return res, err
}

// replicate brings the vault's replicas in step with a backup. The backup is good without them, so that
// one that does not answer is a warning.
func (o *Operation) replicate(ctx context.Context) {
	ref, _ := o.fleet.Vault(o.app.Vault) // Open found it
	for _, c := range vault.ReplicasOf(o.vault, *ref).InStep(ctx, "", o.say) {
		if c.Err != nil {
			o.say("warning: replica %s is behind: %v", c.Replica, c.Err)
			continue
		}
		o.say("replica %s is in step: %d objects copied", c.Replica, c.Objects)
	}
}

// adopt makes the site that an application is backed up from its first owner.
func (o *Operation) adopt(ctx context.Context, p dr.Plan) (dr.Plan, error) {
	own, token, err := o.vault.Ownership(ctx, o.app.Name)
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return p, fmt.Errorf("read who owns %s: %w", o.app.Name, err)
	}
	if own.Site != "" {
		return p, dr.Errorf(dr.ClassConflict, nil, "Back up again.", "%s took charge of %s meanwhile", own.Site, o.app.Name)
	}
	first := dr.Ownership{Application: o.app.Name, Site: p.From, Epoch: 1, Changed: time.Now().UTC(), Lease: own.Lease}
	if _, err := o.vault.PutOwnership(ctx, first, token); err != nil {
		return p, fmt.Errorf("make %s the owner of %s: %w", p.From, o.app.Name, err)
	}
	p.Epoch = first.Epoch
	p.Hash, err = plan.Hash(p)
	return p, err
}

// OpenRun makes ready to work for the application that a run is of, whichever vault of the fleet has it.
func OpenRun(ctx context.Context, fleet *dr.Fleet, id string, opts Options) (*Operation, error) {
	var first error
	for i := range fleet.Applications {
		o, err := Open(ctx, fleet, &fleet.Applications[i], opts)
		if err != nil {
			return nil, err
		}
		r, err := run.Load(ctx, journal{o.vault}, id)
		if err != nil {
			first = errors.Join(first, err)
			continue
		}
		app, ok := fleet.Application(r.Plan.Application)
		if !ok {
			return nil, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "run %s is of application %s, which is not declared", id, r.Plan.Application)
		}
		o.app = app
		return o, nil
	}
	if first == nil {
		first = dr.Errorf(dr.ClassUsage, nil, "", "the fleet file has no application")
	}
	return nil, first
}

// Resume goes on with a run.
func (o *Operation) Resume(ctx context.Context, id string) (*Result, error) {
	res, err := o.Result(ctx, id)
	if err != nil {
		return nil, err
	}
	goal := res.Run.Plan.Goal
	res, err = o.drive(ctx, res.Run.Plan, id, func(ctx context.Context, opts run.Options) (dr.Run, error) {
		return run.Resume(ctx, opts, id)
	})
	if err == nil && goal == dr.GoalBackup {
		o.replicate(ctx)
	}
	return res, err
}

// Unfinished returns the newest run of the application that is not finished and that the request means; one
// that means something else has to be finished first.
func (o *Operation) Unfinished(ctx context.Context, r plan.Request) (string, error) {
	last, err := o.lastRuns(ctx)
	if err != nil {
		return "", err
	}
	if r.Goal == dr.GoalClone {
		return unfinishedClone(last, r), nil
	}
	for _, x := range last {
		if x.Plan.Goal == dr.GoalBackup || x.Plan.Goal == dr.GoalClone || x.Stage == dr.StageEnded && x.Outcome != dr.OutcomeFailed {
			continue
		}
		own, _, err := o.vault.Ownership(ctx, o.app.Name)
		if err != nil {
			return "", fmt.Errorf("read who owns %s: %w", o.app.Name, err)
		}
		if own.Run != x.ID && own.Epoch != x.Plan.Epoch {
			continue // overtaken by a later run: nothing can go on with it
		}
		if own.Run != x.ID && x.Stage == dr.StageEnded {
			continue // failed before it claimed anything: a new plan is the better one
		}
		same, err := o.meant(ctx, x.Plan, r)
		if err != nil {
			return "", err
		}
		if !same {
			return "", dr.Errorf(dr.ClassConflict, nil, "Finish it first: lifeboat resume "+x.ID, "run %s (%s of %s to %s) is not finished", x.ID, x.Plan.Goal, o.app.Name, x.Plan.To)
		}
		return x.ID, nil
	}
	return "", nil
}

// meant says whether a request means what a plan does.
func (o *Operation) meant(ctx context.Context, p dr.Plan, r plan.Request) (bool, error) {
	if p.Goal != r.Goal || r.To != "" && p.To != r.To || !sameRestoring(p.Restoring, r.Restoring) {
		return false, nil
	}
	for _, s := range p.Steps {
		// What is brought to an instant of its log is another thing for each instant.
		if d, ok := s.Params.(dr.RestoreData); ok && !r.Point.At.IsZero() && !d.At.Equal(r.Point.At) && (databases{o}).keeps(d.Datastore) {
			return false, nil
		}
	}
	if r.Point.At.IsZero() {
		return strings.HasPrefix(p.RecoveryPoint, r.Point.ID), nil
	}
	chosen, _, err := (Points{o}).Choose(ctx, r.Point)
	return chosen.ID == p.RecoveryPoint, err
}

func sameRestoring(planned *dr.Restoring, asked dr.Restoring) bool {
	if planned == nil {
		return asked.Zero()
	}
	return reflect.DeepEqual(*planned, asked)
}

// unfinishedClone is the newest run that makes the same copy. Others, of other copies, are nobody's concern.
func unfinishedClone(last []dr.Run, r plan.Request) string {
	for _, x := range last {
		done := x.Stage == dr.StageEnded && x.Outcome != dr.OutcomeFailed
		if x.Plan.Goal == dr.GoalClone && (r.To == "" || r.To == x.Plan.To) && sameRestoring(x.Plan.Restoring, r.Restoring) {
			if done || r.Point != (plan.PointRef{}) && !(r.Point.ID != "" && strings.HasPrefix(x.Plan.RecoveryPoint, r.Point.ID)) {
				return "" // what there is of it is overwritten
			}
			return x.ID
		}
	}
	return ""
}

// lastRuns folds the newest runs of the application, newest first.
func (o *Operation) lastRuns(ctx context.Context) ([]dr.Run, error) {
	const look = 8 // an unfinished run that is older than these was overtaken
	ids, err := o.vault.Runs(ctx, o.app.Name)
	if err != nil {
		return nil, fmt.Errorf("list the runs of %s: %w", o.app.Name, err)
	}
	var out []dr.Run
	for _, id := range ids[:min(look, len(ids))] {
		r, err := run.Load(ctx, journal{o.vault}, id)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Result reads what a run has come to so far.
func (o *Operation) Result(ctx context.Context, id string) (*Result, error) {
	r, err := run.Load(ctx, journal{o.vault}, id)
	if err != nil {
		return nil, err
	}
	return o.result(ctx, r)
}

// drive takes the lease that a plan needs and lets do work under it.
func (o *Operation) drive(ctx context.Context, p dr.Plan, id string, do func(context.Context, run.Options) (dr.Run, error)) (*Result, error) {
	record := leaseRecord(p)
	var waited leaseWait
	leased, lease, err := o.vault.AcquireLease(ctx, vault.LeaseRequest{Application: record, Holder: id + "/" + o.token, By: o.token,
		Duration: LeaseDuration, Wait: true, Progress: waited.note(o.say)})
	if err != nil {
		return nil, err
	}
	took := waited.total()
	// Given back even when the run was interrupted, so that the next process need not wait.
	defer func() {
		if err := lease.Release(ctx); err != nil {
			o.say("the lease on %s was not given back (%v): the next command waits up to %s for it", o.app.Name, err, LeaseDuration)
		}
	}()
	h, claim := held{lease.Ownership().Epoch}, claimer(lease)
	switch p.Goal {
	case dr.GoalClone:
		h, claim = held{p.Epoch}, nil // whoever owns the application, its copy is nobody's
	case dr.GoalBackup:
		own, _, err := o.vault.Ownership(ctx, o.app.Name)
		if err != nil {
			return nil, fmt.Errorf("read who owns %s: %w", o.app.Name, err)
		}
		h, claim = held{own.Epoch}, nil
	}
	r, err := do(leased, run.Options{Journal: journal{o.vault}, Lease: h, Handlers: o.handlers(claim), Clock: time.Now, Events: o.event, ProcessToken: o.token})
	if err != nil {
		return nil, err
	}
	res, err := o.result(ctx, r)
	if res != nil {
		res.LeaseWait = took
	}
	return res, err
}

// leaseRecord names the lease that a run holds: that of the application where it changes what the
// application serves from, one of their own for backups (docs/adr/0007) and for each copy.
func leaseRecord(p dr.Plan) string {
	switch p.Goal {
	case dr.GoalBackup:
		return p.Application + ".backup"
	case dr.GoalClone:
		targets := []string{p.Application, "clone", p.To}
		if p.Restoring != nil {
			targets = append(targets, slices.Sorted(maps.Values(p.Restoring.Namespaces))...)
		}
		return strings.Join(targets, ".")
	case dr.GoalRestore, dr.GoalFailover:
	}
	return p.Application
}

// held tells a run of the lease that it works under; the context that it is given ends with the lease.
type held struct{ epoch uint64 }

// Context implements run.Lease.
func (held) Context(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithCancel(parent)
}

// Epoch implements run.Lease.
func (h held) Epoch() uint64 { return h.epoch }

// leaseWait measures and tells how long somebody else's lease is waited for.
type leaseWait struct {
	mu    sync.Mutex
	since time.Time
}

func (w *leaseWait) note(say func(string, ...any)) func(vault.LeaseWait) {
	return func(l vault.LeaseWait) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.since.IsZero() {
			w.since = time.Now()
		}
		say("waiting for the lease of %s to run out: %s left", l.By, l.Left.Round(100*time.Millisecond))
	}
}

func (w *leaseWait) total() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		return 0
	}
	return time.Since(w.since)
}

// event tells what a run does, a line each.
func (o *Operation) event(e run.Event) {
	switch e.Type {
	case dr.EntryStepStarted:
		o.say("step %s begins: %s", e.Step, e.Title)
	case dr.EntryStepEnded:
		o.say("step %s ended: %s%s", e.Step, e.Outcome, because(e.Reason))
	case run.EventProgress:
		if said := e.Step + e.Text; said != o.said {
			o.said = said
			o.say("step %s: %s", e.Step, e.Text)
		}
	case dr.EntryEpochChanged:
		o.say("step %s: a new epoch of %s", e.Step, o.app.Name)
	case dr.EntryRunEnded:
		o.say("run %s ended: %s%s", e.Run, e.Outcome, because(e.Reason))
	case dr.EntryRunStarted, dr.EntryRunResumed:
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// result gathers what the steps of a run left.
func (o *Operation) result(ctx context.Context, r dr.Run) (*Result, error) {
	res := &Result{Run: r}
	for i, s := range r.Steps {
		if s.Output == nil {
			continue
		}
		if err := res.take(r.Plan.Steps[i].Params, s.Output); err != nil {
			return nil, fmt.Errorf("read what step %s of run %s left: %w", s.ID, r.ID, err)
		}
	}
	if res.Point == nil && r.Plan.RecoveryPoint != "" {
		p, err := o.point(ctx, r.Plan.RecoveryPoint)
		if err != nil {
			return nil, err
		}
		res.Point = &p
	}
	return res, nil
}

func (r *Result) take(p dr.Params, raw json.RawMessage) error {
	switch p.(type) {
	case dr.SealPoint:
		var out dr.PointOutput
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		r.Point = &out.Point
	case dr.AwaitReady:
		r.Ready = &dr.ReadyOutput{}
		return json.Unmarshal(raw, r.Ready)
	case dr.SwitchTraffic:
		var out dr.TrafficOutput
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		r.Traffic = append(r.Traffic, out)
	case dr.ProbeFromOutside:
		var out dr.ProbeOutput
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		r.Probes = append(r.Probes, out)
	}
	return nil
}
