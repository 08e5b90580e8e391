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

	"lifeboat.dev/lifeboat/internal/kube"
)

// trials asks the target, without changing anything there, whether it takes what may not fit it: CRDs that
// are new to it, and objects of a version that it does not serve. Whoever it refuses is named.
func (t *target) trials(ctx context.Context, c *kube.Client, p *Prepared) ([]string, error) {
	var mu sync.Mutex
	var out []string
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.opts.Workers)
	fresh := map[key]bool{}
	for kind, d := range p.set.definitions {
		fresh[d.key] = t.coming[kind]
	}
	for _, it := range p.items {
		version, as := t.doubtful(it)
		if fresh[it.key] {
			version, as = it.version, ""
		}
		if version == "" {
			continue
		}
		g.Go(func() error {
			f, err := p.form(ctx, it)
			if err != nil {
				return err
			}
			refused, err := t.try(ctx, c, it, f.obj, version)
			if err != nil {
				return err
			}
			if refused != nil {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, fmt.Sprintf("%s is not accepted by site %s%s: %v", it.key, t.site, as, refused))
			}
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(out)
	return out, err
}

// doubtful says in which version an object has to be tried; empty: it need not be.
func (t *target) doubtful(it *item) (version, as string) {
	own := it.version
	v, ok := t.version(it.key.GroupKind, own)
	if !ok || v.name == own || t.coming[it.key.GroupKind] {
		return "", ""
	}
	return v.name, fmt.Sprintf(" in version %s, which it serves instead of %s", v.name, own)
}

// try applies an object to nothing. Only a refusal of the object itself counts.
func (t *target) try(ctx context.Context, c *kube.Client, it *item, obj *unstructured.Unstructured, version string) (refused, err error) {
	obj.SetGroupVersionKind(it.key.WithVersion(version))
	_, err = c.Dynamic.Resource(t.gvr(it.key.GroupKind, version)).Namespace(it.key.Namespace).
		Apply(ctx, it.key.Name, obj, metav1.ApplyOptions{FieldManager: kube.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return nil, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case undryable(err):
		return nil, nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), strings.Contains(err.Error(), typedPatch):
		return err, nil
	}
	return nil, nil //nolint:nilerr // it may pass: the restore itself will tell
}

// undryable says whether the target only could not be asked: a webhook that would do more than answer is not
// called for something without effect.
func undryable(err error) bool {
	return err != nil && strings.Contains(err.Error(), "does not support dry run")
}

// lastingly leaves, of what differs, what would be changed if the object were restored again. The rest is
// what the target makes of it each time, as a webhook that rewrites images does.
func (t *attempt) lastingly(ctx context.Context, want, live *unstructured.Unstructured, diffs []string) []string {
	want.SetGroupVersionKind(t.item.key.WithVersion(t.version.name))
	now, err := t.api.Apply(ctx, want.GetName(), want, metav1.ApplyOptions{FieldManager: kube.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return diffs
	}
	return compare(stable(now), stable(live))
}

// settled says whether the target would leave an object as it is if it were restored again.
func (t *attempt) settled(ctx context.Context, want, live *unstructured.Unstructured) bool {
	return len(t.lastingly(ctx, want, live, []string{"not known"})) == 0
}

// stable is an object without what each write changes.
func stable(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
		remove(o.Object, "metadata", field)
	}
	return o
}
