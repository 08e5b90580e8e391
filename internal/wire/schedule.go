package wire

import (
	"context"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
)

// next says when an application's data is to be backed up, last having been the last time; zero: never by
// itself. Times that have passed meanwhile are made up for once.
func next(s dr.Schedule, last time.Time) (time.Time, error) {
	switch {
	case s.Every > 0:
		return last.Add(s.Every), nil
	case s.Cron != "":
		c, err := cron.ParseStandard(s.Cron)
		if err != nil {
			return time.Time{}, fmt.Errorf("schedule %q: %w", s.Cron, err)
		}
		return c.Next(last.UTC()), nil
	}
	return time.Time{}, nil
}

// lastBackup is when the data of the application was last backed up under the epoch of its owner; zero: never.
func (p *protector) lastBackup(ctx context.Context) (time.Time, error) {
	own, err := p.owner(ctx)
	if err != nil {
		return time.Time{}, err
	}
	points, err := p.vault.Points(ctx, p.app.Name)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the recovery points of %s: %w", p.app.Name, err)
	}
	var last time.Time
	for _, x := range points {
		if x.Epoch != own.Epoch {
			continue
		}
		for _, d := range x.Data {
			if at := copied(d); at.After(last) {
				last = at
			}
		}
	}
	return last, nil
}

// copied is when a copy was made. What a log added to it since does not count.
func copied(d dr.DataPoint) time.Time {
	if d.Postgres != nil {
		return d.Postgres.Ended
	}
	return d.Beacon.Time
}

// backups backs the data up by its schedule until ctx ends.
func (p *protector) backups(ctx context.Context) {
	if p.app.Backup == (dr.Schedule{}) || len(p.app.Data) == 0 {
		return
	}
	var notBefore time.Time // after a failure
	for ctx.Err() == nil {
		wait := retryAfter
		if last, err := p.lastBackup(ctx); err == nil {
			at, err := next(p.app.Backup, last)
			if err != nil || at.IsZero() {
				return // config checks schedules
			}
			if at.Before(notBefore) {
				at = notBefore
			}
			wait = time.Until(at)
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(wait, time.Minute)): // the clock may be set, and somebody else back up
			}
			continue
		}
		if err := p.backup(ctx); err != nil && ctx.Err() == nil {
			p.tell(ProtectEvent{Type: EventBackup, Text: fmt.Sprintf("the backup of the data failed and is tried again in %s: %v", backupRetry, err)})
			notBefore = time.Now().Add(backupRetry)
		}
	}
}

// makeUp backs the data up when that is overdue.
func (p *protector) makeUp(ctx context.Context) error {
	if p.app.Backup == (dr.Schedule{}) || len(p.app.Data) == 0 {
		return nil
	}
	last, err := p.lastBackup(ctx)
	if err != nil {
		return err
	}
	at, err := next(p.app.Backup, last)
	if err != nil || at.After(time.Now()) {
		return err
	}
	return p.backup(ctx)
}

// backup takes a whole recovery point by a run of its own.
func (p *protector) backup(ctx context.Context) error {
	p.tell(ProtectEvent{Type: EventBackup, Text: "backing up the data of " + p.app.Name})
	plan, err := p.Plan(ctx, plan.Request{Goal: dr.GoalBackup})
	if err != nil {
		return err
	}
	res, err := p.Execute(ctx, plan)
	if err != nil {
		return err
	}
	if res.Point == nil {
		return dr.Errorf(dr.ClassIncomplete, nil, "Look at it with: lifeboat report "+res.Run.ID, "run %s sealed no recovery point", res.Run.ID)
	}
	p.mu.Lock()
	p.data = res.Point.Data
	p.mu.Unlock()
	p.tell(ProtectEvent{Type: EventBackup, Text: "backed up the data of " + p.app.Name, Point: res.Point})
	return nil
}
