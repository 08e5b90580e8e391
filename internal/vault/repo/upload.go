package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// farewell is how long a Saver that is closed waits for the store to let go of what it was storing.
const farewell = 30 * time.Second

// errClosed: a Saver was used after it was closed.
var errClosed = errors.New("the saver is closed")

// uploader stores a saver's full packs and the indexes of them, beside those who fill the next.
type uploader struct {
	saver *Saver
	packs chan *packFile
	spare chan *packFile // stored, for their memory
	end   context.CancelCauseFunc
	ended <-chan struct{}
	why   func() error // why it ended
	work  sync.WaitGroup

	mu      sync.Mutex
	unnamed map[ID][]packedBlob // packs that no index names yet
	waiting int                 // blobs in unnamed
	busy    int                 // packs given and not dealt with, indexes being written
	idle    chan struct{}       // closed when busy falls to nought; nil when nobody waits
}

// startUploader ends with ctx, or by stop.
func startUploader(ctx context.Context, s *Saver) *uploader {
	ctx, cancel := context.WithCancelCause(ctx)
	u := &uploader{
		saver: s, packs: make(chan *packFile), spare: make(chan *packFile, uploads+2),
		end: cancel, ended: ctx.Done(), why: func() error { return context.Cause(ctx) }, unnamed: map[ID][]packedBlob{},
	}
	for range uploads {
		u.work.Go(func() { u.run(ctx) })
	}
	return u
}

// stop gives up what is not stored yet and waits until nothing touches the store any more; for a store
// that does not heed that it was called off, not longer than the farewell.
func (u *uploader) stop() {
	u.end(errClosed)
	done := make(chan struct{})
	go func() { u.work.Wait(); close(done) }()
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func (u *uploader) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			_ = u.saver.fail(context.Cause(ctx))
			return
		case pack := <-u.packs:
			if err := u.store(ctx, pack); err != nil {
				_ = u.saver.fail(err) // whoever saves next, or flushes, is told
			}
			u.begin(-1)
		}
	}
}

// newPack returns an empty pack, in memory that was used before when there is some.
func (u *uploader) newPack() *packFile {
	select {
	case p := <-u.spare:
		return p
	default:
		return &packFile{}
	}
}

// give hands a pack on; it waits while enough are being stored.
func (u *uploader) give(ctx context.Context, pack *packFile) error {
	if err := u.saver.failed(); err != nil {
		return err
	}
	u.begin(1)
	select {
	case u.packs <- pack:
		return nil
	case <-ctx.Done():
		u.begin(-1)
		return u.saver.fail(fmt.Errorf("store pack: %w", context.Cause(ctx)))
	case <-u.ended:
		u.begin(-1)
		return u.saver.fail(u.why())
	}
}

// begin counts work that has begun, or with -1 has ended.
func (u *uploader) begin(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy += n
	if u.busy == 0 && u.idle != nil {
		close(u.idle)
		u.idle = nil
	}
}

// store stores one pack and, when many wait for one, an index.
func (u *uploader) store(ctx context.Context, pack *packFile) error {
	if err := u.saver.failed(); err != nil {
		return err
	}
	s := u.saver
	raw := pack.finish(s.repo.master)
	id := hash(raw)
	locked, release := s.lock.bind(ctx)
	defer release()
	if _, err := s.repo.store.Put(locked, packName(id), raw, blob.IfAbsent()); err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	blobs := pack.blobs
	s.repo.catalog.addPack(id, blobs)
	s.stored(int64(len(raw)), blobs)
	select {
	case u.spare <- &packFile{data: pack.data[:0]}:
	default:
	}
	u.mu.Lock()
	u.unnamed[id] = blobs
	u.waiting += len(blobs)
	many := u.waiting >= indexBlobs || len(u.unnamed) >= indexPacks
	u.mu.Unlock()
	if !many {
		return nil
	}
	return u.storeIndex(ctx)
}

// storeIndex names the stored packs in an index.
func (u *uploader) storeIndex(ctx context.Context) error {
	u.mu.Lock()
	packs := u.unnamed
	u.unnamed, u.waiting = map[ID][]packedBlob{}, 0
	u.mu.Unlock()
	if len(packs) == 0 {
		return nil
	}
	// Packs that no index names may be removed by who took our lock for stale.
	if err := u.saver.lock.verify(ctx); err != nil {
		return fmt.Errorf("store index: %w", err)
	}
	id, size, err := u.saver.repo.saveJSON(ctx, indexDir, indexOf(packs))
	if err != nil {
		return fmt.Errorf("store index: %w", err)
	}
	u.saver.repo.catalog.addIndex(id)
	u.saver.stored(size)
	return nil
}

// settle waits until every pack that was given is stored, and names them in an index.
func (u *uploader) settle(ctx context.Context) error {
	u.mu.Lock()
	var idle chan struct{}
	if u.busy > 0 {
		if u.idle == nil {
			u.idle = make(chan struct{})
		}
		idle = u.idle
	}
	u.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("store pack: %w", context.Cause(ctx))
		case <-u.ended:
			return u.saver.fail(u.why())
		}
	}
	if err := u.saver.failed(); err != nil {
		return err
	}
	if err := u.storeIndex(ctx); err != nil {
		return u.saver.fail(err)
	}
	return nil
}
