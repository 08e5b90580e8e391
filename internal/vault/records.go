package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Directories of control/.
const (
	appsDir     = "apps" // apps/APP/{ownership,points/ID,runs/RUN}
	runsDir     = "runs" // runs/RUN/NNNNNN
	evidenceDir = "evidence"
	fleetDir    = "fleet" // fleet/NNNNNN, the newest counts
)

// Latest stands for the newest complete recovery point.
const Latest = "latest"

// readers is how many records are read at the same time.
const readers = 8

// Token is the state of an ownership record at the time it was read; "" stands for "no record yet".
type Token string

// Ownership returns who owns an application. Error: dr.ErrNotFound when nobody ever did.
func (v *Vault) Ownership(ctx context.Context, app string) (dr.Ownership, Token, error) {
	name, err := object(appsDir, app, "ownership")
	if err != nil {
		return dr.Ownership{}, "", failed(err, "cannot read the ownership of %s", app)
	}
	var o dr.Ownership
	version, err := v.get(ctx, name, &o)
	if err != nil {
		return dr.Ownership{}, "", err
	}
	return o, Token(version), nil
}

// PutOwnership writes an ownership record, provided that it is as it was when the token was read. The
// epoch never falls. Error: dr.ErrStale when somebody wrote meanwhile.
func (v *Vault) PutOwnership(ctx context.Context, o dr.Ownership, token Token) (Token, error) {
	name, err := object(appsDir, o.Application, "ownership")
	if err != nil {
		return "", failed(err, "cannot write the ownership of %s", o.Application)
	}
	cond := blob.IfAbsent()
	if token != "" {
		cond = blob.IfVersion(blob.Version(token))
		is, now, err := v.Ownership(ctx, o.Application)
		if err == nil && now == token && o.Epoch < is.Epoch {
			return "", fmt.Errorf("%s: epoch %d is less than %d", name, o.Epoch, is.Epoch)
		}
	}
	version, err := v.put(ctx, name, o, cond)
	if errors.Is(err, dr.ErrExists) {
		err = fmt.Errorf("%s: %w", name, dr.ErrStale)
	}
	return Token(version), err
}

// AppendEntry adds an entry to a run's journal. Error: dr.ErrExists when the run has an entry of that
// sequence: somebody else works on it.
func (v *Vault) AppendEntry(ctx context.Context, e dr.Entry) error {
	if e.Sequence < 1 || e.Sequence > maxSequence {
		return fmt.Errorf("journal of run %s: sequence %d is out of bounds", e.Run, e.Sequence)
	}
	name, err := object(runsDir, e.Run, sequence(e.Sequence))
	if err != nil {
		return failed(err, "cannot write to the journal of run %s", e.Run)
	}
	if e.Plan != nil {
		// First the application's list names the run: one that it did not name could not be resumed.
		if err := v.listRun(ctx, e.Plan.Application, e.Run); err != nil {
			return err
		}
	}
	_, err = v.put(ctx, name, e, blob.IfAbsent())
	return err
}

func (v *Vault) listRun(ctx context.Context, app, run string) error {
	name, err := object(appsDir, app, "runs", run)
	if err != nil {
		return failed(err, "cannot write to the journal of run %s", run)
	}
	if _, err := v.put(ctx, name, run, blob.IfAbsent()); err != nil && !errors.Is(err, dr.ErrExists) {
		return err
	}
	return nil
}

const maxSequence = 999_999

func sequence(n int) string { return fmt.Sprintf("%06d", n) }

// Entries returns a run's journal in order. Errors: dr.ErrNotFound when there is none; one that names
// the gap when an entry is missing.
func (v *Vault) Entries(ctx context.Context, run string) ([]dr.Entry, error) {
	dir, err := object(runsDir, run)
	if err != nil {
		return nil, failed(err, "cannot read the journal of run %s", run)
	}
	names, err := v.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("journal of run %s: %w", run, dr.ErrNotFound)
	}
	for i, name := range names {
		if name != sequence(i+1) {
			return nil, failed(fmt.Errorf("%w: %s/%s is missing", repo.ErrDamaged, dir, sequence(i+1)),
				"cannot read the journal of run %s", run)
		}
	}
	return readAll[dr.Entry](ctx, v, dir, names)
}

// Runs returns the ids of an application's runs, newest first. Runs that ended before their first
// entry was written are not among them.
func (v *Vault) Runs(ctx context.Context, app string) ([]string, error) {
	dir, err := object(appsDir, app, "runs")
	if err != nil {
		return nil, failed(err, "cannot list the runs of %s", app)
	}
	names, err := v.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	began := make([]bool, len(names))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, run := range names {
		group.Go(func() error {
			_, err := v.store.Stat(gctx, controlPrefix+runsDir+"/"+run+"/"+sequence(1))
			if began[i] = err == nil; err == nil || errors.Is(err, blob.ErrNotFound) {
				return nil
			}
			return failed(err, "cannot list the runs of %s", app)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	runs := []string{}
	for i := len(names) - 1; i >= 0; i-- {
		if began[i] {
			runs = append(runs, names[i])
		}
	}
	return runs, nil
}

// readAll reads the records of a directory, in the order of names.
func readAll[T any](ctx context.Context, v *Vault, dir string, names []string) ([]T, error) {
	all := make([]T, len(names))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, name := range names {
		group.Go(func() error {
			_, err := v.get(gctx, dir+"/"+name, &all[i])
			return err
		})
	}
	return all, group.Wait()
}

// PutPoint adds a recovery point. Error: dr.ErrExists.
func (v *Vault) PutPoint(ctx context.Context, p dr.RecoveryPoint) error {
	name, err := object(appsDir, p.Application, "points", p.ID)
	if err != nil {
		return failed(err, "cannot write recovery point %s", p.ID)
	}
	_, err = v.put(ctx, name, p, blob.IfAbsent())
	return err
}

// Points returns an application's recovery points, oldest first.
func (v *Vault) Points(ctx context.Context, app string) ([]dr.RecoveryPoint, error) {
	dir, err := object(appsDir, app, "points")
	if err != nil {
		return nil, failed(err, "cannot list the recovery points of %s", app)
	}
	names, err := v.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	points, err := readAll[dr.RecoveryPoint](ctx, v, dir, names)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(points, func(a, b dr.RecoveryPoint) int { return a.Time.Compare(b.Time) })
	return points, nil
}

// Point returns one recovery point by its id, or the newest complete one for Latest.
// Error: dr.ErrNotFound.
func (v *Vault) Point(ctx context.Context, app, id string) (dr.RecoveryPoint, error) {
	if id != Latest {
		name, err := object(appsDir, app, "points", id)
		if err != nil {
			return dr.RecoveryPoint{}, failed(err, "cannot read recovery point %s", id)
		}
		var p dr.RecoveryPoint
		_, err = v.get(ctx, name, &p)
		return p, err
	}
	points, err := v.Points(ctx, app)
	if err != nil {
		return dr.RecoveryPoint{}, err
	}
	for _, p := range slices.Backward(points) {
		if p.Complete() {
			return p, nil
		}
	}
	return dr.RecoveryPoint{}, fmt.Errorf("complete recovery point of %s: %w", app, dr.ErrNotFound)
}

// PutEvidence adds the evidence of a run. The same bytes may be put again; others are dr.ErrExists.
func (v *Vault) PutEvidence(ctx context.Context, run string, evidence []byte) error {
	name, err := object(evidenceDir, run)
	if err != nil {
		return failed(err, "cannot write the evidence of run %s", run)
	}
	_, err = v.put(ctx, name, evidence, blob.IfAbsent())
	if errors.Is(err, dr.ErrExists) {
		if is, readErr := v.Evidence(ctx, run); readErr == nil && slices.Equal(is, evidence) {
			return nil
		}
	}
	return err
}

// Evidence returns the evidence of a run. Error: dr.ErrNotFound.
func (v *Vault) Evidence(ctx context.Context, run string) ([]byte, error) {
	name, err := object(evidenceDir, run)
	if err != nil {
		return nil, failed(err, "cannot read the evidence of run %s", run)
	}
	var evidence []byte
	_, err = v.get(ctx, name, &evidence)
	return evidence, err
}

// PutFleet adds a version of the fleet's definition, unless the newest one is the same.
func (v *Vault) PutFleet(ctx context.Context, fleet []byte) error {
	for {
		is, last, err := v.fleet(ctx)
		if err != nil && !errors.Is(err, dr.ErrNotFound) {
			return err
		}
		if err == nil && slices.Equal(is, fleet) {
			return nil
		}
		name, err := object(fleetDir, sequence(last+1))
		if err != nil {
			return err
		}
		// Somebody who took this number meanwhile has written an older version than ours.
		if _, err = v.put(ctx, name, fleet, blob.IfAbsent()); !errors.Is(err, dr.ErrExists) {
			return err
		}
	}
}

// Fleet returns the newest version of the fleet's definition. Error: dr.ErrNotFound.
func (v *Vault) Fleet(ctx context.Context) ([]byte, error) {
	fleet, _, err := v.fleet(ctx)
	return fleet, err
}

func (v *Vault) fleet(ctx context.Context) (fleet []byte, number int, err error) {
	dir := controlPrefix + fleetDir
	names, err := v.list(ctx, dir)
	if err != nil {
		return nil, 0, err
	}
	if len(names) == 0 {
		return nil, 0, fmt.Errorf("%s: %w", dir, dr.ErrNotFound)
	}
	last := names[len(names)-1]
	if number, err = strconv.Atoi(strings.TrimLeft(last, "0")); err != nil {
		return nil, 0, fmt.Errorf("%s/%s: not a number: %w", dir, last, err)
	}
	_, err = v.get(ctx, dir+"/"+last, &fleet)
	return fleet, number, err
}
