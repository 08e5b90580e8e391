package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

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
	err = v.each(ctx, func(ctx context.Context, it *item) error {
		problem, err := v.problemOf(ctx, it)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			return err
		case problem != "":
			out.Problems = append(out.Problems, fmt.Sprintf("%s: %s", it.key, problem))
		default:
			out.Unchanged++
		}
		return nil
	})
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
	opts = opts.withDefaults()
	p, err := s.Prepare(ctx, opts)
	if err != nil {
		return nil, err
	}
	t, err := inspect(ctx, c, s.Meta.Namespaces)
	if err != nil {
		return nil, err
	}
	v := &verifier{
		applier: &applier{client: c, target: t, prepared: p, opts: opts, uids: map[key]types.UID{}},
		used:    usedClaims(p),
	}
	for _, it := range p.items {
		if opts.Stage == "" || it.stage == opts.Stage {
			v.items = append(v.items, it)
		}
	}
	return v, nil
}

func (v *verifier) each(ctx context.Context, do func(context.Context, *item) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(v.opts.Workers)
	for _, it := range v.items {
		g.Go(func() error { return do(ctx, it) })
	}
	return g.Wait()
}

// get reads an item at the target; nil where it, or its kind, is not there.
func (v *verifier) get(ctx context.Context, it *item) (*unstructured.Unstructured, servedVersion, error) {
	version, ok := v.target.version(it.key.GroupKind, it.version)
	if !ok {
		return nil, version, nil
	}
	live, err := v.endpoint(it.key, version.name).Get(ctx, it.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, version, nil
	}
	if err != nil {
		return nil, version, fmt.Errorf("reading %s: %w", it.key, err)
	}
	return live, version, nil
}

func (v *verifier) problemOf(ctx context.Context, it *item) (string, error) {
	live, version, err := v.get(ctx, it)
	if err != nil {
		return "", err
	}
	if live == nil {
		return "missing", nil
	}
	f, err := v.prepared.form(ctx, it)
	if err != nil {
		return "", err
	}
	a, want := &attempt{applier: v.applier, item: it, form: f, version: version, api: v.endpoint(it.key, version.name)}, f.obj
	if err := a.setOwners(ctx, want); err != nil {
		return "", err
	}
	a.yieldShared(want, live)
	diffs := compare(want, live)
	ours := live.GetAnnotations()[kube.LabelApplication] == v.opts.Application
	if !ours && a.leaveAlone(live, diffs) != "" {
		diffs = nil // left as it was on purpose; Apply said so
	}
	if len(diffs) > 0 && !a.settled(ctx, want, live) {
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
