package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Verify compares the target with the set, object by object, without changing anything. Problems name
// what is missing, what differs otherwise than by what the target fills in, and what is not ready;
// Unchanged counts the objects that are as they should be. The error is of a site that does not answer.
func (s *Set) Verify(ctx context.Context, c *kube.Client, opts Options) (dr.RestoreOutput, error) {
	v, err := s.newVerifier(ctx, c, opts)
	if err != nil {
		return dr.RestoreOutput{}, err
	}
	out := dr.RestoreOutput{Skipped: slices.Clone(v.prepared.Skipped)}
	var mu sync.Mutex
	found := func(it *item, problem string) {
		mu.Lock()
		defer mu.Unlock()
		if problem == "" {
			out.Unchanged++
			return
		}
		out.Problems = append(out.Problems, fmt.Sprintf("%s: %s", it.key, problem))
	}
	err = v.show(ctx, func(ctx context.Context, it *item, live *unstructured.Unstructured) error {
		problem, err := v.problemOf(ctx, it, live)
		if err == nil {
			found(it, problem)
		}
		return err
	}, func(it *item, err error) { found(it, "cannot be read: "+err.Error()) })
	slices.Sort(out.Problems)
	if err != nil {
		return dr.RestoreOutput{}, fmt.Errorf("comparing site %s with recovery point %s: %w", c.Site, opts.Point, err)
	}
	return out, nil
}

// verifier looks; it shares with applier how objects are found.
type verifier struct {
	*applier
	items []*item
	used  map[key]bool // claims that something uses that runs
	// addresses are those that the target gave; see learn.
	addresses []string
}

func (s *Set) newVerifier(ctx context.Context, c *kube.Client, opts Options) (*verifier, error) {
	a, err := s.applier(ctx, c, opts, nil)
	if err != nil {
		return nil, err
	}
	v := &verifier{applier: a, used: usedClaims(a.prepared)}
	for _, it := range a.prepared.items {
		if opts.Stage == "" || it.stage == opts.Stage {
			v.items = append(v.items, it)
		}
	}
	return v, nil
}

// show calls look for every item as the target has it, nil for one that is not there: many from lists, few
// one by one. It calls dark for those that the target says it cannot show, as while a conversion webhook is
// down.
func (v *verifier) show(ctx context.Context, look func(context.Context, *item, *unstructured.Unstructured) error, dark func(*item, error)) error {
	var many []*crowd
	var single []*item
	for _, c := range v.crowds(v.items) {
		from, to := v.prepared.set.ofKind(c.kind, c.namespace)
		if len(c.items) >= max(few, (to-from)/20) && c.version != "" { // few of many that were looked at before
			many = append(many, c)
		} else {
			single = append(single, c.items...)
		}
	}
	if err := v.sweep(ctx, many, look, dark); err != nil {
		return err
	}
	return v.each(ctx, single, func(ctx context.Context, it *item) error {
		leave, err := v.enter(ctx, it)
		if err != nil {
			return err
		}
		defer leave()
		live, err := v.read(ctx, it)
		if refused(err) {
			dark(it, err)
			return nil
		}
		if err != nil {
			return err
		}
		return look(ctx, it, live)
	})
}

func (v *verifier) problemOf(ctx context.Context, it *item, live *unstructured.Unstructured) (string, error) {
	if live == nil {
		return "missing", nil
	}
	if it.owns {
		v.remember(it.key, live.GetUID())
	}
	a, want, err := v.attempt(ctx, it)
	if err != nil {
		return "", err
	}
	if err := a.setOwners(ctx, want); err != nil {
		return "", err
	}
	a.yieldShared(want, live)
	diffs := compare(want, live)
	if !v.ours(live) && a.leaveAlone(live, diffs) != "" {
		diffs = nil // left as it was on purpose; Apply said so
	}
	if len(diffs) > 0 && pause(it.key.GroupKind, want) {
		diffs = compare(want, live) // until the cutover
	}
	if len(diffs) > 0 {
		diffs = a.lastingly(ctx, want, live, diffs)
	}
	if len(diffs) > 0 {
		return join(diffs), nil
	}
	if ready, state := v.ready(ctx, it, live); !ready {
		return state, nil
	}
	return "", nil
}

// ready judges an object; a claim that nothing uses is not expected to be bound where its class waits for a
// user, nor a load balancer to have an address where it had none.
func (v *verifier) ready(ctx context.Context, it *item, live *unstructured.Unstructured) (bool, string) {
	ready, state := kube.Ready(live)
	switch {
	case ready:
	case it.key.GroupKind == claimKind && !v.used[it.key] && v.target.classes[str(live.Object, "spec", "storageClassName")].waits:
		return true, "not bound; nothing uses it"
	case it.key.GroupKind == serviceKind && !it.addressed:
		return true, "without a load balancer's address, as it was"
	case strings.Contains(state, claimed):
		if by := v.claimer(ctx, live); by != "" {
			state += fmt.Sprintf(" (host %s: %s)", hostOf(live), by)
		}
	}
	return ready, state
}

// usedClaims are the claims that pods will use: those with replicas.
func usedClaims(p *Prepared) map[key]bool {
	used := map[key]bool{}
	for _, it := range p.items {
		if it.facts != nil && it.facts.idle {
			continue
		}
		for _, e := range it.needs {
			if claim := p.all[e.to].key; claim.GroupKind == claimKind && !e.owner {
				used[claim] = true
			}
		}
	}
	return used
}
