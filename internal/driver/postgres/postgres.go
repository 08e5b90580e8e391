// Package postgres protects PostgreSQL servers: base backups and the write-ahead log are streamed into the
// vault over the replication protocol, and a database is brought back as it was at an instant of its log.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Driver implements driver.Datastore for the servers of one site.
type Driver struct {
	client  *kube.Client
	trees   driver.Trees
	logs    driver.Logs
	volumes driver.Datastore // brings files back into claims
	dial    func(ctx context.Context, namespace, pod string, port int) (net.Conn, error)
}

// look is the pause between two looks at a server that recovers.
const look = 200 * time.Millisecond

var _ driver.Datastore = (*Driver)(nil)

// New returns the driver of a site. Servers are reached through the site's API server.
func New(client *kube.Client, trees driver.Trees, logs driver.Logs, volumes driver.Datastore) *Driver {
	return &Driver{client: client, trees: trees, logs: logs, volumes: volumes, dial: client.Forward}
}

// Inspect implements driver.Datastore. Where no server runs, its claim is what is inspected, if the fleet
// file names it.
func (d *Driver) Inspect(ctx context.Context, ds dr.Datastore) (driver.DataState, error) {
	var state driver.DataState
	if ds.Postgres != nil && ds.Postgres.Claim != "" {
		var err error
		if state, err = d.volumes.Inspect(ctx, d.claim(ds, "")); err != nil || state.Restoring != "" {
			return state, err
		}
	}
	s, err := d.locate(ctx, ds)
	if err != nil {
		if state.Description != "" && dr.ClassOf(err) == dr.ClassUnreachable {
			return state, nil
		}
		return state, err
	}
	info, err := s.Inspect(ctx)
	if err != nil {
		return state, err
	}
	role := "primary"
	if info.InRecovery {
		role = "in recovery"
	}
	return driver.DataState{Description: fmt.Sprintf("PostgreSQL %s, %s, %s", info.Version, s.Name, role), Bytes: info.Bytes}, nil
}

// claim is the datastore's volume.
func (d *Driver) claim(ds dr.Datastore, found string) dr.Datastore {
	name := ds.Postgres.Claim
	if name == "" {
		name = found
	}
	return dr.Datastore{Name: ds.Name, Volume: &dr.VolumeRef{Namespace: ds.Postgres.Namespace, Claim: name}}
}

// Protect implements driver.Datastore: it takes a base backup.
func (d *Driver) Protect(ctx context.Context, req driver.ProtectRequest) (dr.DataPoint, error) {
	if err := d.whole(ctx, req.Datastore); err != nil {
		return dr.DataPoint{}, err
	}
	s, err := d.locate(ctx, req.Datastore)
	if err != nil {
		return dr.DataPoint{}, err
	}
	info, err := s.Inspect(ctx)
	if err != nil {
		return dr.DataPoint{}, err
	}
	claim, directory, err := claimOf(req.Datastore.Postgres, s.pod, info.DataDirectory)
	if err != nil {
		return dr.DataPoint{}, err // it could not be brought back
	}
	point, err := s.Backup(ctx, d.trees, req, d.client.Site)
	if err != nil {
		return dr.DataPoint{}, err
	}
	point.Postgres.Claim, point.Postgres.Directory = claim, directory
	return point, nil
}

// whole refuses to protect what is half of a restore.
func (d *Driver) whole(ctx context.Context, ds dr.Datastore) error {
	if ds.Postgres == nil || ds.Postgres.Claim == "" {
		return nil // then a server that runs is whole: it would not have started on half of a restore
	}
	state, err := d.volumes.Inspect(ctx, d.claim(ds, ""))
	if err == nil && state.Restoring != "" {
		err = dr.Errorf(dr.ClassBlocked, nil, "Finish the restore first.", "claim %s/%s holds a restore of %s that has not ended", ds.Postgres.Namespace, ds.Postgres.Claim, state.Restoring)
	}
	return err
}

// Backup takes a base backup of the server. The point says nothing of where its files belong.
func (s *Server) Backup(ctx context.Context, trees driver.Trees, req driver.ProtectRequest, host string) (dr.DataPoint, error) {
	point, err := s.backup(ctx, trees, req, host)
	if err != nil {
		return point, s.failed(err, "cannot take a base backup of PostgreSQL, %s", s.Name)
	}
	return point, nil
}

func (s *Server) backup(ctx context.Context, trees driver.Trees, req driver.ProtectRequest, host string) (_ dr.DataPoint, err error) {
	sql, err := s.connect(ctx, false)
	if err != nil {
		return dr.DataPoint{}, err
	}
	defer closing(ctx, sql)
	info, err := s.inspect(ctx, sql)
	if err == nil {
		err = s.lacks(info)
	}
	if err != nil {
		return dr.DataPoint{}, err
	}
	c, err := s.connect(ctx, true)
	if err != nil {
		return dr.DataPoint{}, err
	}
	defer closing(ctx, c)
	if err := identify(ctx, c, &info); err != nil {
		return dr.DataPoint{}, err
	}
	began := time.Now()
	beacon, err := writeBeacon(ctx, sql, req.Beacon)
	if err != nil {
		return dr.DataPoint{}, fmt.Errorf("write the beacon: %w", err)
	}
	tree, err := trees.Begin(ctx, "", "")
	if err != nil {
		return dr.DataPoint{}, err
	}
	defer func() { err = errors.Join(err, tree.Close(ctx)) }()
	b, err := baseBackup(ctx, c, tree, "lifeboat "+req.Point, modeOf(info), progress(req.Progress, info.Bytes))
	if err != nil {
		return dr.DataPoint{}, err
	}
	ended, err := queryRow(ctx, sql, "SELECT clock_timestamp()", 1)
	if err != nil {
		return dr.DataPoint{}, err
	}
	saved, err := tree.Save(ctx, driver.TreeLabels{Time: began, Host: host, Labels: labelsOf(req.Application, req.Datastore.Name, req.Point, req.Datastore.Name)})
	if err != nil {
		return dr.DataPoint{}, err
	}
	point := dr.DataPoint{Datastore: req.Datastore.Name, Snapshot: saved.Snapshot, Consistency: dr.CrashConsistent, Beacon: beacon.beacon,
		Bytes: saved.Bytes, StoredBytes: saved.StoredBytes, Files: saved.Files,
		Postgres: &dr.PostgresCopy{System: info.System, Version: info.Version, Timeline: b.timeline, Start: b.start.String(), Stop: b.stop.String(),
			SegmentSize: info.SegmentSize, Tablespaces: b.tablespaces}}
	point.Postgres.Ended, err = serverTime(ended[0])
	return point, err
}

// labelsOf mark a snapshot as ours; one that no recovery point names is pruned after a while.
func labelsOf(application, datastore, point, part string) map[string]string {
	return map[string]string{"application": application, "datastore": datastore, "point": point, "part": part}
}

// modeOf is the mode of the data directory, which a server insists on.
func modeOf(i Info) fs.FileMode {
	mode, err := strconv.ParseUint(i.DirectoryMode, 8, 32)
	if err != nil {
		return 0o700
	}
	return fs.FileMode(mode).Perm()
}

// progress tells how far a base backup is, now and then.
func progress(tell func(driver.Progress), total int64) func(files int, size int64) {
	var last time.Time
	return func(files int, size int64) {
		if tell != nil && time.Since(last) > time.Second {
			last = time.Now()
			tell(driver.Progress{Bytes: size, TotalBytes: max(total, size), Files: files, TotalFiles: files})
		}
	}
}

// Restored implements driver.Datastore.
func (d *Driver) Restored(ctx context.Context, req driver.RestoreRequest) (*dr.DataOutput, error) {
	if req.Data.Postgres == nil {
		return nil, nil
	}
	req.Datastore, req.Point = d.claim(req.Datastore, req.Data.Postgres.Claim), identity(req)
	return d.volumes.Restored(ctx, req)
}

// identity tells recoveries of one point to different instants apart.
func identity(req driver.RestoreRequest) string {
	t := req.Target
	switch {
	case t.Latest:
		return req.Point + "@latest"
	case !t.Time.IsZero():
		return req.Point + "@" + t.Time.UTC().Format(time.RFC3339Nano)
	case t.Position != "":
		return req.Point + "@" + t.Position
	}
	return req.Point
}

// Restore implements driver.Datastore. Into the claim of the data directory it puts what a server recovers
// from by itself once it is started; the base backup is chosen, and the log is found to be without a gap,
// before anything is written.
func (d *Driver) Restore(ctx context.Context, req driver.RestoreRequest) (dr.DataOutput, error) {
	if done, err := d.Restored(ctx, req); err != nil || done != nil {
		if err != nil {
			return dr.DataOutput{}, err
		}
		return *done, nil
	}
	files, err := Compose(ctx, d.trees, d.logs, req, d.client.Site)
	if err != nil {
		return dr.DataOutput{}, fmt.Errorf("prepare the recovery of %s: %w", req.Datastore.Name, err)
	}
	into := req
	into.Datastore, into.Data, into.Point = d.claim(req.Datastore, files.Postgres.Claim), files, identity(req)
	into.Last = path.Join(files.Postgres.Directory, versionFile)
	return d.volumes.Restore(ctx, into)
}

// Recovered waits until a server that was brought back has ended its recovery, and returns the beacon that
// it holds.
func (d *Driver) Recovered(ctx context.Context, ds dr.Datastore) (dr.Beacon, error) {
	var beacon dr.Beacon
	what := "PostgreSQL of " + ds.Name + " at site " + d.client.Site + " to recover"
	err := kube.WaitFor(ctx, what, look, func(ctx context.Context) (bool, string, error) {
		s, err := d.locate(ctx, ds)
		if err == nil {
			var info Info
			if info, err = s.Inspect(ctx); err == nil && info.InRecovery {
				return false, "it is in recovery", nil
			}
		}
		if err == nil {
			beacon, err = s.ReadBeacon(ctx)
		}
		if dr.ClassOf(err) == dr.ClassUnreachable {
			return false, err.Error(), nil
		}
		return err == nil, "", err
	})
	return beacon, err
}

// Archive keeps the log of a datastore as it comes, until ctx ends or something fails; then it may be called
// again, with the same archiver.
func (d *Driver) Archive(ctx context.Context, ds dr.Datastore, a *Archiver) error {
	s, err := d.locate(ctx, ds)
	if err != nil {
		return err
	}
	a.Server = &s.Server
	return a.Run(ctx)
}
