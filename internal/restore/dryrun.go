package restore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Outcome is what a restore would do about an object.
type Outcome string

// The outcomes.
const (
	Created   Outcome = "created"
	Changed   Outcome = "changed"
	Replaced  Outcome = "replaced"  // deleted, and made anew
	Unchanged Outcome = "unchanged" // it is there, and as it should be
	Kept      Outcome = "kept"      // it is there, or will be, and is left to whose it is
	Skipped   Outcome = "skipped"   // the recovery point has it, and it is not restored
	Refused   Outcome = "refused"   // the target does not take it, or what it needs
	Waits     Outcome = "waits"     // for something that the target lacks now; what comes then is not known
)

// Outcomes are all of them, in the order in which a person wants to know.
func Outcomes() []Outcome {
	return []Outcome{Refused, Waits, Replaced, Changed, Created, Kept, Skipped, Unchanged}
}

// Foreseen is what a restore would do about one object.
type Foreseen struct {
	Object  string  `json:"object"` // "Deployment shop/web"
	Outcome Outcome `json:"outcome"`
	// Reason says why it is replaced, kept, skipped or refused, or what it waits for.
	Reason string `json:"reason,omitempty"`
	// Untried says why the target was not asked whether it takes the object, where it was not.
	Untried string   `json:"untried,omitempty"`
	Notes   []string `json:"notes,omitempty"` // what is made different for the target
	// Fields are those of one that is there and would become different; secrets are masked.
	Fields []diff.Field `json:"fields,omitempty"`
}

// Forecast sums a dry run up.
type Forecast struct {
	Counts map[Outcome]int `json:"counts"`
	// NotChosen counts the objects of the recovery point that were neither asked for nor are needed.
	NotChosen int `json:"notChosen,omitempty"`
	// Obstacles are what a restore would stop for, before it changes anything.
	Obstacles []string `json:"obstacles,omitempty"`
	// Waits are what it would wait for, or go on without, whatever the objects are.
	Waits []string `json:"waits,omitempty"`
}

// DryRun says for every object of the set what Apply would do about it, and changes nothing: it goes the same
// way, and where Apply writes it has the target try the write without effect. Nothing is waited for. tell is
// called once for each object, in no order, never twice at once; progress may be nil. The error is of a site
// that does not answer, or of tell.
func (s *Set) DryRun(ctx context.Context, c *kube.Client, opts Options, progress func(Progress), tell func(Foreseen) error) (Forecast, error) {
	d, err := s.newDryRun(ctx, c, opts, progress, tell)
	if err != nil {
		return Forecast{}, err
	}
	if d.sum.Obstacles, err = d.target.obstacles(ctx, c, d.prepared); err != nil {
		return Forecast{}, err
	}
	for _, l := range d.prepared.left {
		if err := d.says(Foreseen{Object: l.Object, Outcome: Skipped, Reason: l.What}); err != nil {
			return Forecast{}, err
		}
	}
	stages := d.stages()
	all := slices.Concat(stages...)
	d.total = len(all)
	if err := d.survey(ctx, all); err != nil {
		return Forecast{}, fmt.Errorf("looking at what is at site %s: %w", c.Site, err)
	}
	for _, items := range stages {
		if err := newGraph(d.prepared, items).run(ctx, d.opts.Workers, d.do); err != nil {
			return Forecast{}, fmt.Errorf("asking site %s what a restore would change (%d of %d objects asked for): %w", c.Site, d.done, d.total, err)
		}
	}
	return d.sum, nil
}

// dryRun is an applier that writes nothing.
type dryRun struct {
	*applier
	tell   func(Foreseen) error
	mapped map[string][]string // by object

	telling sync.Mutex
	sum     Forecast
	coming  map[int]bool // what would be created, by index in the set
}

func (s *Set) newDryRun(ctx context.Context, c *kube.Client, opts Options, progress func(Progress), tell func(Foreseen) error) (*dryRun, error) {
	a, err := s.applier(ctx, c, opts, progress)
	if err != nil {
		return nil, err
	}
	t, p := a.target, a.prepared
	t.willServe(p)
	d := &dryRun{applier: a, tell: tell, mapped: map[string][]string{}, coming: map[int]bool{}, sum: Forecast{Counts: map[Outcome]int{}, NotChosen: p.notChosen(), Waits: t.waits(p)}}
	for name := range t.terminating { // a restore waits until it is gone, with all that is in it
		delete(t.namespaces, name)
	}
	for _, change := range p.Changes {
		d.mapped[change.Object] = append(d.mapped[change.Object], change.What)
	}
	return d, nil
}

// stages are the items in the order of a restore. What it looks at twice, as its owner comes later, is looked
// at after its owner.
func (d *dryRun) stages() [][]*item {
	if d.opts.Stage != "" {
		return [][]*item{d.prepared.stage(d.opts.Stage)}
	}
	foundation := slices.DeleteFunc(d.prepared.stage(dr.StageFoundation), func(it *item) bool { return it.adopted })
	return [][]*item{foundation, d.prepared.stage(dr.StageWorkloads)}
}

// do foresees one item; it is called as applier's do is.
func (d *dryRun) do(ctx context.Context, it, blocked *item) (verdict, error) {
	if blocked == nil {
		blocked = d.failedNeed(it)
	}
	f := Foreseen{Object: it.key.String(), Outcome: Refused, Notes: slices.Clone(d.mapped[it.key.String()])}
	if blocked != nil {
		f.Reason = fmt.Sprintf("it needs %s, which is refused", blocked.key)
	} else if err := d.foresee(ctx, it, &f); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return verdict{}, err
	}
	switch f.Outcome {
	case Refused:
		d.problem(it, errors.New(f.Reason))
	case Created:
		d.mu.Lock()
		d.coming[it.index] = true
		d.mu.Unlock()
	}
	d.ended(it)
	return verdict{ok: f.Outcome != Refused}, d.says(f)
}

func (d *dryRun) says(f Foreseen) error {
	d.telling.Lock()
	defer d.telling.Unlock()
	d.sum.Counts[f.Outcome]++
	return d.tell(f)
}

// foresee goes the way that object goes, past what is waited for there.
func (d *dryRun) foresee(ctx context.Context, it *item, f *Foreseen) error {
	why, err := d.leftAlone(ctx, it)
	if err != nil {
		return err
	}
	if why != "" {
		f.Outcome, f.Reason = Kept, why
		return nil
	}
	if _, ok := d.target.version(it.key.GroupKind, it.version); !ok && d.target.mayServe(it.key.GroupKind) {
		f.Outcome, f.Reason = Waits, "the API server of its group does not answer"
		if d.target.awaited[it.key.Group] {
			f.Outcome, f.Reason, f.Untried = Created, "", "the API server of its group comes with it"
		}
		return nil
	}
	dry := &foresight{}
	res, notes, err := d.put(ctx, it, dry)
	if err != nil {
		return d.fails(ctx, it, dry, f, err)
	}
	f.Untried = dry.untried
	switch res {
	case unchanged:
		f.Outcome = Unchanged
	case created:
		f.Outcome = Created
	case updated, replaced:
		f.Outcome, f.Fields = Changed, dry.fields()
		if res == replaced {
			f.Outcome, f.Reason, notes = Replaced, strings.Join(notes, "; "), nil
		}
	case kept:
		f.Outcome, f.Reason, notes = Kept, strings.Join(notes, "; "), nil
	}
	f.Notes = append(f.Notes, notes...)
	return d.holds(ctx, it, f)
}

// fails says what a failure means for the object; an error where it is the site's.
func (d *dryRun) fails(ctx context.Context, it *item, dry *foresight, f *Foreseen, err error) error {
	var status apierrors.APIStatus
	var waits *notReady
	answered := errors.As(err, &status) && !apierrors.IsUnauthorized(err)
	switch {
	case ctx.Err() != nil, unreachable(err):
		return err
	case errors.Is(err, errDeleting):
		f.Outcome, f.Untried = Created, "what is there is being deleted"
	case dry.before == nil && d.lacks(it, err):
		f.Outcome, f.Untried = Created, "what it needs is not there yet: "+brief(err)
	case undryable(err) && dry.before == nil:
		f.Outcome, f.Untried = Created, err.Error()
	case undryable(err):
		f.Outcome, f.Untried = Changed, err.Error()
	case passing(err) && (answered || errors.As(err, &waits) || errors.Is(err, context.DeadlineExceeded)):
		f.Outcome, f.Reason = Waits, brief(err)
	default:
		f.Outcome, f.Reason = Refused, brief(err)
	}
	return nil
}

// lacks says whether an error is of something that would be there by the time that the object is made.
func (d *dryRun) lacks(it *item, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(it.needs, func(e edge) bool {
		return d.coming[e.to] && strings.Contains(err.Error(), d.prepared.all[e.to].key.Name)
	})
}

// dump is how an API server prints a part of an object that it refuses, secrets and all.
var dump = regexp.MustCompile(`\b([a-z]\w*\.[A-Z]\w*)\{.*\}`)

// brief is an error without what it prints of the object.
func brief(err error) string { return dump.ReplaceAllString(err.Error(), "$1{…}") }

// holds notes what becomes of a claim's volume: see volumes.
func (d *dryRun) holds(ctx context.Context, it *item, f *Foreseen) error {
	if it.key.GroupKind != claimKind || f.Outcome != Changed && f.Outcome != Unchanged {
		return nil
	}
	claim, err := d.read(ctx, it)
	if err != nil || claim == nil || str(claim.Object, "spec", "volumeName") == "" {
		return err
	}
	pv, err := d.client.Typed.CoreV1().PersistentVolumes().Get(ctx, str(claim.Object, "spec", "volumeName"), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the volume of %s: %w", it.key, err)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == "Delete" {
		f.Notes = append(f.Notes, fmt.Sprintf("the reclaim policy of its volume %s becomes Retain until the restore is verified", pv.Name))
	}
	return nil
}

// fields are those that would become different.
func (f *foresight) fields() []diff.Field {
	if f.before == nil || f.after == nil {
		return nil
	}
	out := diff.Fields(f.before.Object, f.after.Object, diff.Options{})
	if len(f.status) > 0 {
		out = append(out, diff.Field{Path: "status", Op: diff.Added, After: f.status})
	}
	return out
}
