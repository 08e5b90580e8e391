package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// Files that a recovery writes or takes away.
const (
	settingsFile = "postgresql.auto.conf"
	signalFile   = "recovery.signal"
	standbyFile  = "standby.signal"
	versionFile  = "PG_VERSION"
	beaconPath   = ".lifeboat/beacon.json" // where a mover looks for it
)

// ourSettings are those that a recovery sets, and which an earlier one may have left.
var ourSettings = []string{"restore_command", "recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "allow_in_place_tablespaces", "primary_conninfo", "primary_slot_name", "recovery_end_command", "archive_cleanup_command"}

// compose makes a tree of a base backup that any server of its version recovers from by itself: the log
// that it needs is in it, and the target. The tree's paths are those of the claim.
func compose(ctx context.Context, trees driver.Trees, log driver.Log, r recovery, histories map[uint32][]byte, labels driver.TreeLabels) (_ driver.TreeCopy, beacon dr.Beacon, err error) {
	directory := strings.Trim(path.Clean("/"+r.base.Postgres.Directory), "/")
	tree, err := trees.Begin(ctx, r.base.Snapshot, directory)
	if err != nil {
		return driver.TreeCopy{}, beacon, err
	}
	defer func() {
		if closed := tree.Close(ctx); err == nil {
			err = closed
		}
	}()
	c := &composer{tree: tree, log: log, recovery: r, directory: directory, size: r.base.Postgres.SegmentSize}
	if err := c.owner(ctx); err != nil {
		return driver.TreeCopy{}, beacon, err
	}
	if beacon, err = c.beacon(ctx); err != nil {
		return driver.TreeCopy{}, beacon, err
	}
	for timeline, text := range histories {
		if err := c.put(ctx, path.Join(walDir, historyName(timeline)), text); err != nil {
			return driver.TreeCopy{}, beacon, err
		}
	}
	if err := c.segments(ctx); err != nil {
		return driver.TreeCopy{}, beacon, err
	}
	if err := c.settings(ctx); err != nil {
		return driver.TreeCopy{}, beacon, err
	}
	saved, err := tree.Save(ctx, labels)
	return saved, beacon, err
}

// composer makes one tree.
type composer struct {
	tree driver.Tree
	log  driver.Log
	recovery
	directory string
	size      uint64           // of a segment
	like      driver.TreeEntry // whose owner new files get

	number uint64 // of the segment in hand
	name   string
	data   []byte // nil: none
}

// owner finds out whose the files are.
func (c *composer) owner(ctx context.Context) error {
	entries, err := c.tree.Entries(ctx, c.directory)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path.Base(e.Path) == versionFile {
			c.like = e
			return nil
		}
	}
	return dr.Errorf(dr.ClassIncomplete, nil, "Choose another recovery point.", "the base backup holds no %s", versionFile)
}

// put writes a file of the data directory.
func (c *composer) put(ctx context.Context, name string, data []byte) error {
	e := driver.TreeEntry{Path: path.Join(c.directory, name), Mode: c.like.Mode.Perm() & fs.FileMode(0o640), ModTime: time.Now(), UID: c.like.UID, GID: c.like.GID}
	return c.tree.Put(ctx, e, bytes.NewReader(data))
}

// beacon puts the newest beacon that the database is known to hold where a mover looks for it.
func (c *composer) beacon(ctx context.Context) (dr.Beacon, error) {
	b := c.base.Beacon
	if c.proof != nil {
		p, _, err := c.log.Read(ctx, *c.proof)
		if err != nil {
			return b, err
		}
		if p.Beacon.Sequence > b.Sequence {
			b = p.Beacon
		}
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return b, err
	}
	e := driver.TreeEntry{Path: beaconPath, Mode: 0o600, ModTime: b.Time, UID: c.like.UID, GID: c.like.GID}
	return b, c.tree.Put(ctx, e, bytes.NewReader(raw))
}

// segments puts the log together from its pieces. A segment that two timelines share belongs to the later
// one, as the server has it that changed over.
func (c *composer) segments(ctx context.Context) error {
	for _, p := range c.pieces {
		_, data, err := c.log.Read(ctx, p.LogPiece)
		if err != nil {
			return err
		}
		for at := p.from; at < p.to; {
			if err := c.turn(ctx, p.Timeline, at.segment(c.size)); err != nil {
				return err
			}
			offset := uint64(at) % c.size
			n := copy(c.data[offset:], data[uint64(at)-p.From:uint64(p.to)-p.From])
			at += LSN(n)
		}
	}
	if c.end == 0 {
		return c.flush(ctx)
	}
	// What the base backup brought along from behind the end goes as well.
	offset := uint64(c.end) % c.size
	if offset == 0 {
		return c.flush(ctx)
	}
	timeline := c.base.Postgres.Timeline
	if n := len(c.pieces); n > 0 {
		timeline = c.pieces[n-1].Timeline
	}
	if err := c.turn(ctx, timeline, c.end.segment(c.size)); err != nil {
		return err
	}
	clear(c.data[offset:])
	return c.flush(ctx)
}

// turn takes a segment in hand, with what there is of it already.
func (c *composer) turn(ctx context.Context, timeline uint32, number uint64) error {
	name := segmentName(timeline, number, c.size)
	if c.data != nil && c.number == number {
		c.name = name
		return nil
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	c.number, c.name = number, name
	is, err := c.tree.Read(ctx, path.Join(c.directory, walDir, segmentName(c.base.Postgres.Timeline, number, c.size)))
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return err // not for a log without it: what lies before the first piece would be zeros
	}
	if uint64(len(is)) == c.size {
		c.data = is
		return nil
	}
	c.data = make([]byte, c.size)
	return nil
}

// flush puts the segment in hand into the tree.
func (c *composer) flush(ctx context.Context) error {
	if c.data == nil {
		return nil
	}
	data := c.data
	c.data = nil
	return c.put(ctx, path.Join(walDir, c.name), data)
}

// settings tells the server to recover, and up to where.
func (c *composer) settings(ctx context.Context) error {
	old, err := c.tree.Read(ctx, path.Join(c.directory, settingsFile))
	if err != nil && !errors.Is(err, dr.ErrNotFound) { // a server may be without
		return err
	}
	var out strings.Builder
	for _, l := range strings.Split(strings.TrimRight(string(old), "\n"), "\n") {
		key, _, _ := strings.Cut(strings.TrimSpace(l), "=")
		if !slices.Contains(ourSettings, strings.TrimSpace(strings.ToLower(key))) {
			out.WriteString(l + "\n")
		}
	}
	// The log lies in its place, so that nothing has to be fetched; but the server insists on a command.
	set := [][2]string{{"restore_command", "exit 1"}, {"recovery_target_timeline", fmt.Sprint(c.line[len(c.line)-1].timeline)}, {"recovery_target_action", "promote"}}
	if !c.time.IsZero() {
		set = append(set, [2]string{"recovery_target_time", c.time.UTC().Format("2006-01-02 15:04:05.999999+00")}, [2]string{"recovery_target_inclusive", "true"})
	}
	if c.base.Postgres.Tablespaces > 0 {
		set = append(set, [2]string{"allow_in_place_tablespaces", "on"})
	}
	for _, s := range set {
		fmt.Fprintf(&out, "%s = '%s'\n", s[0], s[1])
	}
	if err := c.put(ctx, settingsFile, []byte(out.String())); err != nil {
		return err
	}
	if err := c.tree.Remove(ctx, path.Join(c.directory, standbyFile)); err != nil {
		return err
	}
	return c.put(ctx, signalFile, nil)
}
