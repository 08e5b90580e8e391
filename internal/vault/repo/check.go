package repo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// CheckOptions steer Check.
type CheckOptions struct {
	// ReadData reads every pack too and compares every blob in it with its hash.
	ReadData bool
	// Progress is told now and then what is being done; total is 0 where it is not known.
	Progress func(doing string, done, total int)
}

// Report is what Check found.
type Report struct {
	Snapshots int   `json:"snapshots"`
	Packs     int   `json:"packs"`
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"` // of packs
	Keys      int   `json:"keys"`
	Locks     int   `json:"locks"`
	// Unused counts packs that no index names: a writer is at work, or crashed. They harm nothing.
	Unused int `json:"unused"`
	// Problems name what is damaged or missing; empty when the repository is sound.
	Problems []string `json:"problems"`
}

// Check verifies the repository: that its keys are whole, every snapshot's trees can be read, every blob
// they name is in an index, and every pack that an index names is there with the right size. The error
// says that the check could not be made, not that it found something.
func (r *Repo) Check(ctx context.Context, o CheckOptions) (*Report, error) {
	for tries := 1; ; tries++ {
		c := &checker{repo: r, o: o}
		err := c.all(ctx)
		again := false
		if err == nil && len(c.report.Problems) > 0 && tries < 3 {
			again, err = c.outrun(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
		if !again {
			slices.Sort(c.report.Problems)
			return &c.report, nil
		}
	}
}

// outrun says whether somebody removed from the repository meanwhile, so that what was missed says nothing.
func (c *checker) outrun(ctx context.Context) (bool, error) {
	if c.ledger == nil {
		return false, nil
	}
	ids, err := c.repo.listIDs(ctx, indexDir)
	return slices.ContainsFunc(c.ledger.files, func(f ledgerFile) bool { return !slices.Contains(ids, f.id) }), err
}

// checker is one Check.
type checker struct {
	repo   *Repo
	o      CheckOptions
	ledger *ledger

	mu     sync.Mutex
	report Report
}

// finding notes err as a problem of the repository, if it is one.
func (c *checker) finding(err error) bool {
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) && !errors.Is(err, blob.ErrNotFound) {
		return false
	}
	c.problem("%v", err)
	return true
}

// found keeps of an error what is no finding.
func (c *checker) found(err error) error {
	if err == nil || c.finding(err) {
		return nil
	}
	return err
}

func (c *checker) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
}

func (c *checker) say(doing string, done, total int) {
	if c.o.Progress != nil {
		c.o.Progress(doing, done, total)
	}
}

func (c *checker) all(ctx context.Context) error {
	c.report.Problems = []string{}
	if err := c.small(ctx); err != nil {
		return err
	}
	// Snapshots are listed before the index is read: what they name was stored before them.
	ids, err := c.repo.listIDs(ctx, snapshotDir)
	if err != nil {
		return err
	}
	c.say("reading the index", 0, 0)
	if c.ledger, err = readLedger(ctx, c.repo); err != nil {
		return c.found(err)
	}
	if err := c.trees(ctx, ids); err != nil {
		return err
	}
	return c.packs(ctx)
}

// small checks the config, the keys and the locks.
func (c *checker) small(ctx context.Context) error {
	object, err := c.repo.store.Get(ctx, configName, blob.Range{})
	if err == nil {
		var raw []byte
		if raw, err = c.repo.Unseal(object.Data); err == nil {
			_, err = parseConfig(raw)
		}
	}
	if err != nil {
		if err = c.found(fmt.Errorf("config: %w", err)); err != nil {
			return err
		}
	}
	keys, err := Keys(ctx, c.repo)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Damaged != "" {
			c.problem("%s", k.Damaged)
		}
	}
	c.report.Keys = len(keys)
	err = eachLock(ctx, c.repo, func(string, lockFile) error {
		c.report.Locks++
		return nil
	})
	return c.found(err)
}

// trees reads every tree.
func (c *checker) trees(ctx context.Context, ids []ID) error {
	snapshots := make([]Snapshot, 0, len(ids))
	for i, id := range ids {
		snap, err := c.repo.snapshot(ctx, id)
		if err != nil {
			if c.finding(err) {
				continue
			}
			return err
		}
		snapshots = append(snapshots, snap)
		c.say("reading snapshots", i+1, len(ids))
	}
	c.report.Snapshots = len(ids)
	c.say("reading trees", 0, 0)
	walk := &treeWalk{ledger: c.ledger, sizes: true, bad: c.found}
	return walk.run(ctx, snapshots)
}

// packs compares the index with what is stored.
func (c *checker) packs(ctx context.Context) error {
	there := map[ID]int64{}
	for info, err := range c.repo.store.List(ctx, dataDir) {
		if err != nil {
			return err
		}
		if id, err := ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:]); err == nil {
			there[id] = info.Size
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	done := 0
	order := c.ledger.byPack(func(int) bool { return true })
	for pack, entries := range c.ledger.packsOf(order) {
		id := c.ledger.packs[pack]
		size, ok := there[id]
		delete(there, id)
		if !ok {
			c.problem("%s: missing, with %d blobs", packName(id), len(entries))
			continue
		}
		c.report.Packs++
		c.report.Blobs += len(entries)
		c.report.Bytes += size
		if want := c.leastLength(entries); size < want {
			c.problem("%s: %d bytes, want %d or more", packName(id), size, want)
			continue
		}
		if c.o.ReadData {
			group.Go(func() error {
				err := c.found(c.pack(gctx, id, size, entries))
				c.mu.Lock()
				defer c.mu.Unlock()
				done++
				c.say("reading packs", done, len(c.ledger.packs))
				return err
			})
		}
	}
	c.report.Unused = len(there)
	return group.Wait()
}

// leastLength is the least size of a pack with these blobs; there is more in it when the index does
// not know all that it holds.
func (c *checker) leastLength(entries []uint32) int64 {
	var end int64
	header := int64(overhead + 4)
	for _, i := range entries {
		e := &c.ledger.entries[i]
		end = max(end, int64(e.Offset)+int64(e.Length))
		header += headerEntry
		if e.Plain != 0 {
			header += headerEntryCompressed - headerEntry
		}
	}
	return end + header
}

// pack reads a pack from its first byte to its last, a few blobs at a time.
func (c *checker) pack(ctx context.Context, id ID, size int64, indexed []uint32) error {
	tail, blobs, err := c.header(ctx, id, size)
	if err != nil {
		return err
	}
	at := make(map[handle]place, len(blobs))
	sum := sha256.New()
	for from := 0; from < len(blobs); {
		to, length := from, int64(0)
		for to < len(blobs) && (to == from || length+int64(blobs[to].Length) <= readAhead) {
			length += int64(blobs[to].Length)
			at[handle{blobs[to].Type, blobs[to].ID}] = blobs[to].place
			to++
		}
		data, err := c.read(ctx, id, int64(blobs[from].Offset), length)
		if err != nil {
			return err
		}
		_, _ = sum.Write(data) // before unpacking, which overwrites it; a hash takes everything
		for _, b := range blobs[from:to] {
			begin := b.Offset - blobs[from].Offset
			if _, err := c.repo.unpack(b.Type, b.ID, id, b.place, data[begin:begin+b.Length]); err != nil {
				c.problem("%v", err)
			}
		}
		from = to
	}
	_, _ = sum.Write(tail)
	if ID(sum.Sum(nil)) != id {
		c.problem("%s: its content has another hash", packName(id))
	}
	for _, i := range indexed {
		e := &c.ledger.entries[i]
		if at[handle{e.kind, e.id}] != e.place {
			c.problem("%s: the index has %s blob %s at another place", packName(id), e.kind, e.id.short())
		}
	}
	return nil
}

// header reads what is behind a pack's blobs, and what it says of them.
func (c *checker) header(ctx context.Context, id ID, size int64) (tail []byte, blobs []packedBlob, err error) {
	if size < 4+overhead {
		return nil, nil, fmt.Errorf("%s: %w: %d bytes are too few for a pack", packName(id), ErrDamaged, size)
	}
	last, err := c.read(ctx, id, size-4, 4)
	if err != nil {
		return nil, nil, err
	}
	length := int64(binary.LittleEndian.Uint32(last))
	if length > maxHeader || length > size-4 {
		return nil, nil, fmt.Errorf("%s: %w: header of %d bytes in a pack of %d", packName(id), ErrDamaged, length, size)
	}
	if tail, err = c.read(ctx, id, size-4-length, length+4); err != nil {
		return nil, nil, err
	}
	if blobs, err = parseHeader(c.repo.master, tail[:length], size-4-length); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", packName(id), err)
	}
	return tail, blobs, nil
}

func (c *checker) read(ctx context.Context, id ID, offset, length int64) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	object, err := c.repo.store.Get(ctx, packName(id), blob.Range{Offset: offset, Length: length})
	if errors.Is(err, blob.ErrRange) || err == nil && int64(len(object.Data)) != length {
		return nil, fmt.Errorf("%s: %w: it is cut", packName(id), ErrDamaged)
	}
	return object.Data, err
}
