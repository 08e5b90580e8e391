package restore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"lifeboat.dev/lifeboat/internal/kube"
)

const (
	// few objects of a kind in a namespace are read one by one: a list would bring what others have there.
	few = 8
	// lists are under way at once, each with a page that is read and one that is looked at.
	lists = 3
	// pageSize bounds a page, in bytes, as soon as it is known how large the objects are; a list begins with
	// a short one, for what others have there may be as large as objects can be.
	pageSize  = 512 << 10
	firstPage = 16  // objects
	fullPage  = 500 // objects
)

// site is the target as it can be looked at.
type site struct {
	client   *kube.Client
	direct   *direct
	target   *target
	prepared *Prepared
	opts     Options
	room     *semaphore.Weighted // for large documents, in bytes
}

// roomForLarge bounds the large documents that are on their way at once, in bytes; in memory each is there
// several times over.
const roomForLarge = 8 << 20

func newSite(c *kube.Client, t *target, p *Prepared) (*site, error) {
	direct, err := newDirect(c, p.opts.Workers)
	return &site{client: c, direct: direct, target: t, prepared: p, opts: p.opts, room: semaphore.NewWeighted(roomForLarge)}, err
}

// crowd are the items of one kind in one namespace.
type crowd struct {
	kind      gk
	version   string // in which the target serves them; empty: not at all
	namespace string
	items     []*item // in order of name
	size      int     // of their documents together
}

// crowds divides items.
func (a *site) crowds(items []*item) []*crowd {
	at := map[place]*crowd{}
	var out []*crowd
	for _, it := range items {
		version, _ := a.target.version(it.key.GroupKind, it.version)
		where := place{resource: schema.GroupVersionResource{Group: it.key.Group, Version: version.name, Resource: it.key.Kind}, namespace: it.key.Namespace}
		c := at[where]
		if c == nil {
			c = &crowd{kind: it.key.GroupKind, version: version.name, namespace: it.key.Namespace}
			at[where] = c
			out = append(out, c)
		}
		c.items, c.size = append(c.items, it), c.size+a.prepared.size(it)
	}
	for _, c := range out {
		slices.SortFunc(c.items, func(a, b *item) int { return strings.Compare(a.key.Name, b.key.Name) })
	}
	return out
}

// sweep shows the items as the target has them, from lists a page at a time: look is called for each item
// of the crowds, for many at once, with nil for one that is not there, and dark for those that the target
// does not list. What look is given is its own.
func (a *site) sweep(ctx context.Context, of []*crowd, look func(ctx context.Context, it *item, live *unstructured.Unstructured) error, dark func(*item, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lists)
	for _, c := range of {
		g.Go(func() error {
			seen, err := a.list(ctx, c, look)
			var unlisted *unlisted
			if !errors.As(err, &unlisted) || !refused(err) {
				return err
			}
			for i, it := range c.items {
				if !seen[i] {
					dark(it, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// unlisted is an error of a list itself, and not of what was done with it.
type unlisted struct{ error }

func (e *unlisted) Unwrap() error { return e.error }

// refused says whether it is of what was asked for that a site cannot answer, and not of the site.
func refused(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err)
}

// each calls do for every item, for many at once.
func (a *site) each(ctx context.Context, items []*item, do func(context.Context, *item) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.opts.Workers)
	for _, it := range items {
		g.Go(func() error { return do(ctx, it) })
	}
	return g.Wait()
}

// page is a part of a list.
type page struct {
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []map[string]any `json:"items"`
}

// list goes through a crowd's list. One that goes stale between two pages is begun again.
func (a *site) list(ctx context.Context, c *crowd, look func(context.Context, *item, *unstructured.Unstructured) error) (seen []bool, err error) {
	seen = make([]bool, len(c.items))
	looking, next := &errgroup.Group{}, ""
	limit := max(1, min(firstPage, pageSize*len(c.items)/c.size))
	defer looking.Wait() //nolint:errcheck // its error is returned below, where there is no other
	for restarts := 0; ; {
		p, size, err := a.page(ctx, c, limit, next)
		if apierrors.IsResourceExpired(err) && next != "" && restarts < 3 {
			next, restarts = "", restarts+1
			continue
		}
		if err != nil {
			return seen, &unlisted{fmt.Errorf("listing %s of namespace %q at site %s: %w", c.kind, c.namespace, a.client.Site, err)}
		}
		if err := looking.Wait(); err != nil {
			return seen, err
		}
		looking.Go(func() error { return c.show(ctx, p, seen, look) })
		if n := len(p.Items); n > 0 {
			limit = min(fullPage, 8*limit, max(1, pageSize*n/size))
		}
		if next = p.Metadata.Continue; next == "" {
			break
		}
	}
	if err := looking.Wait(); err != nil {
		return seen, err
	}
	for i, it := range c.items {
		if !seen[i] {
			if err := look(ctx, it, nil); err != nil {
				return seen, err
			}
		}
	}
	return seen, nil
}

func (a *site) page(ctx context.Context, c *crowd, limit int, next string) (page, int, error) {
	var p page
	params := []string{"limit", strconv.Itoa(limit)}
	if next != "" {
		params = append(params, "continue", next)
	}
	raw, err := a.direct.send(ctx, http.MethodGet, place{resource: a.target.gvr(c.kind, c.version), namespace: c.namespace}, nil, params...)
	if err != nil {
		return p, 0, err
	}
	return p, len(raw), utiljson.Unmarshal(raw, &p)
}

// show calls look for those on a page that are of the crowd, unless it was called before.
func (c *crowd) show(ctx context.Context, p page, seen []bool, look func(context.Context, *item, *unstructured.Unstructured) error) error {
	for i, m := range p.Items {
		live := &unstructured.Unstructured{Object: m}
		p.Items[i] = nil
		at, ok := slices.BinarySearchFunc(c.items, live.GetName(), func(it *item, name string) int { return strings.Compare(it.key.Name, name) })
		if !ok || seen[at] {
			continue
		}
		seen[at] = true
		live.SetAPIVersion(p.APIVersion) // items of a list do not say what they are
		live.SetKind(c.kind.Kind)
		if err := look(ctx, c.items[at], live); err != nil {
			return err
		}
	}
	return nil
}

// read gets one item at the target; nil where it, or its kind, is not there.
func (a *site) read(ctx context.Context, it *item) (*unstructured.Unstructured, error) {
	version, ok := a.target.version(it.key.GroupKind, it.version)
	if !ok {
		return nil, nil
	}
	live, err := a.endpoint(it.key, version.name).Get(ctx, it.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", it.key, err)
	}
	return live, nil
}

// enter waits for room for an item's document, and returns how it is given back.
func (a *site) enter(ctx context.Context, it *item) (leave func(), err error) {
	size := int64(min(a.prepared.size(it), roomForLarge))
	if size < largeDocument {
		return func() {}, nil
	}
	if err := a.room.Acquire(ctx, size); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { a.room.Release(size) }, nil
}
