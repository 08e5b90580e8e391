package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// ledger is the whole index in little memory: 52 bytes and a bit for each place at which a blob is, in
// order of types and ids, and the packs that each index object names. Unlike the catalog it knows blobs
// that are in several packs.
type ledger struct {
	repo    *Repo
	entries []ledgerEntry
	used    []uint64 // a bit for each entry
	packs   []ID
	files   []ledgerFile
}

type ledgerEntry struct {
	id   ID
	pack uint32 // position in ledger.packs
	place
	kind BlobType
}

// ledgerFile is an index object.
type ledgerFile struct {
	id    ID
	packs []uint32
	blobs int
}

// readLedger reads every index object.
func readLedger(ctx context.Context, r *Repo) (*ledger, error) {
	var err error
	for range 5 {
		var l *ledger
		// An index object that was replaced between the list and the read is a reason to look again.
		if l, err = readLedgerOnce(ctx, r); !errors.Is(err, blob.ErrNotFound) {
			return l, err
		}
	}
	return nil, err
}

func readLedgerOnce(ctx context.Context, r *Repo) (*ledger, error) {
	ids, err := r.listIDs(ctx, indexDir)
	if err != nil {
		return nil, fmt.Errorf("load index: %w", err)
	}
	l := &ledger{repo: r}
	numbers := map[ID]uint32{}
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(saverWorkers())
	for _, id := range ids {
		group.Go(func() error {
			f := &indexFile{}
			if err := r.loadJSON(gctx, indexDir, id, f); err != nil {
				return fmt.Errorf("load index: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			return l.add(id, f, numbers)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(l.entries, func(a, b ledgerEntry) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.pack, b.pack), cmp.Compare(a.Offset, b.Offset))
	})
	l.entries = slices.Clip(slices.Compact(l.entries)) // a pack may be in several index objects
	l.used = make([]uint64, (len(l.entries)+63)/64)
	return l, nil
}

func (l *ledger) add(id ID, f *indexFile, numbers map[ID]uint32) error {
	file := ledgerFile{id: id}
	for _, p := range f.Packs {
		n, known := numbers[p.ID]
		if !known {
			if len(l.packs) == math.MaxUint32 {
				return errors.New("too many packs")
			}
			n = uint32(len(l.packs))
			l.packs = append(l.packs, p.ID)
			numbers[p.ID] = n
		}
		file.packs = append(file.packs, n)
		file.blobs += len(p.Blobs)
		for _, b := range p.Blobs {
			packed, err := b.packed()
			if err != nil {
				return fmt.Errorf("%s%s: %w", indexDir, id, err)
			}
			l.entries = append(l.entries, ledgerEntry{id: packed.ID, pack: n, place: packed.place, kind: packed.Type})
		}
	}
	l.files = append(l.files, file)
	return nil
}

// find returns the entries of a blob; none when the index does not have it.
func (l *ledger) find(t BlobType, id ID) (from, to int) {
	from, found := slices.BinarySearchFunc(l.entries, ledgerEntry{kind: t, id: id}, func(a, b ledgerEntry) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), bytes.Compare(a.id[:], b.id[:]))
	})
	if !found {
		return from, from
	}
	return from, l.copies(from)
}

// copies returns the end of the entries of the blob whose first entry is at from.
func (l *ledger) copies(from int) int {
	to := from + 1
	for to < len(l.entries) && l.entries[to].id == l.entries[from].id && l.entries[to].kind == l.entries[from].kind {
		to++
	}
	return to
}

// mark says whether it is the first to mark an entry. It may be called at the same time.
func (l *ledger) mark(i int) bool {
	bit := uint64(1) << (i % 64)
	return atomic.OrUint64(&l.used[i/64], bit)&bit == 0
}

func (l *ledger) unmark(i int) { l.used[i/64] &^= 1 << (i % 64) }

func (l *ledger) marked(i int) bool { return l.used[i/64]&(1<<(i%64)) != 0 }

// load reads a blob from the first of its places that has it.
func (l *ledger) load(ctx context.Context, from int) ([]byte, error) {
	var failed error
	for i := from; i < l.copies(from); i++ {
		e := l.entries[i]
		object, err := l.repo.store.Get(ctx, packName(l.packs[e.pack]), blob.Range{Offset: int64(e.Offset), Length: int64(e.Length)})
		if err == nil {
			var data []byte
			if data, err = l.repo.unpack(e.kind, e.id, l.packs[e.pack], e.place, object.Data); err == nil {
				return data, nil
			}
		}
		if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrRange) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// byPack returns the positions of the entries that are wanted, pack by pack in the order in which the
// packs hold them.
func (l *ledger) byPack(wanted func(i int) bool) []uint32 {
	var order []uint32
	for i := range l.entries {
		if wanted(i) {
			order = append(order, uint32(i))
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		x, y := &l.entries[a], &l.entries[b]
		return cmp.Or(cmp.Compare(x.pack, y.pack), cmp.Compare(x.Offset, y.Offset))
	})
	return order
}

// packsOf cuts what byPack returned into the entries of each pack.
func (l *ledger) packsOf(order []uint32) func(yield func(pack uint32, entries []uint32) bool) {
	return func(yield func(uint32, []uint32) bool) {
		for from := 0; from < len(order); {
			pack, to := l.entries[order[from]].pack, from+1
			for to < len(order) && l.entries[order[to]].pack == pack {
				to++
			}
			if !yield(pack, order[from:to]) {
				return
			}
			from = to
		}
	}
}

// treeWalk marks all that can be reached from snapshots, and reads each tree once.
type treeWalk struct {
	ledger *ledger
	sizes  bool // compare the sizes of files with those of their blobs
	// bad is told of what is missing or damaged; the walk ends when it returns an error. It may be
	// called at the same time.
	bad func(err error) error

	mu    sync.Mutex
	idle  *sync.Cond
	stack []treeAt
	busy  int
	err   error
}

type treeAt struct {
	where string
	entry int
}

// run walks from the trees of the snapshots.
func (w *treeWalk) run(ctx context.Context, snapshots []Snapshot) error {
	w.idle = sync.NewCond(&w.mu)
	for _, s := range snapshots {
		next, err := w.subtree(nil, "snapshot "+s.ID.short()+": /", s.Tree)
		if err != nil {
			return err
		}
		w.stack = append(w.stack, next...)
	}
	var workers sync.WaitGroup
	for range 2 * saverWorkers() { // they wait for the store most of the time
		workers.Go(func() { w.work(ctx) })
	}
	workers.Wait()
	return w.err
}

func (w *treeWalk) work(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.idle.Broadcast()
	for {
		for len(w.stack) == 0 && w.busy > 0 && w.err == nil {
			w.idle.Wait()
		}
		if len(w.stack) == 0 || w.err != nil {
			return
		}
		at := w.stack[len(w.stack)-1] // the deepest first: few are waiting then
		w.stack = w.stack[:len(w.stack)-1]
		w.busy++
		w.mu.Unlock()
		next, err := w.tree(ctx, at)
		w.mu.Lock()
		w.busy--
		w.stack = append(w.stack, next...)
		if w.err == nil {
			w.err = err
		}
		w.idle.Broadcast()
	}
}

// tree marks what a tree names and returns the trees in it that nobody has seen yet.
func (w *treeWalk) tree(ctx context.Context, at treeAt) (next []treeAt, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	raw, err := w.ledger.load(ctx, at.entry)
	if err == nil {
		next, err = w.nodes(at, raw)
	}
	if errors.Is(err, ErrDamaged) {
		err = w.bad(fmt.Errorf("%s: %w", at.where, err))
	}
	return next, err
}

// nodes marks what a tree names, node by node: a directory may have any number of them.
func (w *treeWalk) nodes(at treeAt, raw []byte) (next []treeAt, err error) {
	in, err := newTreeReader(w.ledger.entries[at.entry].id, raw)
	if err != nil {
		return nil, err
	}
	for {
		n, err := in.next()
		if err != nil || n == nil {
			return next, err
		}
		where := at.where + n.Name
		if n.Type == DirNode || !n.Subtree.IsZero() {
			next, err = w.subtree(next, where+"/", n.Subtree)
		} else {
			err = w.file(where, n)
		}
		if err != nil {
			return next, err
		}
	}
}

func (w *treeWalk) subtree(next []treeAt, where string, id ID) ([]treeAt, error) {
	from, to := w.ledger.find(TreeBlob, id)
	if from == to {
		return next, w.bad(fmt.Errorf("%s: tree blob %s: %w", where, id, ErrNotFound))
	}
	if w.ledger.mark(from) {
		next = append(next, treeAt{where, from})
	}
	return next, nil
}

func (w *treeWalk) file(where string, n *Node) error {
	var size uint64
	for _, id := range n.Content {
		from, to := w.ledger.find(DataBlob, id)
		if from == to {
			return w.bad(fmt.Errorf("%s: data blob %s: %w", where, id, ErrNotFound))
		}
		w.ledger.mark(from)
		size += uint64(w.ledger.entries[from].plainLength())
	}
	if w.sizes && n.Type == FileNode && size != n.Size {
		return w.bad(fmt.Errorf("%s: %w: its blobs hold %d bytes, its node says %d", where, ErrDamaged, size, n.Size))
	}
	return nil
}
