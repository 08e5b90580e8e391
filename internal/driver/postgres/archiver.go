package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// Defaults of an Archiver.
const (
	DefaultEvery = 5 * time.Second
	DefaultMost  = 8 << 20
	beaconEvery  = time.Second
)

// Archiver keeps one server's write-ahead log in the vault, as it comes. Where it went on from, after a
// crash too, it reads from the vault: nothing else is relied on, and only what is durable there is
// confirmed to the server, which keeps the rest for it in a replication slot.
type Archiver struct {
	Server *Server
	Log    driver.Log
	Slot   string
	Beacon dr.Beacon     // its sequence and time are the server's
	Every  time.Duration // a piece is sealed after that at the latest
	Most   int           // and with about so many bytes
	// Sealed is told of each piece that is durable, and from where on the log has no gap before it; Say of
	// what a person should know. Both may be nil.
	Sealed func(p driver.LogPiece, whole LSN)
	Say    func(format string, args ...any)

	beacons beacons
	last    map[uint32]LSN // up to where the vault has each timeline; nil: not looked for yet
	proven  time.Time      // up to which the vault is known to have what was acknowledged
	whole   LSN            // from there on the log has no gap, up to front
	front   LSN
}

// SlotName is the name of the replication slot for a datastore.
func SlotName(application, datastore string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower("lifeboat_"+application+"_"+datastore))
	return name[:min(len(name), 63)]
}

func (a *Archiver) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(format, args...)
	}
}

// note takes a piece into account that is durable.
func (a *Archiver) note(p driver.LogPiece) {
	a.last[p.Timeline] = max(a.last[p.Timeline], LSN(p.To))
	if LSN(p.From) > a.front {
		a.whole = LSN(p.From)
	}
	a.front = LSN(p.To)
}

// archived tells of a piece that was just sealed.
func (a *Archiver) archived(p driver.LogPiece) {
	a.note(p)
	if !p.Beacon.Time.IsZero() {
		a.proven = p.Beacon.Time
	}
	if a.Sealed != nil {
		a.Sealed(p, a.whole)
	}
}

// Run keeps the log until ctx ends or something fails, which it says; after that it may be called again.
func (a *Archiver) Run(ctx context.Context) error {
	if a.Every == 0 {
		a.Every = DefaultEvery
	}
	if a.Most == 0 {
		a.Most = DefaultMost
	}
	info, err := a.Server.Inspect(ctx)
	if err == nil {
		err = a.Server.lacks(info)
	}
	if err != nil {
		return err
	}
	c, err := a.Server.connect(ctx, true)
	if err != nil {
		return err
	}
	defer closing(ctx, c)
	if err := identify(ctx, c, &info); err != nil {
		return a.Server.failed(err, "cannot keep the log of PostgreSQL, %s", a.Server.Name)
	}
	a.beacons.forget() // the server may be another than before, on another line
	ctx, cancel := context.WithCancel(ctx)
	var beating sync.WaitGroup
	beating.Go(func() { a.beat(ctx) })
	defer beating.Wait()
	defer cancel()
	return a.Server.failed(a.run(ctx, c, info), "the log of PostgreSQL, %s, is no longer kept", a.Server.Name)
}

// run follows the server's timelines, one after the other.
func (a *Archiver) run(ctx context.Context, c *pgconn.PgConn, info Info) error {
	line, err := a.histories(ctx, c, info)
	if err != nil {
		return err
	}
	if err := a.look(ctx, info.System); err != nil {
		return err
	}
	reserved, err := a.slot(ctx, c, info)
	if err != nil {
		return err
	}
	timeline, at, fresh := a.resume(line, reserved, info.SegmentSize)
	if timeline == info.Timeline && at > info.Position {
		return dr.Errorf(dr.ClassConflict, nil, "If it was rewound or restored on purpose, give it a new epoch by a failover or restore through Lifeboat.",
			"the server's log ends at %s, and the vault has it up to %s: the server has lost what it had written", info.Position, at)
	}
	for first := true; ; first = false {
		s := &stream{Archiver: a, conn: c, system: info.System, timeline: timeline, sealed: at}
		next, from, err := s.follow(ctx)
		if first && !fresh && code(err) == codeUndefinedFile {
			// What follows is gone; the slot has what there is.
			a.say("the log of %s has a gap: from %s to %s was removed by the server before it was kept, since %s; points in time within and behind it need a base backup that is made from now on",
				a.Server.Name, at, reserved, since(a.proven))
			timeline, at, fresh = timelineAt(line, reserved), reserved, true
			continue
		}
		if err != nil {
			return err
		}
		if timeline, at = next, from; timeline > info.Timeline {
			info.Timeline = timeline
			if _, err := a.histories(ctx, c, info); err != nil {
				return err
			}
		}
	}
}

func since(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format(time.RFC3339)
}

// histories keeps the history of the server's timeline, and returns the line that leads to it.
func (a *Archiver) histories(ctx context.Context, c *pgconn.PgConn, info Info) ([]stretch, error) {
	if info.Timeline == 1 {
		return parseHistory(1, nil)
	}
	row, err := queryRow(ctx, c, fmt.Sprintf("TIMELINE_HISTORY %d", info.Timeline), 2)
	if err != nil {
		return nil, err
	}
	if err := a.Log.PutHistory(ctx, info.System, info.Timeline, []byte(row[1])); err != nil {
		return nil, err
	}
	return parseHistory(info.Timeline, []byte(row[1]))
}

// look finds out, once, what the vault has of the log.
func (a *Archiver) look(ctx context.Context, system string) error {
	if a.last != nil {
		return nil
	}
	pieces, err := a.Log.Pieces(ctx)
	if err != nil {
		return err
	}
	a.last = map[uint32]LSN{}
	for _, p := range pieces {
		if p.System == system {
			a.note(p)
			a.proven = p.Beacon.Time
		}
	}
	return nil
}

// resume says where to go on; fresh is true when nothing of this line is in the vault.
func (a *Archiver) resume(line []stretch, reserved LSN, segment uint64) (timeline uint32, at LSN, fresh bool) {
	for i := len(line) - 1; i >= 0; i-- {
		last, ok := a.last[line[i].timeline]
		if !ok || last < line[i].from {
			continue
		}
		if line[i].to != 0 && last > line[i].to {
			last = line[i].to // beyond it the timeline went on without the server that is there now
		}
		return line[i].timeline, last, false
	}
	at = LSN(reserved.segment(segment) * segment) // a base backup begins with a segment
	return timelineAt(line, at), at, true
}

// timelineAt is the timeline of the line to which a position belongs.
func timelineAt(line []stretch, at LSN) uint32 {
	for _, s := range line {
		if s.to == 0 || at < s.to {
			return s.timeline
		}
	}
	return line[len(line)-1].timeline
}

// slot makes the slot if it is missing, and returns from where on the server keeps its log for it.
func (a *Archiver) slot(ctx context.Context, c *pgconn.PgConn, info Info) (LSN, error) {
	rows, err := query(ctx, c, "SELECT slot_type, coalesce(restart_lsn::text, ''), coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_name = "+quote(a.Slot))
	if err != nil {
		return 0, err
	}
	if info.KeepSize < 0 {
		a.say("PostgreSQL, %s, keeps without bound what replication slots hold: set max_slot_wal_keep_size (to 10GB, for example), so that its disk never fills while the log cannot be kept", a.Server.Name)
	}
	if len(rows) > 0 && rows[0][0] != "physical" {
		return 0, dr.Errorf(dr.ClassConflict, nil, "Drop or rename it.", "replication slot %s of PostgreSQL, %s, is somebody else's", a.Slot, a.Server.Name)
	}
	if len(rows) > 0 && (rows[0][2] == "lost" || rows[0][1] == "") {
		a.say("replication slot %s of %s was lost: the server needed more room than max_slot_wal_keep_size; it is made anew", a.Slot, a.Server.Name)
		if _, err := query(ctx, c, "DROP_REPLICATION_SLOT "+a.Slot); err != nil {
			return 0, err
		}
		rows = nil
	}
	if len(rows) == 0 {
		if len(a.last) > 0 {
			a.say("replication slot %s of %s is gone, and is made anew", a.Slot, a.Server.Name)
		}
		if _, err := query(ctx, c, "CREATE_REPLICATION_SLOT "+a.Slot+" PHYSICAL RESERVE_WAL"); err != nil {
			return 0, err
		}
		if rows, err = query(ctx, c, "SELECT slot_type, restart_lsn FROM pg_replication_slots WHERE slot_name = "+quote(a.Slot)); err != nil {
			return 0, err
		}
	}
	if len(rows) == 0 {
		return 0, errors.New("the replication slot vanished")
	}
	at, err := ParseLSN(rows[0][1])
	return LSN(at.segment(info.SegmentSize) * info.SegmentSize), err
}

// beat writes a beacon every second until ctx ends. While it cannot, the log is kept all the same, but
// nobody knows up to which time.
func (a *Archiver) beat(ctx context.Context) {
	var c *pgconn.PgConn
	said := ""
	tick := time.NewTicker(beaconEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		var err error
		if c == nil {
			c, err = a.Server.connect(ctx, false)
		}
		if err == nil {
			var p placed
			if p, err = writeBeacon(ctx, c, a.Beacon); err == nil {
				a.beacons.add(p)
				said = ""
			}
		}
		if err != nil && c != nil {
			closing(ctx, c) // whatever state it is in
			c = nil
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			a.say("%v", a.Server.failed(err, "cannot write the beacon of PostgreSQL, %s", a.Server.Name))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	if c != nil {
		closing(ctx, c)
	}
}

// beacons are the newest one that is sealed, and those that were written after it.
type beacons struct {
	mu  sync.Mutex
	all []placed
}

func (b *beacons) add(p placed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, p)
}

// before is the newest beacon whose commit lies before a position; positions only grow.
func (b *beacons) before(at LSN) dr.Beacon {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.all) > 1 && b.all[1].at <= at {
		b.all = b.all[1:]
	}
	if len(b.all) == 0 || b.all[0].at > at {
		return dr.Beacon{}
	}
	return b.all[0].beacon
}

func (b *beacons) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = nil
}
