package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	packSize = 16 << 20
	// packRoom is what a pack's buffer is made for: its last blob and its header come on top of its size.
	packRoom = packSize + 2<<20
	// uploads is how many full packs are stored at the same time, each from memory, while others are
	// filled.
	uploads = 3
	// An index is written once so many blobs or packs wait for one: its file stays small, and a writer
	// that crashes leaves what it stored to be found by the next.
	indexBlobs = 20_000
	indexPacks = 64
)

// readWorkers is how many objects are read at the same time.
const readWorkers = 8

// saverWorkers is how many chunks are hashed, compressed and sealed at the same time. Each may hold a
// chunk of 8 MiB in two forms.
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
	chunks     sync.Pool     // of *[]byte: chunks
	forms      sync.Pool     // of *[]byte: chunks as they are stored
	upload     *uploader
	generation int // of the index that is relied on

	mu      sync.Mutex
	err     error // the first failure; sticky
	filling [2]*packFile
	pending map[handle]struct{} // being stored by this saver
	stats   Stats
}

// NewSaver takes a shared lock on the repository and reads its index; it waits two minutes for somebody
// who removes from the repository. What is saved is stored under ctx, by goroutines of the Saver's own.
// Close the Saver in any case. Error: *LockedError.
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
	s := &Saver{repo: r, lock: lock, table: table, slots: make(chan struct{}, saverWorkers()), pending: map[handle]struct{}{}}
	s.generation = r.catalog.current()
	s.chunks.New = func() any { return new([]byte) }
	s.forms.New = func() any { return new([]byte) }
	s.upload = startUploader(ctx, s)
	return s, nil
}

// Close releases the lock. What was not flushed is lost.
func (s *Saver) Close(ctx context.Context) error {
	s.upload.stop()
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
	chunks := &chunker{table: s.table, in: in, pool: &s.chunks}
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
			defer func() { s.chunks.Put(chunk); <-s.slots }()
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

// saveSmall stores data that is not cut.
func (s *Saver) saveSmall(ctx context.Context, t BlobType, data []byte) (ID, error) {
	if ctx.Err() != nil {
		return ID{}, context.Cause(ctx)
	}
	return s.saveBlob(ctx, t, data)
}

// saveBlob stores one blob unless it is there, and hands on the pack that the blob makes full.
func (s *Saver) saveBlob(ctx context.Context, t BlobType, data []byte) (ID, error) {
	id := hash(data)
	return id, s.saveHashed(ctx, t, id, data)
}

// saveHashed is saveBlob for data whose id is known.
func (s *Saver) saveHashed(ctx context.Context, t BlobType, id ID, data []byte) error {
	if fresh, err := s.claim(t, id, len(data)); err != nil || !fresh {
		return err
	}
	form := s.forms.Get().(*[]byte)
	defer s.forms.Put(form)
	sealed, plain := sealBlob(s.repo, *form, data)
	*form = sealed[:0]

	s.mu.Lock()
	if s.filling[t] == nil {
		s.filling[t] = s.upload.newPack()
	}
	pack := s.filling[t]
	pack.add(id, t, sealed, plain)
	full := len(pack.data) >= packSize
	if full {
		s.filling[t] = nil
	}
	s.mu.Unlock()
	if !full {
		return nil
	}
	return s.upload.give(ctx, pack)
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

// stored notes that a pack and its index are stored.
func (s *Saver) stored(bytes int64, packs ...[]packedBlob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.StoredBytes += bytes
	for _, blobs := range packs {
		for _, b := range blobs {
			delete(s.pending, handle{b.Type, b.ID}) // the repository's index knows it now
		}
	}
}

// fail notes the first failure and returns it.
func (s *Saver) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

func (s *Saver) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Flush stores what is still in memory and an index of it. Afterwards everything saved so far can be
// referred to.
func (s *Saver) Flush(ctx context.Context) error {
	for _, t := range []BlobType{DataBlob, TreeBlob} {
		s.mu.Lock()
		pack := s.filling[t]
		s.filling[t] = nil
		s.mu.Unlock()
		if pack == nil {
			continue
		}
		if err := s.upload.give(ctx, pack); err != nil {
			return err
		}
	}
	if err := s.upload.settle(ctx); err != nil {
		return err
	}
	return s.failed()
}
