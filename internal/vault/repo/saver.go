package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	packSize = 16 << 20
	// An index is written once so many blobs or packs wait for one: its file stays small, and a writer
	// that crashes leaves what it stored to be found by the next.
	indexBlobs = 20_000
	indexPacks = 64
)

// readWorkers is how many objects are read at the same time.
const readWorkers = 8

// saverWorkers is how many chunks are hashed, compressed, sealed and stored at the same time. Each may
// hold a chunk of 8 MiB in three forms and a pack of 24 MiB.
func saverWorkers() int { return min(4, max(2, runtime.GOMAXPROCS(0))) }

// Stats counts what a Saver took and what of it was new.
type Stats struct {
	Blobs       int   // data and tree blobs given
	Bytes       int64 // their plaintext
	NewBlobs    int   // that were not in the repository
	StoredBytes int64 // bytes added to the store: packs, indexes, snapshots
}

type handle struct {
	Type BlobType
	ID   ID
}

// Saver adds to a repository. Its methods may be called at the same time, but for Close. After an
// error it adds nothing more, and nothing that it added is referred to by a snapshot.
type Saver struct {
	repo       *Repo
	lock       *heldLock
	table      *gearTable
	slots      chan struct{} // one for each chunk being worked on
	pool       sync.Pool     // of *[]byte: chunks
	generation int           // of the index that is relied on

	mu      sync.Mutex
	err     error // the first failure; sticky
	filling [2]*packFile
	pending map[handle]struct{}    // being stored by this saver, or stored and not in the index yet
	stored  map[ID][]packedBlob    // packs that no index names yet
	waiting int                    // blobs in stored
	writing map[*packFile]struct{} // packs that are full and not stored yet
	idle    *sync.Cond             // signalled when writing shrinks
	stats   Stats
}

// NewSaver takes a shared lock on the repository and reads its index; it waits two minutes for somebody
// who removes from the repository. Close the Saver in any case. Error: *LockedError.
func (r *Repo) NewSaver(ctx context.Context) (*Saver, error) {
	table, err := newGearTable(r.config.Polynomial)
	if err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, r, false, LockOptions{Patience: lockPatience})
	if err != nil {
		return nil, err
	}
	// Only under the lock is it certain that what the index names stays there.
	if err := r.catalog.refresh(ctx); err != nil {
		return nil, errors.Join(err, lock.unlock(ctx))
	}
	s := &Saver{
		repo: r, lock: lock, table: table,
		slots:   make(chan struct{}, saverWorkers()),
		pending: map[handle]struct{}{}, stored: map[ID][]packedBlob{}, writing: map[*packFile]struct{}{},
	}
	s.generation = r.catalog.current()
	s.pool.New = func() any { return new([]byte) }
	s.idle = sync.NewCond(&s.mu)
	return s, nil
}

// Close releases the lock. What was not flushed is lost.
func (s *Saver) Close(ctx context.Context) error {
	if err := s.lock.unlock(ctx); err != nil {
		return fmt.Errorf("release the repository's lock: %w", err)
	}
	return nil
}

// Stats returns the counts so far.
func (s *Saver) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// SaveData stores a stream and returns the blobs that make it up, in order, and its length.
func (s *Saver) SaveData(ctx context.Context, in io.Reader) ([]ID, int64, error) {
	return s.saveStream(ctx, in, nil)
}

// saveStream is SaveData; said is told of every chunk's length.
func (s *Saver) saveStream(ctx context.Context, in io.Reader, said func(int)) ([]ID, int64, error) {
	chunks := &chunker{table: s.table, in: in, pool: &s.pool}
	var mu sync.Mutex
	ids := []ID{}
	var size int64
	group, gctx := errgroup.WithContext(ctx)
	var failed error
	for gctx.Err() == nil {
		// The slot is taken first, so that no more chunks are in memory than are being worked on.
		if failed = s.takeSlot(gctx); failed != nil {
			break
		}
		chunk, err := chunks.next()
		if err != nil {
			<-s.slots
			if !errors.Is(err, io.EOF) {
				failed = &readError{err}
			}
			break
		}
		mu.Lock()
		i := len(ids)
		ids = append(ids, ID{})
		mu.Unlock()
		size += int64(len(*chunk))
		if said != nil {
			said(len(*chunk))
		}
		group.Go(func() error {
			defer func() { s.pool.Put(chunk); <-s.slots }()
			id, err := s.saveBlob(gctx, DataBlob, *chunk)
			mu.Lock()
			defer mu.Unlock()
			ids[i] = id
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	if failed == nil {
		failed = context.Cause(ctx)
	}
	if failed != nil {
		return nil, 0, failed
	}
	return ids, size, nil
}

// readError is a failure of the source, not of the repository.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (s *Saver) takeSlot(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// saveSmall stores data that is not cut, in a slot of its own.
func (s *Saver) saveSmall(ctx context.Context, t BlobType, data []byte) (ID, error) {
	if err := s.takeSlot(ctx); err != nil {
		return ID{}, err
	}
	defer func() { <-s.slots }()
	return s.saveBlob(ctx, t, data)
}

// saveBlob stores one blob unless it is there, and a pack when the blob makes it full.
func (s *Saver) saveBlob(ctx context.Context, t BlobType, data []byte) (ID, error) {
	id := hash(data)
	return id, s.saveHashed(ctx, t, id, data)
}

// saveHashed is saveBlob for data whose id is known.
func (s *Saver) saveHashed(ctx context.Context, t BlobType, id ID, data []byte) error {
	if fresh, err := s.claim(t, id, len(data)); err != nil || !fresh {
		return err
	}
	packed, plain := s.repo.zenc.EncodeAll(data, make([]byte, 0, len(data)/2+64)), uint32(len(data))
	if len(packed) >= len(data) {
		packed, plain = data, 0
	}
	sealed := s.repo.master.seal(make([]byte, 0, len(packed)+overhead), packed)

	s.mu.Lock()
	if s.filling[t] == nil {
		s.filling[t] = &packFile{data: make([]byte, 0, 1<<20)}
	}
	pack := s.filling[t]
	pack.add(id, t, sealed, plain)
	full := len(pack.data) >= packSize
	if full {
		s.detach(t)
	}
	s.mu.Unlock()
	if !full {
		return nil
	}
	return s.storePack(ctx, pack)
}

// claim says whether the caller has to store a blob.
func (s *Saver) claim(t BlobType, id ID, size int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = s.lock.err()
	}
	if s.err != nil {
		return false, s.err
	}
	s.stats.Blobs++
	s.stats.Bytes += int64(size)
	h := handle{t, id}
	if _, ok := s.pending[h]; ok {
		return false, nil
	}
	if _, _, ok := s.repo.catalog.lookup(t, id); ok {
		return false, nil
	}
	s.pending[h] = struct{}{}
	s.stats.NewBlobs++
	return true, nil
}

// detach takes the pack that is being filled out of it; the caller holds mu and stores the pack.
func (s *Saver) detach(t BlobType) {
	s.writing[s.filling[t]] = struct{}{}
	s.filling[t] = nil
}

// storePack stores a detached pack and, when many wait for one, an index.
func (s *Saver) storePack(ctx context.Context, pack *packFile) error {
	raw := pack.finish(s.repo.master)
	id := hash(raw)
	ctx, release := s.lock.bind(ctx)
	defer release()
	_, err := s.repo.store.Put(ctx, packName(id), raw, blob.IfAbsent())
	if err != nil {
		err = fmt.Errorf("store pack: %w", err)
	} else {
		s.repo.catalog.addPack(id, pack.blobs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, pack)
	s.idle.Broadcast()
	if err != nil {
		return s.fail(err)
	}
	s.stats.StoredBytes += int64(len(raw))
	s.stored[id] = pack.blobs
	s.waiting += len(pack.blobs)
	for _, b := range pack.blobs {
		delete(s.pending, handle{b.Type, b.ID}) // the repository's index knows it now
	}
	if s.waiting >= indexBlobs || len(s.stored) >= indexPacks {
		return s.storeIndex(ctx)
	}
	return nil
}

// fail notes the first failure; the caller holds mu.
func (s *Saver) fail(err error) error {
	if s.err == nil {
		s.err = err
	}
	return s.err
}

// storeIndex names the stored packs in an index; the caller holds mu, so that others wait meanwhile.
func (s *Saver) storeIndex(ctx context.Context) error {
	if len(s.stored) == 0 {
		return nil
	}
	// Packs that no index names may be removed by who took our lock for stale.
	if err := s.lock.verify(ctx); err != nil {
		return s.fail(fmt.Errorf("store index: %w", err))
	}
	id, size, err := s.repo.saveJSON(ctx, indexDir, indexOf(s.stored))
	if err != nil {
		return s.fail(fmt.Errorf("store index: %w", err))
	}
	s.stats.StoredBytes += size
	s.repo.catalog.addIndex(id)
	s.stored, s.waiting = map[ID][]packedBlob{}, 0
	return nil
}

// Flush stores what is still in memory and an index of it. Afterwards everything saved so far can be
// referred to.
func (s *Saver) Flush(ctx context.Context) error {
	for _, t := range []BlobType{DataBlob, TreeBlob} {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return s.err
		}
		pack := s.filling[t]
		if pack == nil {
			s.mu.Unlock()
			continue
		}
		s.detach(t)
		s.mu.Unlock()
		if err := s.storePack(ctx, pack); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.writing) > 0 { // each ends by its own context
		s.idle.Wait()
	}
	if s.err != nil {
		return s.err
	}
	return s.storeIndex(ctx)
}
