package postgres

import (
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// recovery says of what a database is brought back, and up to where.
type recovery struct {
	base   dr.DataPoint
	line   []stretch // of history, to its last timeline
	pieces []segmentPart
	end    LSN       // what lies behind is left out; 0: nothing is
	time   time.Time // up to which transactions are replayed; zero: all
	proof  *driver.LogPiece
}

// segmentPart is what is used of a piece of log.
type segmentPart struct {
	driver.LogPiece
	from, to LSN
}

// kept is what the vault has of a database.
type kept struct {
	pieces    []driver.LogPiece
	histories map[uint32][]byte
}

// choose decides on a base backup, and makes sure that the log from there to the target is there without
// a gap. It is pure.
func choose(req driver.RestoreRequest, have kept) (recovery, error) {
	asked := req.Data.Postgres
	if asked == nil {
		return recovery{}, dr.Errorf(dr.ClassIncomplete, nil, "Choose another recovery point.", "the copy of %s is no base backup of PostgreSQL", req.Datastore.Name)
	}
	target := req.Target
	if target.Zero() {
		if asked.Until == "" {
			return recovery{base: req.Data, line: []stretch{{timeline: asked.Timeline}}}, nil
		}
		target.Position = asked.Until
	}
	r := recovery{base: req.Data, time: target.Time}
	if target.Position != "" {
		var err error
		if r.end, err = ParseLSN(target.Position); err != nil {
			return r, dr.Errorf(dr.ClassUsage, err, "", "cannot bring %s back", req.Datastore.Name)
		}
	}
	if err := r.chooseBase(req); err != nil {
		return r, err
	}
	timeline := asked.UntilTimeline
	if !req.Target.Zero() || timeline == 0 {
		timeline = r.newestTimeline(have)
	}
	// A base backup brings the histories of its own timeline along.
	r.line = []stretch{{timeline: timeline}}
	var err error
	if timeline != r.base.Postgres.Timeline {
		r.line, err = lineTo(timeline, have.histories)
	}
	if err != nil {
		return r, dr.Errorf(dr.ClassIncomplete, err, "Choose another recovery point.", "cannot bring %s back", req.Datastore.Name)
	}
	return r, r.gather(req.Datastore.Name, have.pieces)
}

// chooseBase takes the newest base backup that was consistent at the target.
func (r *recovery) chooseBase(req driver.RestoreRequest) error {
	fits := func(d dr.DataPoint) bool {
		p := d.Postgres
		if p == nil || p.System != req.Data.Postgres.System || d.Beacon.Epoch != req.Data.Beacon.Epoch {
			return false
		}
		stop, err := ParseLSN(p.Stop)
		return err == nil && (r.end == 0 || stop <= r.end) && (r.time.IsZero() || !p.Ended.After(r.time))
	}
	found := false
	for _, d := range append([]dr.DataPoint{req.Data}, req.Copies...) {
		if fits(d) && (!found || d.Postgres.Ended.After(r.base.Postgres.Ended)) {
			r.base, found = d, true
		}
	}
	if found {
		return nil
	}
	return dr.Errorf(dr.ClassBlocked, nil, "Ask for a later instant.", "no base backup of %s was complete by %s; that of the recovery point was by %s, at %s of the log",
		req.Datastore.Name, r.asked(), req.Data.Postgres.Ended.Format(time.RFC3339Nano), req.Data.Postgres.Stop)
}

// asked is the target, for people.
func (r *recovery) asked() string {
	switch {
	case !r.time.IsZero():
		return r.time.UTC().Format(time.RFC3339Nano)
	case r.end != 0:
		return r.end.String()
	}
	return "the end of the log"
}

// newestTimeline is the last that descends from the base backup.
func (r *recovery) newestTimeline(have kept) uint32 {
	base := r.base.Postgres
	stop, _ := ParseLSN(base.Stop) // chooseBase read it
	newest := base.Timeline
	for _, p := range have.pieces {
		if p.System != base.System || p.Timeline <= newest {
			continue
		}
		if line, err := lineTo(p.Timeline, have.histories); err == nil && on(line, base.Timeline, stop) {
			newest = p.Timeline
		}
	}
	return newest
}

// gather takes the pieces from the base backup to the target.
func (r *recovery) gather(name string, pieces []driver.LogPiece) error {
	base := r.base.Postgres
	at, err := covered(base)
	if err != nil {
		return err
	}
	var last driver.LogPiece
	for _, s := range r.line {
		if s.to != 0 && s.to <= at {
			continue
		}
		of := slices.DeleteFunc(slices.Clone(pieces), func(p driver.LogPiece) bool {
			return p.System != base.System || p.Timeline != s.timeline || s.to != 0 && LSN(p.From) >= s.to
		})
		slices.SortStableFunc(of, func(a, b driver.LogPiece) int { return int(int64(a.From) - int64(b.From)) })
		for _, p := range of {
			if r.reached(at, last) {
				return nil
			}
			if LSN(p.From) > at {
				return r.gap(name, at, p, last)
			}
			to := LSN(p.To)
			if s.to != 0 {
				to = min(to, s.to)
			}
			if r.end != 0 {
				to = min(to, r.end)
			}
			if !p.Beacon.Time.IsZero() && to == LSN(p.To) {
				last = p
				r.prove(p)
			}
			if to > at {
				r.pieces = append(r.pieces, segmentPart{LogPiece: p, from: at, to: to})
				at = to
			}
		}
		if s.to != 0 && at < s.to && !r.reached(at, last) {
			return r.gap(name, at, driver.LogPiece{From: uint64(s.to)}, last)
		}
	}
	if r.reached(at, last) || r.end == 0 && r.time.IsZero() {
		return nil
	}
	return dr.Errorf(dr.ClassBlocked, nil, "Ask for an earlier instant, or for the latest.", "%s cannot be brought back to %s: its log is kept up to %s, which is %s", name, r.asked(), at, since(last.Beacon.Time))
}

// prove notes the newest beacon that the recovered database is known to hold.
func (r *recovery) prove(p driver.LogPiece) {
	if r.time.IsZero() || !p.Beacon.Time.After(r.time) {
		r.proof = &p
	}
}

// reached says whether what was gathered is enough. For an instant it is when a commit that came later is
// among it: the server stops before that, and would otherwise not know that it was there yet.
func (r *recovery) reached(at LSN, last driver.LogPiece) bool {
	switch {
	case r.end != 0:
		return at >= r.end
	case !r.time.IsZero():
		return last.Beacon.Time.After(r.time)
	}
	return false
}

func (r *recovery) gap(name string, at LSN, next, last driver.LogPiece) error {
	before := last.Beacon.Time
	if before.IsZero() {
		before = r.base.Postgres.Ended
	}
	what := fmt.Sprintf("from %s to %s, written between %s and %s", at, LSN(next.From), since(before), since(next.Beacon.Time))
	remedy := "Ask for an instant before " + since(before) + ", or for one after a later base backup."
	return dr.Errorf(dr.ClassIncomplete, nil, remedy, "%s cannot be brought back to %s: its log lacks what lies %s", name, r.asked(), what)
}
