package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	readAhead = 8 << 20  // bytes of a pack that are read at once
	readGap   = 64 << 10 // bytes between two blobs that are cheaper to read than to skip
)

// LoadBlob reads a blob and checks that it is what its id says. Errors: ErrNotFound, ErrDamaged.
func (r *Repo) LoadBlob(ctx context.Context, t BlobType, id ID) ([]byte, error) {
	pack, at, err := r.catalog.locate(ctx, t, id)
	if err != nil {
		return nil, err
	}
	object, err := r.store.Get(ctx, packName(pack), blob.Range{Offset: int64(at.Offset), Length: int64(at.Length)})
	if errors.Is(err, blob.ErrNotFound) {
		// Its pack was rewritten since the index was read.
		if err := r.catalog.refresh(ctx); err != nil {
			return nil, err
		}
		if pack, at, err = r.catalog.locate(ctx, t, id); err == nil {
			object, err = r.store.Get(ctx, packName(pack), blob.Range{Offset: int64(at.Offset), Length: int64(at.Length)})
		}
		if err != nil {
			return nil, fmt.Errorf("load %s blob %s: %w", t, id.short(), err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("load %s blob %s: %w", t, id.short(), err)
	}
	return r.unpack(t, id, pack, at, object.Data)
}

// sealBlob makes of a blob what is stored of it, in the memory of form when that is enough, and says how
// long the plaintext is when it is compressed.
func sealBlob(r *Repo, form, data []byte) (sealed []byte, plain uint32) {
	if need := nonceSize + len(data) + len(data)/64 + 64 + macSize; cap(form) < need {
		form = make([]byte, 0, need)
	}
	form = r.zenc.EncodeAll(data, form[:nonceSize])
	plain = uint32(len(data))
	if len(form)-nonceSize >= len(data) {
		form, plain = append(form[:nonceSize], data...), 0
	}
	return r.master.sealInPlace(form), plain
}

// unpack makes plaintext of a blob's stored bytes, which it overwrites.
func (r *Repo) unpack(t BlobType, id, pack ID, at place, sealed []byte) ([]byte, error) {
	return unpackInto(r, nil, t, id, pack, at, sealed)
}

// unpackInto is unpack; the plaintext may use the memory of room.
func unpackInto(r *Repo, room []byte, t BlobType, id, pack ID, at place, sealed []byte) ([]byte, error) {
	plain, err := r.master.open(sealed)
	if err == nil && at.Plain != 0 {
		if cap(room) >= int(at.Plain) {
			plain, err = r.zdec.DecodeAll(plain, room[:0])
		} else {
			plain, err = r.inflate(plain, int(at.Plain))
		}
	}
	if err == nil && hash(plain) != id {
		err = errors.New("content has another hash")
	}
	if err != nil {
		return nil, fmt.Errorf("%s blob %s in %s: %w: %w", t, id.short(), packName(pack), ErrDamaged, err)
	}
	return plain, nil
}

// located is a blob and where it is.
type located struct {
	id   ID
	pack ID
	at   place
}

// locateAll finds many blobs, refreshing the index at most once.
func (r *Repo) locateAll(ctx context.Context, t BlobType, ids []ID) ([]located, error) {
	found := make([]located, len(ids))
	for i, id := range ids {
		pack, at, err := r.catalog.locate(ctx, t, id)
		if err != nil {
			return nil, err
		}
		found[i] = located{id: id, pack: pack, at: at}
	}
	return found, nil
}

// runs groups neighbours that are read at once. With sorted false, only blobs that follow each other
// in both the list and a pack are neighbours, and the order is kept.
func runs(blobs []located, sorted bool) [][]located {
	if sorted {
		blobs = slices.Clone(blobs)
		slices.SortFunc(blobs, func(a, b located) int {
			if c := slices.Compare(a.pack[:], b.pack[:]); c != 0 {
				return c
			}
			return int(int64(a.at.Offset) - int64(b.at.Offset))
		})
	}
	var out [][]located
	for i, b := range blobs {
		if i > 0 {
			run := out[len(out)-1]
			first, last := run[0], run[len(run)-1]
			end := int64(last.at.Offset) + int64(last.at.Length)
			gap := int64(b.at.Offset) - end
			span := int64(b.at.Offset) + int64(b.at.Length) - int64(first.at.Offset)
			if b.pack == last.pack && gap >= 0 && gap <= readGap && span <= readAhead {
				out[len(out)-1] = append(run, b)
				continue
			}
		}
		out = append(out, []located{b})
	}
	return out
}

// loadRun reads the blobs of a run with one request.
func (r *Repo) loadRun(ctx context.Context, t BlobType, run []located, fn func(ID, []byte) error) error {
	first, last := run[0], run[len(run)-1]
	if len(run) == 1 {
		data, err := r.LoadBlob(ctx, t, first.id)
		if err != nil {
			return err
		}
		return fn(first.id, data)
	}
	length := int64(last.at.Offset) + int64(last.at.Length) - int64(first.at.Offset)
	object, err := r.store.Get(ctx, packName(first.pack), blob.Range{Offset: int64(first.at.Offset), Length: length})
	if err != nil || int64(len(object.Data)) != length {
		return r.loadSingly(ctx, t, run, fn)
	}
	for _, b := range run {
		from := b.at.Offset - first.at.Offset
		data, err := r.unpack(t, b.id, b.pack, b.at, object.Data[from:from+b.at.Length])
		if err != nil {
			return err
		}
		if err := fn(b.id, data); err != nil {
			return err
		}
	}
	return nil
}

// loadSingly reads blob by blob, which copes with packs that were rewritten and words errors exactly.
func (r *Repo) loadSingly(ctx context.Context, t BlobType, run []located, fn func(ID, []byte) error) error {
	for _, b := range run {
		data, err := r.LoadBlob(ctx, t, b.id)
		if err != nil {
			return err
		}
		if err := fn(b.id, data); err != nil {
			return err
		}
	}
	return nil
}

// loadBlobs reads many blobs, in parallel and with few requests. fn is called from several goroutines,
// once for each distinct id, in no particular order.
func (r *Repo) loadBlobs(ctx context.Context, t BlobType, ids []ID, fn func(ID, []byte) error) error {
	seen := make(map[ID]struct{}, len(ids))
	distinct := make([]ID, 0, len(ids))
	for _, id := range ids {
		if _, ok := seen[id]; !ok {
			seen[id] = struct{}{}
			distinct = append(distinct, id)
		}
	}
	blobs, err := r.locateAll(ctx, t, distinct)
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	for _, run := range runs(blobs, true) {
		group.Go(func() error { return r.loadRun(gctx, t, run, fn) })
	}
	return group.Wait()
}

// ReadFile writes a file's content.
func (r *Repo) ReadFile(ctx context.Context, n *Node, out io.Writer) error {
	if n.Type != FileNode {
		return fmt.Errorf("read %s: it is a %s, not a file", n.Name, n.Type)
	}
	blobs, err := r.locateAll(ctx, DataBlob, n.Content)
	if err != nil {
		return err
	}
	var size uint64
	for _, run := range runs(blobs, false) {
		err := r.loadRun(ctx, DataBlob, run, func(_ ID, data []byte) error {
			size += uint64(len(data))
			_, err := out.Write(data)
			return err
		})
		if err != nil {
			return err
		}
	}
	if size != n.Size {
		return fmt.Errorf("read %s: %w: %d bytes, its node says %d", n.Name, ErrDamaged, size, n.Size)
	}
	return nil
}
