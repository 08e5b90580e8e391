package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/edit"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/run"
)

// claimer raises the epoch under the run's lease.
type claimer interface {
	Claim(ctx context.Context, site, run, breakGlass string) (epoch uint64, err error)
}

// recovery holds the handlers of the steps that bring an application back at a site.
type recovery struct {
	*Operation
	claimer claimer // nil in a run that makes no claims
}

// lostDeadline bounds the try to reach a site that is said to be lost.
const lostDeadline = 2 * time.Second

func (o recovery) fence(ctx context.Context, sc run.StepContext, p dr.FenceSite) (run.Result, error) {
	// Glass is broken where the site is known to be lost: it gets one more chance, a short one.
	within := connectDeadline
	if p.BreakGlass != "" {
		within = lostDeadline
	}
	asked, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	client, err := o.connect(asked, p.Site)
	if err == nil {
		n, ferr := kube.Fence(ctx, client, o.app.Namespaces)
		if ferr == nil {
			return run.Result{Outcome: dr.OutcomeDone, Reason: fmt.Sprintf("%d workloads stopped, no pod left", n)}, nil
		}
		err = ferr
	}
	if p.BreakGlass == "" {
		return run.Result{}, dr.Errorf(dr.ClassBlocked, err, fmt.Sprintf("When you know that it serves nobody: lifeboat failover %s --to %s --break-glass \"how you know\"", o.app.Name, sc.Plan.To),
			"%s cannot be fenced at %s, so it may still be serving there", o.app.Name, p.Site)
	}
	return run.Result{Outcome: dr.OutcomeSkipped, Reason: fmt.Sprintf("not fenced (%v); broken glass: %s", err, p.BreakGlass)}, nil
}

// claimed says whether an earlier process of this run made the claim.
func (o recovery) claimed(ctx context.Context, sc run.StepContext, p dr.Claim) (*run.Result, error) {
	own, _, err := o.vault.Ownership(ctx, o.app.Name)
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return nil, fmt.Errorf("read who owns %s: %w", o.app.Name, err)
	}
	if err == nil && own.Run == sc.Run && own.Site == p.Site {
		return &run.Result{Outcome: dr.OutcomeDone, Output: dr.ClaimOutput{Epoch: own.Epoch}}, nil
	}
	return nil, nil
}

func (o recovery) claim(ctx context.Context, sc run.StepContext, p dr.Claim) (run.Result, error) {
	if o.claimer == nil {
		return run.Result{}, fmt.Errorf("a %s run makes no claims", sc.Plan.Goal)
	}
	epoch, err := o.claimer.Claim(ctx, p.Site, sc.Run, sc.Plan.BreakGlass)
	if err != nil {
		return run.Result{}, err
	}
	return done(dr.ClaimOutput{Epoch: epoch})
}

// between are the sites that a recovery point was captured at and is brought back to.
func (o *Operation) between(ctx context.Context, point, site string) (from, to dr.Site, err error) {
	p, err := o.point(ctx, point)
	if err != nil {
		return from, to, err
	}
	if s, ok := o.fleet.Site(p.Site); ok {
		from = *s
	} else {
		from.Name = p.Site // gone from the fleet file: nothing of it can be mapped
	}
	s, ok := o.fleet.Site(site)
	if !ok {
		return from, to, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "there is no site %q", site)
	}
	return from, *s, nil
}

// stateOf loads a recovery point's objects, ready to be put back at a site in the way that a plan says.
func (o *Operation) stateOf(ctx context.Context, pl dr.Plan, site string) (*restore.Set, restore.Options, error) {
	p, err := o.point(ctx, pl.RecoveryPoint)
	if err != nil {
		return nil, restore.Options{}, err
	}
	opts := restore.Options{Application: o.app.Name, Point: p.ID, Data: claims(o.app, pl, p)}
	if opts.From, opts.To, err = o.between(ctx, p.ID, site); err != nil {
		return nil, restore.Options{}, err
	}
	if opts.Edits, err = edit.Compile(o.app.Restore.Transforms); err != nil {
		return nil, restore.Options{}, fmt.Errorf("the transforms of %s: %w", o.app.Name, err)
	}
	src := Stored(o.vault.Repo(), p.Checkpoint)
	if r := pl.Restoring; r != nil {
		opts.Select, opts.WithoutNeeds, opts.Existing, opts.Status, opts.Hosts = r.Select, r.WithoutNeeds, restore.Policy(r.Existing), r.Status, r.Hosts
		if len(r.Namespaces) > 0 {
			opts.Copy = strings.Join(slices.Sorted(maps.Values(r.Namespaces)), ",")
			opts.Moved = restore.InNamespaces(src, r.Namespaces)
			src = opts.Moved.Source()
		}
		opts.Select.Namespaces = nil
		for _, ns := range r.Select.Namespaces {
			opts.Select.Namespaces = append(opts.Select.Namespaces, r.Namespace(ns))
		}
	}
	set, err := restore.Load(ctx, src)
	if err != nil {
		return nil, restore.Options{}, fmt.Errorf("read checkpoint %s: %w", p.Checkpoint, err)
	}
	return set, opts, nil
}

// claims are those whose data a plan brings back, where it brings them.
func claims(app *dr.Application, pl dr.Plan, point dr.RecoveryPoint) []dr.VolumeRef {
	out := []dr.VolumeRef{}
	for _, s := range pl.Steps {
		p, ok := s.Params.(dr.RestoreData)
		i := slices.IndexFunc(app.Data, func(ds dr.Datastore) bool { return ds.Name == p.Datastore })
		if !ok || i < 0 {
			continue
		}
		ds := app.Data[i]
		if pl.Restoring != nil {
			ds = ds.In(pl.Restoring.Namespace(ds.Namespace()))
		}
		switch {
		case ds.Volume != nil:
			out = append(out, *ds.Volume)
		case ds.Postgres != nil:
			at := slices.IndexFunc(point.Data, func(d dr.DataPoint) bool { return d.Datastore == p.Datastore && d.Postgres != nil })
			claim := ds.Postgres.Claim
			if claim == "" && at >= 0 {
				claim = point.Data[at].Postgres.Claim
			}
			out = append(out, dr.VolumeRef{Namespace: ds.Postgres.Namespace, Claim: claim})
		}
	}
	return out
}

func (o recovery) restoreState(ctx context.Context, sc run.StepContext, p dr.RestoreState) (run.Result, error) {
	client, err := o.connect(ctx, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	set, opts, err := o.stateOf(ctx, sc.Plan, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	opts.Stage = p.Stage
	out, err := set.Apply(ctx, client, opts, objects(sc))
	if err != nil {
		return run.Result{}, err
	}
	return done(out)
}

func (o recovery) restoreRequest(ctx context.Context, sc run.StepContext, p dr.RestoreData) (driver.Datastore, driver.RestoreRequest, error) {
	ds, err := o.datastoreOf(p.Datastore)
	if err != nil {
		return nil, driver.RestoreRequest{}, err
	}
	point, err := o.point(ctx, p.Point)
	if err != nil {
		return nil, driver.RestoreRequest{}, err
	}
	i := slices.IndexFunc(point.Data, func(d dr.DataPoint) bool { return d.Datastore == p.Datastore })
	if i < 0 {
		return nil, driver.RestoreRequest{}, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Choose another recovery point.", "recovery point %s has no copy of %s", p.Point, p.Datastore)
	}
	if sc.Plan.Restoring != nil {
		ds = ds.In(sc.Plan.Restoring.Namespace(ds.Namespace()))
	}
	req := driver.RestoreRequest{Application: o.app.Name, Point: p.Point, Datastore: ds, Data: point.Data[i], Target: driver.RecoveryTarget{Time: p.At, Latest: p.Latest}}
	if !req.Target.Zero() {
		if req.Copies, err = (databases{o.Operation}).copies(ctx, ds.Name); err != nil {
			return nil, req, err
		}
	}
	d, err := o.datastore(ctx, p.Site, ds)
	return d, req, err
}

func (o recovery) dataRestored(ctx context.Context, sc run.StepContext, p dr.RestoreData) (*run.Result, error) {
	d, req, err := o.restoreRequest(ctx, sc, p)
	if err != nil {
		return nil, err
	}
	out, err := d.Restored(ctx, req)
	if err != nil || out == nil {
		return nil, err
	}
	return &run.Result{Outcome: dr.OutcomeDone, Reason: "was restored already", Output: *out}, nil
}

func (o recovery) restoreData(ctx context.Context, sc run.StepContext, p dr.RestoreData) (run.Result, error) {
	d, req, err := o.restoreRequest(ctx, sc, p)
	if err != nil {
		return run.Result{}, err
	}
	req.Progress = progress(sc)
	out, err := d.Restore(ctx, req)
	if err != nil {
		return run.Result{}, err
	}
	// What was read off a log is later than the recovery point's beacon; its driver compares.
	if want := req.Data.Beacon; req.Data.Postgres == nil && (out.Beacon.Sequence != want.Sequence || !out.Beacon.Time.Equal(want.Time)) {
		return run.Result{}, dr.Errorf(dr.ClassIncomplete, nil, "", "restored %s holds beacon %d of %s, not %d of %s as recovery point %s says",
			p.Datastore, out.Beacon.Sequence, out.Beacon.Time, want.Sequence, want.Time, p.Point)
	}
	return done(out)
}

func (o recovery) awaitReady(ctx context.Context, sc run.StepContext, p dr.AwaitReady) (run.Result, error) {
	client, err := o.connect(ctx, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	set, opts, err := o.stateOf(ctx, sc.Plan, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	out, err := set.AwaitReady(ctx, client, opts, objects(sc))
	if err != nil {
		return run.Result{}, err
	}
	if len(out.Problems) > 0 {
		return run.Result{}, dr.Errorf(dr.ClassIncomplete, nil, "Mend them, then: lifeboat resume "+sc.Run, "%d objects are not as recovery point %s has them: %s",
			len(out.Problems), p.Point, strings.Join(out.Problems, "; "))
	}
	notes, err := databases{o.Operation}.back(ctx, sc, client)
	out.Notes = append(out.Notes, notes...)
	if err != nil {
		return run.Result{}, err
	}
	return done(out)
}
