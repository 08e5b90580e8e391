package wire

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/postgres"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/run"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/archive"
)

// databases are the application's datastores whose write-ahead log is kept.
type databases struct{ *Operation }

func (o databases) driver(client *kube.Client) *postgres.Driver {
	return postgres.New(client, archive.Trees{Repo: o.vault.Repo()}, o.logs(), volumes(o.Operation, client))
}

func (o databases) logs() archive.Logs { return archive.Logs{Store: vault.Logs{Vault: o.vault}} }

// keeps says whether a datastore's log is kept.
func (o databases) keeps(datastore string) bool {
	return slices.ContainsFunc(o.app.Data, func(d dr.Datastore) bool { return d.Name == datastore && d.Postgres != nil })
}

// copies are all base backups of a datastore.
func (o databases) copies(ctx context.Context, datastore string) ([]dr.DataPoint, error) {
	points, err := o.vault.Points(ctx, o.app.Name)
	if err != nil {
		return nil, fmt.Errorf("look for the copies of %s: %w", datastore, err)
	}
	seen := map[string]bool{}
	var out []dr.DataPoint
	for _, p := range points {
		for _, d := range p.Data {
			if d.Datastore == datastore && d.Postgres != nil && !seen[d.Snapshot] {
				seen[d.Snapshot] = true
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// follow sees how far the logs go on from the newest recovery point: its data is that young.
func (o databases) follow(ctx context.Context, points []plan.Point) error {
	var newest *plan.Point
	for i := range points {
		p := &points[i]
		if p.Complete() && (newest == nil || cmp.Or(cmp.Compare(p.Epoch, newest.Epoch), p.Time.Compare(newest.Time), cmp.Compare(p.ID, newest.ID)) > 0) {
			newest = p
		}
	}
	if newest == nil {
		return nil
	}
	oldest := time.Time{}
	for _, d := range newest.Data {
		at := d.Beacon.Time
		if d.Postgres != nil {
			extended, err := postgres.Extent(ctx, o.logs(), d)
			if err != nil {
				return fmt.Errorf("look how far the log of %s goes: %w", d.Datastore, err)
			}
			if extended.Time.After(at) {
				at = extended.Time
				if newest.Logs == nil {
					newest.Logs = map[string]time.Time{}
				}
				newest.Logs[d.Datastore] = at
			}
		}
		if oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	if len(newest.Logs) > 0 {
		newest.Age = time.Since(oldest)
	}
	return nil
}

// recoverable makes sure, before anything is stopped or written, that the logs reach the instants that a
// plan brings datastores to.
func (o databases) recoverable(ctx context.Context, p dr.Plan) error {
	for _, s := range p.Steps {
		d, ok := s.Params.(dr.RestoreData)
		if !ok || !o.keeps(d.Datastore) {
			continue
		}
		point, err := o.point(ctx, d.Point)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(point.Data, func(x dr.DataPoint) bool { return x.Datastore == d.Datastore })
		if i < 0 {
			continue // the plan warns of it
		}
		req := driver.RestoreRequest{Datastore: dr.Datastore{Name: d.Datastore}, Data: point.Data[i], Target: driver.RecoveryTarget{Time: d.At, Latest: d.Latest}}
		if req.Copies, err = o.copies(ctx, d.Datastore); err != nil {
			return err
		}
		if err := postgres.Recoverable(ctx, o.logs(), req); err != nil {
			return err
		}
	}
	return nil
}

// back waits until the databases that a run brought back have recovered, and reads their beacons: that is
// what the recovery has achieved.
func (o databases) back(ctx context.Context, sc run.StepContext, client *kube.Client) (notes []string, err error) {
	for _, s := range sc.Plan.Steps {
		p, ok := s.Params.(dr.RestoreData)
		if !ok || !o.keeps(p.Datastore) {
			continue
		}
		want, err := output[dr.DataOutput](sc, s.ID)
		if err != nil {
			return notes, err
		}
		ds, err := o.datastoreOf(p.Datastore)
		if err != nil {
			return notes, err
		}
		if sc.Plan.Restoring != nil {
			ds = ds.In(sc.Plan.Restoring.Namespace(ds.Namespace()))
		}
		got, err := o.driver(client).Recovered(ctx, ds)
		if err != nil {
			return notes, err
		}
		if got.Sequence < want.Beacon.Sequence {
			return notes, dr.Errorf(dr.ClassIncomplete, nil, "Look into the database, and bring it back from another recovery point if need be.",
				"%s has recovered to beacon %d of %s, and its log went on to beacon %d of %s", p.Datastore, got.Sequence, got.Time.Format(time.RFC3339), want.Beacon.Sequence, want.Beacon.Time.Format(time.RFC3339))
		}
		notes = append(notes, fmt.Sprintf("%s has recovered: its newest beacon is %d of %s", p.Datastore, got.Sequence, got.Time.Format(time.RFC3339Nano)))
	}
	return notes, nil
}
