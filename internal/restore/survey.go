package restore

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/kube"
)

// sight is what the survey saw of an object at the target.
type sight byte

const (
	unseen   sight = iota // to be looked at when its turn comes
	absent                // not there
	asWanted              // there, and as it should be
)

// survey looks at what is at the target before anything is written, so that what is not there costs one
// write and what is done already nothing. It remembers a byte of each object; one that differs is looked at
// again when its turn comes.
func (a *applier) survey(ctx context.Context, items []*item) error {
	a.sights = make([]sight, len(a.prepared.all))
	var many []*crowd
	for _, c := range a.crowds(items) {
		switch {
		case a.target.absent(c.kind, c.namespace):
			for _, it := range c.items {
				a.sights[it.index] = absent
			}
		case len(c.items) >= few && c.version != "":
			many = append(many, c)
		}
	}
	err := a.sweep(ctx, many, func(ctx context.Context, it *item, live *unstructured.Unstructured) error {
		if live == nil {
			a.sights[it.index] = absent
			return nil
		}
		if it.owns {
			a.remember(it.key, live.GetUID())
		}
		finished, err := a.finished(ctx, it, live)
		if finished {
			a.sights[it.index] = asWanted
		}
		return err
	}, func(*item, error) {}) // what is not listed, as while a conversion webhook is down, is waited for object by object
	if apierrors.IsForbidden(err) {
		return nil // who may not list may still read
	}
	return err
}

// take returns what was seen of an object, once: after that it may have changed.
func (a *applier) take(it *item) sight {
	s := a.sights[it.index]
	a.sights[it.index] = unseen
	return s
}

// finished says whether nothing is left to do about an object.
func (a *applier) finished(ctx context.Context, it *item, live *unstructured.Unstructured) (bool, error) {
	if live.GetDeletionTimestamp() != nil || !a.ours(live) {
		return false, nil
	}
	if fence, err := kube.UnfencePatch(live); err != nil || fence != nil {
		return false, nil //nolint:nilerr // it is said when its turn comes
	}
	t, want, err := a.attempt(ctx, it)
	if err != nil || len(t.form.owners) > 0 { // not all owners may have been seen yet
		return false, err
	}
	t.yield(want, live)
	return len(compare(want, live)) == 0 && !t.lacksStatus(live), nil
}

// ours says whether an object was put there by a restore of this application: by that of this very copy,
// where it could be the original's.
func (a *applier) ours(live *unstructured.Unstructured) bool {
	return str(live.Object, "metadata", "annotations", kube.LabelApplication) == a.opts.Application &&
		(live.GetNamespace() != "" || str(live.Object, "metadata", "annotations", kube.AnnotationCopy) == a.opts.Copy)
}
