package postgres

import (
	"context"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// inVault reads what the vault has of the log that a base backup is continued by.
func inVault(ctx context.Context, logs driver.Logs, of dr.DataPoint) (log driver.Log, have kept, err error) {
	log = logs.Open(of.Beacon.Application, of.Datastore, of.Beacon.Epoch)
	if have.pieces, err = log.Pieces(ctx); err == nil && of.Postgres != nil {
		have.histories, err = log.Histories(ctx, of.Postgres.System)
	}
	return log, have, err
}

// Recoverable says what stands in the way of a recovery, from what the vault has.
func Recoverable(ctx context.Context, logs driver.Logs, req driver.RestoreRequest) error {
	_, have, err := inVault(ctx, logs, req.Data)
	if err == nil {
		_, err = choose(req, have)
	}
	return err
}

// Extent returns the beacon up to which a base backup's log goes on without a gap; zero: nowhere.
func Extent(ctx context.Context, logs driver.Logs, of dr.DataPoint) (dr.Beacon, error) {
	log, have, err := inVault(ctx, logs, of)
	if err != nil {
		return dr.Beacon{}, err
	}
	r, _ := choose(driver.RestoreRequest{Datastore: dr.Datastore{Name: of.Datastore}, Data: of, Target: driver.RecoveryTarget{Latest: true}}, have) // a gap ends it
	if r.proof == nil {
		return dr.Beacon{}, nil
	}
	p, _, err := log.Read(ctx, *r.proof)
	return p.Beacon, err
}

// Compose chooses the base backup and the log that a recovery needs, and makes a tree of them in the vault:
// the returned copy holds the files of the claim.
func Compose(ctx context.Context, trees driver.Trees, logs driver.Logs, req driver.RestoreRequest, host string) (dr.DataPoint, error) {
	log, have, err := inVault(ctx, logs, req.Data)
	if err != nil {
		return dr.DataPoint{}, err
	}
	r, err := choose(req, have)
	if err != nil {
		return dr.DataPoint{}, err
	}
	if ds := req.Datastore.Postgres; ds != nil && ds.Claim != "" {
		copied := *r.base.Postgres
		copied.Claim, copied.Directory = ds.Claim, ds.Directory
		r.base.Postgres = &copied
	}
	saved, beacon, err := compose(ctx, trees, log, r, have.histories, driver.TreeLabels{Time: time.Now(), Host: host,
		Labels: labelsOf(req.Application, req.Data.Datastore, req.Point, "recovery of "+req.Data.Datastore)})
	if err != nil {
		return dr.DataPoint{}, err
	}
	out := r.base
	out.Snapshot, out.Beacon = saved.Snapshot, beacon
	return out, nil
}

// Continues says whether a log that has no gap between two positions goes on from a base backup.
func Continues(base *dr.PostgresCopy, whole, to LSN) bool {
	end, err := covered(base)
	return err == nil && whole <= end && to > end
}

// covered is up to where a base backup holds the log itself: the segment in which it ended, to that
// segment's end, for the server began a new one then.
func covered(base *dr.PostgresCopy) (LSN, error) {
	stop, err := ParseLSN(base.Stop)
	return (stop + LSN(base.SegmentSize) - 1) / LSN(base.SegmentSize) * LSN(base.SegmentSize), err
}
