package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// DefaultGrace is how long a snapshot that no recovery point names is left alone: the backup that made
// it may be under way, and seals its point last.
const DefaultGrace = 24 * time.Hour

// busyFor is how long a run that has not ended is waited for; one that old is not resumed any more.
const busyFor = 7 * 24 * time.Hour

// PruneOptions steer Prune.
type PruneOptions struct {
	// Retention is the policy of each application; one that is not in it keeps everything.
	Retention map[string]dr.Retention
	Grace     time.Duration // 0: DefaultGrace
	Now       time.Time
	MaxUnused float64       // share of what is used that may be wasted, so that less has to be rewritten
	Patience  time.Duration // to wait for others who use the repository
	Say       Say
}

// Say is told what is being done or waited for.
type Say func(format string, args ...any)

// progress says what is being done when that changes, and every few seconds how far it is.
func (s Say) progress() func(doing string, done, total int) {
	var last string
	var at time.Time
	return func(doing string, done, total int) {
		if s == nil || doing == last && time.Since(at) < 5*time.Second {
			return
		}
		last, at = doing, time.Now()
		if total > 0 {
			s("%s: %d of %d", doing, done, total)
		} else {
			s("%s", doing)
		}
	}
}

func (o *PruneOptions) prune() repo.PruneOptions {
	return repo.PruneOptions{MaxUnused: o.MaxUnused, Progress: o.Say.progress()}
}

// lockOptions waits for others, by their names.
func lockOptions(patience time.Duration, say Say) repo.LockOptions {
	return repo.LockOptions{Patience: patience, Waiting: func(l *repo.LockedError) {
		if say != nil {
			say("waiting up to %v: %v", patience, l)
		}
	}}
}

// PointFate is a recovery point and what becomes of it.
type PointFate struct {
	Point dr.RecoveryPoint `json:"point"`
	Keep  bool             `json:"keep"`
	Why   []string         `json:"why"` // it stays; empty when it goes
}

// Leftover is a snapshot of a backup of which no recovery point was sealed.
type Leftover struct {
	Snapshot    repo.ID   `json:"snapshot"`
	Application string    `json:"application"`
	Point       string    `json:"point"`
	Time        time.Time `json:"time"`
	Keep        bool      `json:"keep"`
	Why         string    `json:"why"`
}

// PruneReport says what goes and what stays, and why.
type PruneReport struct {
	Points     []PointFate       `json:"points"`
	Leftovers  []Leftover        `json:"leftovers,omitempty"`
	LogParts   int               `json:"logParts,omitempty"` // of logs, that no recovery point needs any more
	Repository *repo.PruneReport `json:"repository"`
	Done       bool              `json:"done"`     // false: only planned
	Retained   int               `json:"retained"` // records and snapshots that the store keeps until they may go
}

// SealPoint adds a recovery point, once it is certain that the snapshots it names are there and stay
// there: while it looks and writes, nobody may remove. Errors: dr.ErrExists; of class incomplete, when a
// snapshot has been removed since it was made.
func SealPoint(ctx context.Context, v *Vault, p dr.RecoveryPoint) (err error) {
	hold, err := repo.Hold(ctx, v.repo)
	if err != nil {
		return failed(err, "cannot seal recovery point %s", p.ID)
	}
	defer func() { err = errors.Join(err, hold.Close(ctx)) }()
	ids, err := repo.SnapshotIDs(ctx, v.repo)
	if err != nil {
		return failed(err, "cannot seal recovery point %s", p.ID)
	}
	for _, want := range snapshotsOf(&p) {
		if !slices.ContainsFunc(ids, func(id repo.ID) bool { return id.String() == want }) {
			return dr.Errorf(dr.ClassIncomplete, fmt.Errorf("snapshot %.8s: %w", want, repo.ErrNotFound), "Back up again.",
				"recovery point %s is not sealed: a part of it was removed as the leftover of a backup that did not end", p.ID)
		}
	}
	if err := v.PutPoint(ctx, p); err != nil {
		return err
	}
	if err := hold.Verify(ctx); err != nil {
		// Somebody may have removed what the point names: it must not be believed.
		name, _ := object(appsDir, p.Application, "points", p.ID) // PutPoint took it
		return errors.Join(failed(err, "cannot seal recovery point %s", p.ID), v.store.Delete(ctx, name))
	}
	return nil
}

func snapshotsOf(p *dr.RecoveryPoint) []string {
	var ids []string
	if p.Checkpoint != "" {
		ids = append(ids, p.Checkpoint)
	}
	for _, d := range p.Data {
		ids = append(ids, d.Snapshot)
	}
	return ids
}

// Applications returns the applications that have records in the vault.
func Applications(ctx context.Context, v *Vault) ([]string, error) {
	var apps []string
	prefix := controlPrefix + appsDir + "/"
	for info, err := range v.store.List(ctx, prefix) {
		if err != nil {
			return nil, failed(err, "cannot list the applications in the vault at %s", v.Location())
		}
		app, _, _ := strings.Cut(strings.TrimPrefix(info.Name, prefix), "/")
		if len(apps) == 0 || apps[len(apps)-1] != app {
			apps = append(apps, app)
		}
	}
	slices.Sort(apps)
	return slices.Compact(apps), nil
}

// PlanPrune says what Prune would do, and changes nothing.
func PlanPrune(ctx context.Context, v *Vault, o PruneOptions) (*PruneReport, error) {
	report, going, err := survey(ctx, v, o)
	if err != nil {
		return nil, err
	}
	ended, err := endedLogs(ctx, v, report.Points)
	if err != nil {
		return nil, err
	}
	report.LogParts = len(ended)
	if report.Repository, err = repo.PlanPrune(ctx, v.repo, o.prune(), going); err != nil {
		return nil, failed(err, "cannot plan the pruning of the vault at %s", v.Location())
	}
	return report, nil
}

// Prune removes the recovery points that the policies do not keep, what unfinished backups left, and the
// data that nothing needs any more. A point's record goes before its snapshots: a point that can be seen
// can be restored. Error: of class conflict, when somebody else uses the repository.
func Prune(ctx context.Context, v *Vault, o PruneOptions) (_ *PruneReport, err error) {
	m, err := repo.Maintain(ctx, v.repo, lockOptions(o.Patience, o.Say))
	if err != nil {
		return nil, failed(err, "cannot prune the vault at %s", v.Location())
	}
	defer func() {
		if closed := m.Close(ctx); closed != nil {
			err = errors.Join(err, failed(closed, "cannot end the pruning of the vault at %s", v.Location()))
		}
		// Replicas follow what is written here, also when the prune was broken off.
		noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, v.RecordRemovals(noted))
	}()
	report, going, err := survey(ctx, v, o)
	if err != nil {
		return nil, err
	}
	kept, err := removeRecords(ctx, v, report)
	if err != nil {
		return nil, err
	}
	ended, err := endedLogs(ctx, v, report.Points)
	if err != nil {
		return nil, err
	}
	report.LogParts = len(ended)
	held, err := removeLogs(ctx, v, ended)
	report.Retained += held
	if err != nil {
		return nil, err
	}
	// Where the store keeps a record, what it names stays as well.
	going = slices.DeleteFunc(going, func(id repo.ID) bool { return kept[id.String()] })
	retained, err := m.RemoveSnapshots(ctx, going)
	report.Retained += retained
	if err == nil {
		report.Repository, err = m.Prune(ctx, o.prune())
	}
	if err != nil {
		return nil, failed(err, "cannot prune the vault at %s", v.Location())
	}
	report.Done = true
	return report, nil
}

// removeRecords removes the records of the points that go, and returns the snapshots of those that the
// store keeps.
func removeRecords(ctx context.Context, v *Vault, report *PruneReport) (kept map[string]bool, err error) {
	kept = map[string]bool{}
	for i := range report.Points {
		f := &report.Points[i]
		if f.Keep {
			continue
		}
		name, err := object(appsDir, f.Point.Application, "points", f.Point.ID)
		if err == nil {
			err = v.store.Delete(ctx, name)
		}
		if errors.Is(err, blob.ErrRetained) {
			f.Keep, f.Why = true, []string{"the store keeps its record until it may go"}
			report.Retained++
			for _, id := range snapshotsOf(&f.Point) {
				kept[id] = true
			}
			continue
		}
		if err != nil {
			return nil, failed(err, "cannot remove recovery point %s", f.Point.ID)
		}
	}
	return kept, nil
}

// survey decides about every recovery point and every snapshot of ours. An application that is not in
// the policies keeps all; what cannot be read ends it.
func survey(ctx context.Context, v *Vault, o PruneOptions) (*PruneReport, []repo.ID, error) {
	// The snapshots come first: a point that is sealed meanwhile names later ones, or is seen.
	snapshots, err := v.repo.Snapshots(ctx)
	if err != nil {
		return nil, nil, failed(err, "cannot list the snapshots of the vault at %s", v.Location())
	}
	apps, err := Applications(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	report := &PruneReport{Points: []PointFate{}}
	needed, going, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, app := range apps {
		points, err := v.Points(ctx, app)
		if err != nil {
			return nil, nil, err
		}
		busy, err := busy(ctx, v, app, o.Now)
		if err != nil {
			return nil, nil, err
		}
		var policy *dr.Retention
		if r, ok := o.Retention[app]; ok {
			policy = &r
		}
		why := retain(points, policy, busy, o.Now)
		for _, p := range points {
			known[app] = true
			f := PointFate{Point: p, Why: why[p.ID], Keep: len(why[p.ID]) > 0}
			report.Points = append(report.Points, f)
			for _, id := range snapshotsOf(&p) {
				if f.Keep {
					needed[id] = true
				} else {
					going[id] = true
				}
			}
		}
	}
	grace := o.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	var ids []repo.ID
	for _, s := range snapshots {
		id := s.ID.String()
		switch l, ours := leftover(s); {
		case needed[id]:
		case going[id]:
			ids = append(ids, s.ID)
		case ours:
			l.Keep, l.Why = l.fate(known[l.Application], o.Now.Sub(s.Time), grace)
			report.Leftovers = append(report.Leftovers, l)
			if !l.Keep {
				ids = append(ids, s.ID)
			}
		}
	}
	return report, ids, nil
}

// leftover reads our tags; a snapshot without them is somebody else's, and none of our business.
func leftover(s repo.Snapshot) (l Leftover, ours bool) {
	tag := func(name string) string {
		for _, t := range s.Tags {
			if value, ok := strings.CutPrefix(t, name+"="); ok {
				return value
			}
		}
		return ""
	}
	l = Leftover{Snapshot: s.ID, Application: tag("application"), Point: tag("point"), Time: s.Time}
	return l, l.Application != "" && l.Point != "" && tag("part") != ""
}

// fate decides about a snapshot without a recovery point.
func (l *Leftover) fate(known bool, age, grace time.Duration) (keep bool, why string) {
	switch {
	case !known:
		// An empty list of records is no reason to remove all that they named.
		return true, "no recovery point of the application is there at all: this may be all that is left of it"
	case age < grace:
		return true, fmt.Sprintf("younger than %v: its backup may be under way", grace)
	}
	return false, fmt.Sprintf("no recovery point names it, and it is older than %v", grace)
}

// busy returns the points that a run which has not ended would take up again, with the reason.
func busy(ctx context.Context, v *Vault, app string, now time.Time) (map[string]string, error) {
	runs, err := v.Runs(ctx, app)
	if err != nil {
		return nil, err
	}
	oldest := NewID(now.Add(-busyFor), "")[:15]
	runs = slices.DeleteFunc(runs, func(run string) bool { return run < oldest })
	points := make([]string, len(runs))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, run := range runs {
		group.Go(func() error {
			var first dr.Entry
			dir := controlPrefix + runsDir + "/" + run
			if _, err := v.get(gctx, dir+"/"+sequence(1), &first); err != nil {
				return err
			}
			if first.Plan == nil || first.Plan.RecoveryPoint == "" {
				return nil
			}
			entries, err := v.Entries(gctx, run)
			if err == nil && entries[len(entries)-1].Type != dr.EntryRunEnded {
				points[i] = first.Plan.RecoveryPoint
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	busy := map[string]string{}
	for i, point := range points {
		if point != "" {
			busy[point] = "run " + runs[i] + " has not ended and needs it"
		}
	}
	return busy, nil
}
