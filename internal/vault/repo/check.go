package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// Report is what Check found.
type Report struct {
	Snapshots int
	Packs     int
	Blobs     int
	Bytes     int64 // of packs
	// Unused counts packs that no index names: a writer is at work, or crashed. They harm nothing.
	Unused int
	// Problems name what is damaged or missing; empty when the repository is sound.
	Problems []string
}

// Check verifies the repository: that every snapshot's trees can be read, every blob they name is in
// an index, and every pack that an index names is there with the right size. With readData, every
// pack is read too and every blob in it compared with its hash. The error says that the check could
// not be made, not that it found something.
func (r *Repo) Check(ctx context.Context, readData bool) (*Report, error) {
	c := &checker{repo: r, trees: map[ID]struct{}{}}
	// Snapshots are listed before the index is read: what they name was stored before them.
	snapshots, err := r.listIDs(ctx, snapshotDir)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	r.catalog.forget()
	if err := r.catalog.refresh(ctx); err != nil {
		if !c.finding(err) {
			return nil, fmt.Errorf("check: %w", err)
		}
		return c.done(), nil
	}
	if err := c.packs(ctx, readData); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	for _, id := range snapshots {
		if err := c.snapshot(ctx, id); err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
	}
	return c.done(), nil
}

// checker is one Check.
type checker struct {
	repo  *Repo
	trees map[ID]struct{} // seen already

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

func (c *checker) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
}

func (c *checker) done() *Report {
	slices.Sort(c.report.Problems)
	return &c.report
}

// packs compares the index with what is stored.
func (c *checker) packs(ctx context.Context, readData bool) error {
	sizes := map[ID]int64{}
	for info, err := range c.repo.store.List(ctx, dataDir) {
		if err != nil {
			return err
		}
		if id, err := ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:]); err == nil {
			sizes[id] = info.Size
		}
	}
	indexed := c.repo.catalog.packs()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	for id, blobs := range indexed {
		size, there := sizes[id]
		delete(sizes, id)
		if !there {
			c.problem("%s: missing, with %d blobs", packName(id), len(blobs))
			continue
		}
		c.report.Packs++
		c.report.Blobs += len(blobs)
		c.report.Bytes += size
		if want := leastLength(blobs); size < want {
			c.problem("%s: %d bytes, want %d or more", packName(id), size, want)
			continue
		}
		if readData {
			group.Go(func() error { return c.pack(gctx, id, blobs) })
		}
	}
	c.report.Unused = len(sizes)
	return group.Wait()
}

// leastLength is the least size of a pack with these blobs; there is more in it when some are in
// another pack too, where the index has them.
func leastLength(blobs []packedBlob) int64 {
	var end int64
	header := int64(overhead + 4)
	for _, b := range blobs {
		end = max(end, int64(b.Offset)+int64(b.Length))
		header += headerEntry
		if b.Plain != 0 {
			header += headerEntryCompressed - headerEntry
		}
	}
	return end + header
}

// pack reads a whole pack.
func (c *checker) pack(ctx context.Context, id ID, indexed []packedBlob) error {
	r := c.repo
	object, err := r.store.Get(ctx, packName(id), blob.Range{})
	if err != nil {
		if c.finding(err) {
			return nil
		}
		return err
	}
	if hash(object.Data) != id {
		c.problem("%s: its content has another hash", packName(id))
		return nil
	}
	blobs, err := parsePack(r.master, object.Data)
	if err != nil {
		c.problem("%s: %v", packName(id), err)
		return nil
	}
	found := make(map[handle]place, len(blobs))
	for _, b := range blobs {
		found[handle{b.Type, b.ID}] = b.place
		if _, err := r.unpack(b.Type, b.ID, id, b.place, object.Data[b.Offset:b.Offset+b.Length]); err != nil {
			c.problem("%v", err)
		}
	}
	for _, b := range indexed {
		if found[handle{b.Type, b.ID}] != b.place {
			c.problem("%s: the index has %s blob %s at another place", packName(id), b.Type, b.ID.short())
		}
	}
	return nil
}

func (c *checker) snapshot(ctx context.Context, id ID) error {
	c.report.Snapshots++
	snap, err := c.repo.snapshot(ctx, id)
	if err == nil {
		err = c.tree(ctx, fmt.Sprintf("snapshot %s: /", id.short()), snap.Tree)
	}
	if err != nil && !c.finding(err) {
		return err
	}
	return nil
}

func (c *checker) tree(ctx context.Context, where string, id ID) error {
	if _, seen := c.trees[id]; seen {
		return nil
	}
	c.trees[id] = struct{}{}
	t, err := c.repo.LoadTree(ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	for _, n := range t.Nodes {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := where + n.Name
		switch n.Type {
		case DirNode:
			err = c.tree(ctx, at+"/", n.Subtree)
		case FileNode:
			err = c.file(ctx, at, n)
		}
		if err != nil && !c.finding(err) {
			return err
		}
	}
	return nil
}

// file looks for a file's blobs without reading them.
func (c *checker) file(ctx context.Context, at string, n *Node) error {
	var size uint64
	for _, id := range n.Content {
		_, place, ok := c.repo.catalog.lookup(DataBlob, id)
		if !ok {
			var err error
			if _, place, err = c.repo.catalog.locate(ctx, DataBlob, id); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
		size += uint64(place.plainLength())
	}
	if size != n.Size {
		return fmt.Errorf("%s: %w: its blobs hold %d bytes, its node says %d", at, ErrDamaged, size, n.Size)
	}
	return nil
}
