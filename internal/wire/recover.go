package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
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

// stateOf loads a recovery point's objects, ready to be put back at a site.
func (o recovery) stateOf(ctx context.Context, point, site string) (*restore.Set, restore.Options, error) {
	p, err := o.point(ctx, point)
	if err != nil {
		return nil, restore.Options{}, err
	}
	set, err := restore.Load(ctx, Stored(o.vault.Repo(), p.Checkpoint))
	if err != nil {
		return nil, restore.Options{}, fmt.Errorf("read checkpoint %s: %w", p.Checkpoint, err)
	}
	from, ok := o.fleet.Site(p.Site)
	if !ok {
		from = &dr.Site{Name: p.Site} // gone from the fleet file: nothing of it can be mapped
	}
	to, ok := o.fleet.Site(site)
	if !ok {
		return nil, restore.Options{}, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "there is no site %q", site)
	}
	return set, restore.Options{Application: o.app.Name, Point: p.ID, From: *from, To: *to, Data: claims(o.app, p)}, nil
}

// claims are those whose data a recovery point has.
func claims(app *dr.Application, p dr.RecoveryPoint) []dr.VolumeRef {
	out := []dr.VolumeRef{}
	for _, ds := range app.Data {
		if ds.Volume != nil && slices.ContainsFunc(p.Data, func(d dr.DataPoint) bool { return d.Datastore == ds.Name }) {
			out = append(out, *ds.Volume)
		}
	}
	return out
}

func (o recovery) restoreState(ctx context.Context, sc run.StepContext, p dr.RestoreState) (run.Result, error) {
	client, err := o.connect(ctx, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	set, opts, err := o.stateOf(ctx, p.Point, p.Site)
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

func (o recovery) restoreRequest(ctx context.Context, p dr.RestoreData) (driver.Datastore, driver.RestoreRequest, error) {
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
	d, err := o.datastore(ctx, p.Site, ds)
	return d, driver.RestoreRequest{Application: o.app.Name, Point: p.Point, Datastore: ds, Data: point.Data[i]}, err
}

func (o recovery) dataRestored(ctx context.Context, _ run.StepContext, p dr.RestoreData) (*run.Result, error) {
	d, req, err := o.restoreRequest(ctx, p)
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
	d, req, err := o.restoreRequest(ctx, p)
	if err != nil {
		return run.Result{}, err
	}
	req.Progress = progress(sc)
	out, err := d.Restore(ctx, req)
	if err != nil {
		return run.Result{}, err
	}
	if want := req.Data.Beacon; out.Beacon.Sequence != want.Sequence || !out.Beacon.Time.Equal(want.Time) {
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
	set, opts, err := o.stateOf(ctx, p.Point, p.Site)
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
	return done(out)
}
