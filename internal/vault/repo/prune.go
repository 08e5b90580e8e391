package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	smallPack  = packSize / 4 // packs below that are put together
	smallPacks = 16           // when there are so many of them
)

// PruneOptions steer Prune.
type PruneOptions struct {
	// MaxUnused is how much of what stays may be of no use, as a share of what is used: rewriting packs
	// costs more than such waste. 0.05 is what the stock restic takes.
	MaxUnused float64
	// Progress is told now and then what is being done; total is 0 where it is not known.
	Progress func(doing string, done, total int)
}

// PruneReport is what Prune did, or would do.
type PruneReport struct {
	Snapshots      int   `json:"snapshots"`
	UsedBlobs      int   `json:"usedBlobs"`
	UsedBytes      int64 `json:"usedBytes"`
	KeptPacks      int   `json:"keptPacks"`
	UnusedBytes    int64 `json:"unusedBytes"` // in packs that stay, because taking them out is not worth it
	RewrittenPacks int   `json:"rewrittenPacks"`
	RemovedPacks   int   `json:"removedPacks"` // rewritten, of no use, or known to no index
	RemovedBytes   int64 `json:"removedBytes"`
	AddedBytes     int64 `json:"addedBytes"` // packs that take the rewritten ones' place
	Indexes        int   `json:"indexes"`    // index objects at the end
	// Retained counts what the store keeps until it may go; it stands in nobody's way.
	Retained      int   `json:"retained"`
	RetainedBytes int64 `json:"retainedBytes"`
}

// PlanPrune says what Prune would do once the given snapshots are gone. It needs no lock: what others
// add meanwhile may be counted as unused.
func PlanPrune(ctx context.Context, r *Repo, o PruneOptions, without []ID) (*PruneReport, error) {
	p := &pruner{repo: r, o: o}
	if err := p.survey(ctx, without); err != nil {
		return nil, fmt.Errorf("plan prune: %w", err)
	}
	for n, u := range p.use {
		switch u.fate {
		case rewrite:
			p.report.RewrittenPacks++
			p.report.AddedBytes += u.used
			fallthrough
		case drop:
			if p.sizes[n] >= 0 {
				p.removed(p.sizes[n])
			}
		}
	}
	for _, u := range p.unindexed {
		p.removed(u.Size)
	}
	p.report.Indexes = len(p.ledger.files)
	return &p.report, nil
}

// Prune removes what no snapshot needs. The order of its writes is such that a crash at any of them
// leaves a whole repository: rewritten packs and their index come first, then the old index goes, and a
// pack goes last, once no index names it. A pack whose index the store refuses to delete stays.
func (m *Maintenance) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	ctx, release := m.lock.bind(ctx)
	defer release()
	defer m.repo.catalog.forget()
	p := &pruner{repo: m.repo, lock: m.lock, o: o}
	if err := p.survey(ctx, nil); err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	if len(p.snapshots) == 0 {
		// A list that came back empty is no reason to remove everything.
		p.report.Indexes = len(p.ledger.files)
		return &p.report, nil
	}
	for _, step := range []func(context.Context) error{p.rewrite, p.swapIndexes, p.nobodyAdded, p.removePacks} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("prune: %w", err)
		}
	}
	return &p.report, nil
}

type fate uint8

const (
	keep fate = iota
	rewrite
	drop
)

// packUse is what a pack is worth.
type packUse struct {
	all, used int64 // bytes of its blobs in the index, and of those that are to be read from it
	blobs     int
	fate      fate
	held      bool // an index that the store keeps names it
	tree      bool
}

// pruner is one Prune.
type pruner struct {
	repo      *Repo
	lock      *heldLock // nil when nothing is to be changed
	o         PruneOptions
	ledger    *ledger
	snapshots map[ID]struct{}
	sizes     []int64   // of the ledger's packs; -1 for one that is missing
	use       []packUse // of the ledger's packs
	unindexed []blob.Info
	report    PruneReport
}

func (p *pruner) say(doing string, done, total int) {
	if p.o.Progress != nil {
		p.o.Progress(doing, done, total)
	}
}

func (p *pruner) removed(size int64) {
	p.report.RemovedPacks++
	p.report.RemovedBytes += size
}

// survey finds out what is used, where it is, and what shall become of each pack.
func (p *pruner) survey(ctx context.Context, without []ID) error {
	p.say("reading snapshots and index", 0, 0)
	// Snapshots come before the index, and that before the packs: what each names was stored before it.
	all, err := p.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s Snapshot) bool { return slices.Contains(without, s.ID) })
	p.snapshots = make(map[ID]struct{}, len(all))
	for _, s := range all {
		p.snapshots[s.ID] = struct{}{}
	}
	p.report.Snapshots = len(all)
	if p.ledger, err = readLedger(ctx, p.repo); err != nil {
		return err
	}
	if err := p.measure(ctx); err != nil {
		return err
	}
	p.say("looking for what is used", 0, 0)
	walk := &treeWalk{ledger: p.ledger, bad: func(err error) error {
		return fmt.Errorf("nothing was removed, because the repository is not whole: %w", err)
	}}
	if err := walk.run(ctx, all); err != nil {
		return err
	}
	if err := p.choose(); err != nil {
		return err
	}
	p.decide()
	return nil
}

// measure lists the packs that are there.
func (p *pruner) measure(ctx context.Context) error {
	p.sizes = make([]int64, len(p.ledger.packs))
	numbers := make(map[ID]int, len(p.ledger.packs))
	for n, id := range p.ledger.packs {
		p.sizes[n] = -1
		numbers[id] = n
	}
	for info, err := range p.repo.store.List(ctx, dataDir) {
		if err != nil {
			return fmt.Errorf("list packs: %w", err)
		}
		id, err := ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:])
		if err != nil {
			continue // a write of another program under way
		}
		if n, known := numbers[id]; known {
			p.sizes[n] = info.Size
		} else {
			p.unindexed = append(p.unindexed, info)
		}
	}
	return nil
}

// choose leaves, of each used blob, one place marked: where most else is used, so that copies that a
// crash left behind are not kept alive by each other.
func (p *pruner) choose() error {
	l := p.ledger
	p.use = make([]packUse, len(l.packs))
	value := make([]int64, len(l.packs))
	for from := 0; from < len(l.entries); from = l.copies(from) {
		to := l.copies(from)
		for i := from; i < to; i++ {
			e := &l.entries[i]
			p.use[e.pack].all += int64(e.Length)
			p.use[e.pack].blobs++
			p.use[e.pack].tree = e.kind == TreeBlob
			if l.marked(from) {
				value[e.pack] += int64(e.Length)
			}
		}
	}
	better := func(a, b uint32) bool {
		return cmp.Or(cmp.Compare(value[b], value[a]), cmp.Compare(p.use[a].all, p.use[b].all), bytes.Compare(l.packs[a][:], l.packs[b][:])) < 0
	}
	for from := 0; from < len(l.entries); from = l.copies(from) {
		to := l.copies(from)
		if !l.marked(from) {
			continue
		}
		best := -1
		for i := from; i < to; i++ {
			e := &l.entries[i]
			whole := p.sizes[e.pack] >= int64(e.Offset)+int64(e.Length)
			if whole && (best < 0 || better(e.pack, l.entries[best].pack)) {
				best = i
			}
		}
		e := &l.entries[from]
		if best < 0 {
			return fmt.Errorf("nothing was removed, because the repository is not whole: %s blob %s: %w: %s is missing or cut",
				e.kind, e.id.short(), ErrDamaged, packName(l.packs[e.pack]))
		}
		l.unmark(from)
		l.mark(best)
		p.use[l.entries[best].pack].used += int64(l.entries[best].Length)
		p.report.UsedBlobs++
		p.report.UsedBytes += int64(l.entries[best].Length)
	}
	return nil
}

// waste is how much of a pack is of no use.
func (p *pruner) waste(n int) int64 {
	u := p.use[n]
	header := int64(u.blobs*headerEntryCompressed + overhead + 4)
	return u.all - u.used + max(p.sizes[n]-u.all-header, 0) // what the index does not know is of no use either
}

// decide gives every pack its fate: the ones with most waste are rewritten until what is left is little
// enough, and small ones once there are many.
func (p *pruner) decide() {
	var wasteful []int
	small := map[bool][]int{}
	var waste int64
	for n := range p.use {
		u := &p.use[n]
		switch {
		case u.used == 0:
			u.fate = drop
		case p.waste(n) > 0:
			wasteful = append(wasteful, n)
			waste += p.waste(n)
		}
		if u.used > 0 && u.used < smallPack {
			small[u.tree] = append(small[u.tree], n)
		}
	}
	slices.SortFunc(wasteful, func(a, b int) int {
		return cmp.Compare(float64(p.waste(b))/float64(p.sizes[b]), float64(p.waste(a))/float64(p.sizes[a]))
	})
	for _, n := range wasteful {
		if float64(waste) <= p.o.MaxUnused*float64(p.report.UsedBytes) {
			break
		}
		p.use[n].fate = rewrite
		waste -= p.waste(n)
	}
	for _, packs := range small {
		if len(packs) < smallPacks {
			continue
		}
		for _, n := range packs {
			p.use[n].fate = rewrite
		}
	}
	for n, u := range p.use {
		if u.fate == keep {
			p.report.KeptPacks++
			p.report.UnusedBytes += p.waste(n)
		}
	}
}

// nobodyAdded looks for snapshots that came after the survey, which nobody may add while we hold the
// lock; a writer that had been taken for dead may. What its snapshot may need is brought back.
func (p *pruner) nobodyAdded(ctx context.Context) error {
	ids, err := p.repo.listIDs(ctx, snapshotDir)
	if err == nil {
		at := slices.IndexFunc(ids, func(id ID) bool { _, known := p.snapshots[id]; return !known })
		if at < 0 {
			return nil
		}
		err = fmt.Errorf("%w: snapshot %s was added meanwhile; no pack was removed", ErrLockLost, ids[at].short())
	}
	again := p.newIndexWriter(func(pack uint32) bool { return p.use[pack].fate != keep && p.sizes[pack] >= 0 })
	return errors.Join(err, again.writeAll(ctx))
}

// removePacks deletes the packs that are not needed and that no index names any more.
func (p *pruner) removePacks(ctx context.Context) error {
	doomed := p.unindexed
	for n, u := range p.use {
		switch {
		case u.fate == keep || p.sizes[n] < 0:
		case u.held:
			p.report.Retained++
			p.report.RetainedBytes += p.sizes[n]
		default:
			doomed = append(doomed, blob.Info{Name: packName(p.ledger.packs[n]), Size: p.sizes[n]})
		}
	}
	if len(doomed) == 0 {
		return nil
	}
	if err := p.lock.verify(ctx); err != nil {
		return err
	}
	done := 0
	err := blob.DeleteAll(ctx, p.repo.store, len(doomed), func(i int) string { return doomed[i].Name }, func(i int, retained bool) {
		if retained {
			p.report.Retained++
			p.report.RetainedBytes += doomed[i].Size
		} else {
			p.removed(doomed[i].Size)
		}
		done++
		p.say("removing packs", done, len(doomed))
	})
	if err != nil {
		return fmt.Errorf("remove pack: %w", err)
	}
	return nil
}

// RemoveSnapshots removes snapshots; what they alone named is removed by Prune. It says how many of
// them the store keeps until they may go.
func (m *Maintenance) RemoveSnapshots(ctx context.Context, ids []ID) (retained int, err error) {
	ctx, release := m.lock.bind(ctx)
	defer release()
	if err := m.lock.verify(ctx); err != nil {
		return 0, fmt.Errorf("remove snapshots: %w", err)
	}
	err = blob.DeleteAll(ctx, m.repo.store, len(ids), func(i int) string { return snapshotDir + ids[i].String() }, func(_ int, kept bool) {
		if kept {
			retained++
		}
	})
	if err != nil {
		return retained, fmt.Errorf("remove snapshot: %w", err)
	}
	return retained, nil
}
