package repo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	smallIndex   = indexBlobs / 4 // index objects with fewer blobs are put together
	smallIndexes = 8              // when there are so many of them
)

// rewrite copies what is used of the packs that are to be rewritten into new ones. Until the old index
// is gone, these blobs are in two places, which is no fault.
func (p *pruner) rewrite(ctx context.Context) error {
	l := p.ledger
	order := l.byPack(func(i int) bool { return l.marked(i) && p.use[l.entries[i].pack].fate == rewrite })
	total := 0
	for _, u := range p.use {
		if u.fate == rewrite {
			total++
		}
	}
	to := &packer{repo: p.repo, lock: p.lock, stored: map[ID][]packedBlob{}}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	for pack, entries := range l.packsOf(order) {
		blobs := map[BlobType][]located{}
		for _, i := range entries {
			e := &l.entries[i]
			blobs[e.kind] = append(blobs[e.kind], located{id: e.id, pack: l.packs[pack], at: e.place})
		}
		for kind, of := range blobs {
			for _, run := range runs(of, false) {
				group.Go(func() error { return to.copyRun(gctx, kind, run) })
			}
		}
		p.report.RewrittenPacks++
		p.say("rewriting packs", p.report.RewrittenPacks, total)
		if gctx.Err() != nil {
			break
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("rewrite packs: %w", err)
	}
	if err := to.flush(ctx); err != nil {
		return fmt.Errorf("rewrite packs: %w", err)
	}
	p.report.AddedBytes = to.bytes
	return nil
}

// packer fills packs with blobs that are sealed already.
type packer struct {
	repo *Repo
	lock *heldLock

	mu      sync.Mutex
	filling [2]*packFile
	stored  map[ID][]packedBlob // packs that no index names yet
	waiting int
	bytes   int64
}

// copyRun reads neighbours with one request and adds them, each of which must be what its id says.
func (p *packer) copyRun(ctx context.Context, kind BlobType, run []located) error {
	first, last := run[0], run[len(run)-1]
	length := int64(last.at.Offset) + int64(last.at.Length) - int64(first.at.Offset)
	object, err := p.repo.store.Get(ctx, packName(first.pack), blob.Range{Offset: int64(first.at.Offset), Length: length})
	if err == nil && int64(len(object.Data)) != length {
		err = fmt.Errorf("%s: %w: it is cut", packName(first.pack), ErrDamaged)
	}
	if err != nil {
		return err
	}
	for _, b := range run {
		from := b.at.Offset - first.at.Offset
		sealed := object.Data[from : from+b.at.Length]
		if _, err := p.repo.unpack(kind, b.id, b.pack, b.at, bytes.Clone(sealed)); err != nil {
			return err
		}
		if err := p.add(ctx, kind, b, sealed); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) add(ctx context.Context, kind BlobType, b located, sealed []byte) error {
	p.mu.Lock()
	if p.filling[kind] == nil {
		p.filling[kind] = &packFile{}
	}
	pack := p.filling[kind]
	pack.add(b.id, kind, sealed, b.at.Plain)
	if len(pack.data) < packSize {
		p.mu.Unlock()
		return nil
	}
	p.filling[kind] = nil
	p.mu.Unlock()
	return p.store(ctx, pack)
}

// store stores a pack and, when many wait for one, an index: a prune that crashes has not worked in vain.
func (p *packer) store(ctx context.Context, pack *packFile) error {
	raw := pack.finish(p.repo.master)
	id := hash(raw)
	if _, err := p.repo.store.Put(ctx, packName(id), raw, blob.IfAbsent()); err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(len(raw))
	p.stored[id] = pack.blobs
	p.waiting += len(pack.blobs)
	if p.waiting < indexBlobs && len(p.stored) < indexPacks {
		return nil
	}
	return p.storeIndex(ctx)
}

// storeIndex names the stored packs; the caller holds mu.
func (p *packer) storeIndex(ctx context.Context) error {
	if len(p.stored) == 0 {
		return nil
	}
	if err := p.lock.verify(ctx); err != nil {
		return err
	}
	if _, _, err := p.repo.saveJSON(ctx, indexDir, indexOf(p.stored)); err != nil {
		return fmt.Errorf("store index: %w", err)
	}
	p.stored, p.waiting = map[ID][]packedBlob{}, 0
	return nil
}

func (p *packer) flush(ctx context.Context) error {
	for kind, pack := range p.filling {
		p.filling[kind] = nil
		if pack != nil {
			if err := p.store(ctx, pack); err != nil {
				return err
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.storeIndex(ctx)
}

// swapIndexes puts new index objects in the place of those that name packs which are to go, and few
// large ones in the place of many small ones.
func (p *pruner) swapIndexes(ctx context.Context) error {
	old := p.outdated(smallIndexes)
	if len(old) == 0 {
		p.report.Indexes = len(p.ledger.files)
		return nil
	}
	return p.replaceIndexes(ctx, old)
}

// outdated returns the index objects that name a pack which is to go, those of which every pack is in
// another one too, and the small ones when there are at least so many.
func (p *pruner) outdated(many int) []ledgerFile {
	files := slices.Clone(p.ledger.files)
	slices.SortFunc(files, func(a, b ledgerFile) int {
		return cmp.Or(cmp.Compare(b.blobs, a.blobs), bytes.Compare(a.id[:], b.id[:]))
	})
	covered := make([]bool, len(p.ledger.packs))
	var old, small []ledgerFile
	for _, f := range files {
		if slices.ContainsFunc(f.packs, func(n uint32) bool { return p.use[n].fate != keep }) {
			old = append(old, f)
			continue
		}
		if !slices.ContainsFunc(f.packs, func(n uint32) bool { return !covered[n] }) {
			old = append(old, f)
			continue
		}
		for _, n := range f.packs {
			covered[n] = true
		}
		if f.blobs < smallIndex {
			small = append(small, f)
		}
	}
	if len(small) >= many {
		old = append(old, small...)
	}
	return old
}

// uncovered says which packs that stay no other index object names than those.
func (p *pruner) uncovered(old []ledgerFile) []bool {
	going := make(map[ID]struct{}, len(old))
	for _, f := range old {
		going[f.id] = struct{}{}
	}
	need := make([]bool, len(p.ledger.packs))
	for _, f := range old {
		for _, n := range f.packs {
			need[n] = p.use[n].fate == keep
		}
	}
	for _, f := range p.ledger.files {
		if _, ok := going[f.id]; !ok {
			for _, n := range f.packs {
				need[n] = false
			}
		}
	}
	return need
}

// replaceIndexes writes what the old index objects alone say of packs that stay, and deletes them.
func (p *pruner) replaceIndexes(ctx context.Context, old []ledgerFile) error {
	need := p.uncovered(old)
	w := p.newIndexWriter(func(pack uint32) bool { return need[pack] })
	if err := w.writeAll(ctx); err != nil {
		return err
	}
	if err := p.lock.verify(ctx); err != nil {
		return err
	}
	err := blob.DeleteAll(ctx, p.repo.store, len(old), func(i int) string { return indexDir + old[i].id.String() }, func(i int, retained bool) {
		if !retained {
			return
		}
		p.report.Retained++
		for _, n := range old[i].packs {
			p.use[n].held = true
		}
	})
	if err != nil {
		return fmt.Errorf("remove index: %w", err)
	}
	ids, err := p.repo.listIDs(ctx, indexDir)
	p.report.Indexes = len(ids)
	return err
}

// indexWriter writes what the ledger says of some packs.
type indexWriter struct {
	p     *pruner
	order []uint32
}

func (p *pruner) newIndexWriter(of func(pack uint32) bool) *indexWriter {
	return &indexWriter{p: p, order: p.ledger.byPack(func(i int) bool { return of(p.ledger.entries[i].pack) })}
}

func (w *indexWriter) writeAll(ctx context.Context) error {
	l := w.p.ledger
	packs, blobs := map[ID][]packedBlob{}, 0
	write := func() error {
		if len(packs) == 0 {
			return nil
		}
		if err := w.p.lock.verify(ctx); err != nil {
			return err
		}
		if _, _, err := w.p.repo.saveJSON(ctx, indexDir, indexOf(packs)); err != nil {
			return fmt.Errorf("store index: %w", err)
		}
		packs, blobs = map[ID][]packedBlob{}, 0
		return nil
	}
	for pack, entries := range l.packsOf(w.order) {
		for _, i := range entries {
			e := &l.entries[i]
			packs[l.packs[pack]] = append(packs[l.packs[pack]], packedBlob{ID: e.id, Type: e.kind, place: e.place})
		}
		if blobs += len(entries); blobs >= indexBlobs {
			if err := write(); err != nil {
				return err
			}
		}
	}
	return write()
}

// CompactIndex puts small index objects together and returns how many there are then; packs are left
// as they are.
func (m *Maintenance) CompactIndex(ctx context.Context) (int, error) {
	ctx, release := m.lock.bind(ctx)
	defer release()
	defer m.repo.catalog.forget()
	ledger, err := readLedger(ctx, m.repo)
	if err != nil {
		return 0, fmt.Errorf("compact index: %w", err)
	}
	p := &pruner{repo: m.repo, lock: m.lock, ledger: ledger, use: make([]packUse, len(ledger.packs))}
	p.report.Indexes = len(ledger.files)
	if old := p.outdated(2); len(old) > 0 {
		if err := p.replaceIndexes(ctx, old); err != nil {
			return 0, fmt.Errorf("compact index: %w", err)
		}
	}
	return p.report.Indexes, nil
}
