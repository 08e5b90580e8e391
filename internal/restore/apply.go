package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Apply restores the objects of opts.Stage (empty: both) in the order in which they need each other. What
// Preflight would find stops it (class blocked) before anything is changed. An object that cannot be
// restored is a problem by name; what does not need it goes on, and the error at the end (class
// incomplete) sums the problems up. Apply is idempotent: started again it finds what is done. progress
// may be nil; it is never called twice at once.
func (s *Set) Apply(ctx context.Context, c *kube.Client, opts Options, progress func(Progress)) (dr.RestoreOutput, error) {
	a, err := s.applier(ctx, c, opts, progress)
	if err != nil {
		return dr.RestoreOutput{}, err
	}
	t, p, opts := a.target, a.prepared, a.opts
	if err := t.awaitGone(ctx, c, opts, a.say); err != nil {
		return dr.RestoreOutput{}, err
	}
	t.willServe(p)
	obstacles, err := t.obstacles(ctx, c, p)
	if err != nil {
		return dr.RestoreOutput{}, err
	}
	if len(obstacles) > 0 {
		return dr.RestoreOutput{Problems: obstacles}, dr.Errorf(dr.ClassBlocked, fmt.Errorf("%s", strings.Join(obstacles, "; ")),
			"Remove the obstacle, then run this again; nothing has been changed.",
			"application %s cannot be restored to site %s", opts.Application, opts.To.Name)
	}
	lists := make([][]*item, 0, 2)
	for _, stage := range stages(opts.Stage) {
		lists = append(lists, p.stage(stage))
		a.total += len(lists[len(lists)-1])
	}
	if err := a.survey(ctx, slices.Concat(lists...)); err != nil {
		return dr.RestoreOutput{}, fmt.Errorf("looking at what is at site %s before restoring application %s: %w", opts.To.Name, opts.Application, err)
	}
	for _, items := range lists {
		if err := newGraph(p, items).run(ctx, opts.Workers, a.do); err != nil {
			return a.output(), fmt.Errorf("restoring application %s to site %s (%d of %d objects done): %w", opts.Application, opts.To.Name, a.done, a.total, err)
		}
	}
	if opts.Stage != dr.StageCutover { // which comes after the verification
		if err := (volumes{a}).hold(ctx); err != nil {
			return a.output(), err
		}
	}
	out := a.output()
	if n := len(out.Problems); n > 0 {
		return out, dr.Errorf(dr.ClassIncomplete, fmt.Errorf("%s", strings.Join(out.Problems[:min(n, 5)], "; ")),
			"Remove the cause, then run this again: what is restored stays.",
			"%d of %d objects of application %s could not be restored to site %s", n, a.total, opts.Application, opts.To.Name)
	}
	return out, nil
}

// applier is the state of one Apply; its mutex guards what many objects write at once.
type applier struct {
	*site
	progress func(Progress)
	total    int
	patience patience
	sights   []sight // by index in the set

	mu     sync.Mutex
	done   int
	out    dr.RestoreOutput
	failed map[int]bool      // by index in the set
	uids   map[key]types.UID // of what was applied or looked up, at the target
}

// applier prepares the set, and finds out about the site, before anything is decided.
func (s *Set) applier(ctx context.Context, c *kube.Client, opts Options, progress func(Progress)) (*applier, error) {
	opts, err := opts.ready(ctx, c)
	if err != nil {
		return nil, err
	}
	p, err := s.Prepare(ctx, opts)
	if err != nil {
		return nil, err
	}
	t, err := inspect(ctx, c, s.Meta.Namespaces)
	if err != nil {
		return nil, err
	}
	at, err := newSite(c, t, p)
	return &applier{site: at, progress: progress, uids: map[key]types.UID{}}, err
}

// result is what became of one object.
type result int

const (
	unchanged result = iota
	created
	updated
	replaced // deleted, and made anew
	kept     // somebody else's, and left alone
)

// do tries to restore one item; its failures are problems, not errors, unless ctx is done. One that may
// pass is tried again.
func (a *applier) do(ctx context.Context, it, blocked *item) (verdict, error) {
	if blocked == nil {
		blocked = a.failedNeed(it)
	}
	if blocked != nil {
		a.problem(it, fmt.Errorf("not restored, because it needs %s, which failed", blocked.key))
		a.ended(it)
		return verdict{}, nil
	}
	res, notes, err := a.object(ctx, it)
	if ctx.Err() != nil && err != nil {
		return verdict{}, context.Cause(ctx)
	}
	if err == nil {
		a.patience.over(it)
		a.count(it, res, notes)
		a.ended(it)
		return verdict{ok: true}, nil
	}
	if pause := a.patience.with(it, err, a.opts); pause > 0 {
		a.waits(it, err.Error())
		return verdict{again: pause}, nil
	}
	if passing(err) {
		err = fmt.Errorf("gave up after %s: %w", a.opts.GateTimeout, err)
	}
	a.problem(it, err)
	a.ended(it)
	return verdict{}, nil
}

// failedNeed is what an item needs firmly and an earlier stage could not restore.
func (a *applier) failedNeed(it *item) *item {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range it.needs {
		if e.firm && a.failed[e.to] {
			return &a.prepared.all[e.to]
		}
	}
	return nil
}

func (a *applier) problem(it *item, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = map[int]bool{}
	}
	a.failed[it.index] = true
	a.out.Problems = append(a.out.Problems, fmt.Sprintf("%s: %v", it.key, err))
}

func (a *applier) count(it *item, res result, notes []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch res {
	case created:
		a.out.Created++
	case updated, replaced:
		a.out.Updated++
	case unchanged:
		a.out.Unchanged++
	case kept:
		a.out.Skipped = append(a.out.Skipped, fmt.Sprintf("%s: %s", it.key, strings.Join(notes, "; ")))
		return
	}
	for _, n := range notes {
		a.out.Notes = append(a.out.Notes, fmt.Sprintf("%s: %s", it.key, n))
	}
}

func (a *applier) ended(it *item) {
	a.mu.Lock()
	a.done++
	p := Progress{Done: a.done, Total: a.total, Object: it.key.String()}
	a.mu.Unlock()
	a.say(p)
}

// waits says that an object waits for something.
func (a *applier) waits(it *item, what string) {
	a.mu.Lock()
	p := Progress{Done: a.done, Total: a.total, Object: it.key.String(), Waiting: what}
	a.mu.Unlock()
	a.say(p)
}

func (a *applier) say(p Progress) {
	if a.progress == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress(p)
}

// output is the sum, with what Prepare left out and changed.
func (a *applier) output() dr.RestoreOutput {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.out
	out.Skipped = append(slices.Clone(a.out.Skipped), a.prepared.Skipped...)
	out.Notes = slices.Clone(a.out.Notes)
	for _, c := range a.prepared.Changes {
		out.Notes = append(out.Notes, c.Object+": "+c.What)
	}
	slices.Sort(out.Skipped)
	slices.Sort(out.Notes)
	slices.Sort(out.Problems)
	return out
}
