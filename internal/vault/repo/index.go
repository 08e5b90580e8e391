package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// indexFile is an object below index/.
type indexFile struct {
	Supersedes []ID        `json:"supersedes,omitempty"`
	Packs      []indexPack `json:"packs"`
}

type indexPack struct {
	ID    ID          `json:"id"`
	Blobs []indexBlob `json:"blobs"`
}

type indexBlob struct {
	ID     ID     `json:"id"`
	Type   string `json:"type"`
	Offset uint32 `json:"offset"`
	Length uint32 `json:"length"`
	Plain  uint32 `json:"uncompressed_length,omitempty"`
}

// location is where a blob is.
type location struct {
	pack uint32 // position in index.packs
	place
}

// index says where every blob is. It is changed only while catalog.mu is held.
type index struct {
	blobs   [2]map[ID]location
	packs   []ID
	numbers map[ID]uint32
	files   map[ID]struct{} // index objects that it was read from
}

func newIndex() *index {
	return &index{
		blobs:   [2]map[ID]location{{}, {}},
		numbers: map[ID]uint32{},
		files:   map[ID]struct{}{},
	}
}

func (x *index) add(pack ID, blobs []packedBlob) {
	n, known := x.numbers[pack]
	if !known {
		n = uint32(len(x.packs))
		x.packs = append(x.packs, pack)
		x.numbers[pack] = n
	}
	for _, b := range blobs {
		x.blobs[b.Type][b.ID] = location{pack: n, place: b.place}
	}
}

func (x *index) addFile(id ID, f *indexFile) error {
	for _, p := range f.Packs {
		blobs := make([]packedBlob, 0, len(p.Blobs))
		for _, b := range p.Blobs {
			packed, err := b.packed()
			if err != nil {
				return fmt.Errorf("index %s: %w", id.short(), err)
			}
			blobs = append(blobs, packed)
		}
		x.add(p.ID, blobs)
	}
	x.files[id] = struct{}{}
	return nil
}

// packed checks what an index says of a blob.
func (b *indexBlob) packed() (packedBlob, error) {
	t := DataBlob
	switch b.Type {
	case "data":
	case "tree":
		t = TreeBlob
	default:
		return packedBlob{}, fmt.Errorf("%w: blob of type %q", ErrDamaged, b.Type)
	}
	if b.Length < overhead || b.Length > maxBlob || b.Plain > maxBlob {
		return packedBlob{}, fmt.Errorf("%w: blob of %d bytes, %d uncompressed", ErrDamaged, b.Length, b.Plain)
	}
	return packedBlob{ID: b.ID, Type: t, place: place{Offset: b.Offset, Length: b.Length, Plain: b.Plain}}, nil
}

func indexOf(packs map[ID][]packedBlob) indexFile {
	f := indexFile{Packs: []indexPack{}}
	for id, blobs := range packs {
		p := indexPack{ID: id}
		for _, b := range blobs {
			p.Blobs = append(p.Blobs, indexBlob{ID: b.ID, Type: b.Type.String(), Offset: b.Offset, Length: b.Length, Plain: b.Plain})
		}
		f.Packs = append(f.Packs, p)
	}
	return f
}

// catalog is the index as far as it has been read from the store.
type catalog struct {
	repo  *Repo
	load  sync.Mutex   // lets one goroutine at a time read indexes from the store
	mu    sync.RWMutex // guards what follows
	index *index
	made  int // how often the index was built anew
}

// current says which building of the index this is.
func (c *catalog) current() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.made
}

// intact says whether every index object that the index was read from since that building is still there.
func (c *catalog) intact(ctx context.Context, generation int) (bool, error) {
	ids, err := c.repo.listIDs(ctx, indexDir)
	if err != nil {
		return false, fmt.Errorf("look for the index: %w", err)
	}
	_, gone := c.compareIndexes(ids)
	return !gone && c.current() == generation, nil
}

// forget makes the next refresh read every index object again.
func (c *catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index = nil
}

// lookup finds a blob in the index as it is loaded.
func (c *catalog) lookup(t BlobType, id ID) (pack ID, at place, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.index == nil {
		return ID{}, place{}, false
	}
	l, ok := c.index.blobs[t][id]
	if !ok {
		return ID{}, place{}, false
	}
	return c.index.packs[l.pack], l.place, true
}

// locate finds a blob, reading indexes that others have written meanwhile when it is not known.
// Error: ErrNotFound.
func (c *catalog) locate(ctx context.Context, t BlobType, id ID) (pack ID, at place, err error) {
	if pack, at, ok := c.lookup(t, id); ok {
		return pack, at, nil
	}
	if err := c.refresh(ctx); err != nil {
		return ID{}, place{}, err
	}
	if pack, at, ok := c.lookup(t, id); ok {
		return pack, at, nil
	}
	return ID{}, place{}, fmt.Errorf("%s blob %s: %w", t, id, ErrNotFound)
}

// refresh brings the index up to date. Where index objects have gone, packs may have gone too, and the
// index is built anew.
func (c *catalog) refresh(ctx context.Context) error {
	c.load.Lock()
	defer c.load.Unlock()
	var err error
	for range 5 {
		// An index object that was replaced between the list and the read is a reason to look again.
		if err = c.refreshOnce(ctx); !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	return err
}

func (c *catalog) refreshOnce(ctx context.Context) error {
	ids, err := c.repo.listIDs(ctx, indexDir)
	if err != nil {
		return fmt.Errorf("load index: %w", err)
	}
	missing, gone := c.compareIndexes(ids)
	if gone {
		missing = ids
	}
	var mu sync.Mutex
	loaded := map[ID]*indexFile{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readWorkers)
	for _, id := range missing {
		group.Go(func() error {
			f := &indexFile{}
			if err := c.repo.loadJSON(gctx, indexDir, id, f); err != nil {
				return fmt.Errorf("load index: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			loaded[id] = f
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index == nil || gone {
		c.index = newIndex()
		c.made++
	}
	for id, f := range loaded {
		if err := c.index.addFile(id, f); err != nil {
			return err
		}
	}
	return nil
}

// compareIndexes says which index objects are not loaded yet, and whether loaded ones have gone.
func (c *catalog) compareIndexes(ids []ID) (missing []ID, gone bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.index == nil {
		return ids, false
	}
	left := maps.Clone(c.index.files)
	for _, id := range ids {
		if _, ok := left[id]; !ok {
			missing = append(missing, id)
		}
		delete(left, id)
	}
	return missing, len(left) > 0
}

// addPack makes a stored pack's blobs known before its index is written.
func (c *catalog) addPack(pack ID, blobs []packedBlob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index != nil { // else it is read from the store when it is needed
		c.index.add(pack, blobs)
	}
}

// addIndex notes that an index object holds what addPack has made known.
func (c *catalog) addIndex(id ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index != nil {
		c.index.files[id] = struct{}{}
	}
}
