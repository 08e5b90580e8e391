package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/run"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// protection holds the handlers of the steps that protect an application.
type protection struct{ *Operation }

func (o protection) capture(ctx context.Context, sc run.StepContext, p dr.Capture) (run.Result, error) {
	client, err := o.connect(ctx, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	began := time.Now()
	scope := capture.Scope{Application: o.app.Name, Namespaces: o.app.Namespaces}
	cp, err := TakeCheckpoint(ctx, o.vault.Repo(), client, scope, repo.Snapshot{Time: began, Hostname: p.Site, Paths: []string{"/state"}, Tags: o.tags(sc.Run, "state")})
	if err != nil {
		return run.Result{}, fmt.Errorf("capture %s at %s: %w", o.app.Name, p.Site, err)
	}
	return done(dr.CaptureOutput{Snapshot: cp.Snapshot, Started: began.UTC(), Objects: cp.Found.Objects, Missing: cp.Found.Missing})
}

// tags mark a snapshot for those who look at the repository with restic.
func (o protection) tags(point, part string) []string {
	return []string{"application=" + o.app.Name, "point=" + point, "part=" + part}
}

func (o protection) protectData(ctx context.Context, sc run.StepContext, p dr.ProtectData) (run.Result, error) {
	ds, err := o.datastoreOf(p.Datastore)
	if err != nil {
		return run.Result{}, err
	}
	d, err := o.datastore(ctx, p.Site, ds)
	if err != nil {
		return run.Result{}, err
	}
	parent, err := o.lastCopy(ctx, p.Site, ds.Name)
	if err != nil {
		o.say("%s is read from its first file to its last: %v", ds.Name, err)
	}
	point, err := d.Protect(ctx, driver.ProtectRequest{Application: o.app.Name, Point: sc.Run, Datastore: ds, Parent: parent,
		Beacon:   dr.Beacon{Application: o.app.Name, Datastore: ds.Name, Site: p.Site, Epoch: sc.Epoch},
		Progress: progress(sc)})
	if err != nil {
		return run.Result{}, err
	}
	return done(point)
}

// lastCopy is the newest copy of a datastore that was made at a site: what did not change since is not
// read again. Copies from other sites are of other volumes, which tell nothing.
func (o protection) lastCopy(ctx context.Context, site, datastore string) (string, error) {
	points, err := o.vault.Points(ctx, o.app.Name)
	if err != nil {
		return "", fmt.Errorf("look for the last copy of %s: %w", datastore, err)
	}
	for _, p := range slices.Backward(points) { // oldest first
		at := slices.IndexFunc(p.Data, func(d dr.DataPoint) bool { return d.Datastore == datastore })
		if at >= 0 && p.Site == site {
			return p.Data[at].Snapshot, nil
		}
	}
	return "", nil
}

// sealed looks for a point that an earlier process of this run sealed: a point has its run's id.
func (o protection) sealed(ctx context.Context, sc run.StepContext, _ dr.SealPoint) (*run.Result, error) {
	p, err := o.vault.Point(ctx, o.app.Name, sc.Run)
	if errors.Is(err, dr.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for recovery point %s: %w", sc.Run, err)
	}
	return &run.Result{Outcome: dr.OutcomeDone, Output: dr.PointOutput{Point: p}}, nil
}

func (o protection) seal(ctx context.Context, sc run.StepContext, p dr.SealPoint) (run.Result, error) {
	own, _, err := o.vault.Ownership(ctx, o.app.Name)
	if err != nil {
		return run.Result{}, fmt.Errorf("read who owns %s: %w", o.app.Name, err)
	}
	if own.Site != p.Site || own.Epoch != sc.Epoch {
		return run.Result{}, dr.Errorf(dr.ClassConflict, dr.ErrStale, "Back up again; the new owner is asked then.",
			"%s moved to %s (epoch %d) while %s was backed up under epoch %d: the recovery point is not sealed", o.app.Name, own.Site, own.Epoch, p.Site, sc.Epoch)
	}
	point, err := o.assemble(sc, p.Site)
	if err != nil {
		return run.Result{}, err
	}
	if err := vault.SealPoint(ctx, o.vault, point); err != nil {
		return run.Result{}, fmt.Errorf("seal recovery point %s: %w", point.ID, err)
	}
	return done(dr.PointOutput{Point: point})
}

// assemble makes the recovery point of what the run's steps left.
func (o protection) assemble(sc run.StepContext, site string) (dr.RecoveryPoint, error) {
	point := dr.RecoveryPoint{ID: sc.Run, Application: o.app.Name, Site: site, Epoch: sc.Epoch, Finished: time.Now().UTC()}
	for _, s := range sc.Plan.Steps {
		switch s.Params.(type) {
		case dr.Capture:
			out, err := output[dr.CaptureOutput](sc, s.ID)
			if err != nil {
				return point, err
			}
			point.Checkpoint, point.Objects, point.Missing = out.Snapshot, out.Objects, out.Missing
			point.Started, point.Time = out.Started, out.Started
		case dr.ProtectData:
			out, err := output[dr.DataPoint](sc, s.ID)
			if err != nil {
				return point, err
			}
			point.Data = append(point.Data, out)
		}
	}
	if len(point.Data) > 0 {
		oldest := slices.MinFunc(point.Data, func(a, b dr.DataPoint) int { return a.Beacon.Time.Compare(b.Beacon.Time) })
		point.Time = oldest.Beacon.Time
	}
	return point, nil
}
