package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Preflight says, without changing anything, what stands in the way of restoring the set: one sentence
// each, empty when nothing does. It looks at both stages whatever opts.Stage says.
func (s *Set) Preflight(ctx context.Context, c *kube.Client, opts Options) ([]string, error) {
	a, err := s.applier(ctx, c, opts, nil)
	if err != nil {
		return nil, err
	}
	t, p := a.target, a.prepared
	t.willServe(p)
	obstacles, err := t.obstacles(ctx, c, p)
	return append(t.waits(p), obstacles...), err
}

// waits are what a restore waits for before it changes anything, or goes on without.
func (t *target) waits(p *Prepared) []string {
	out := t.silent(p)
	for name, ns := range t.terminating {
		out = append(out, fmt.Sprintf("namespace %s is being deleted at site %s%s", name, t.site, kube.NamespaceBlockers(ns)))
	}
	slices.Sort(out)
	return out
}

// obstacles are what no waiting helps against.
func (t *target) obstacles(ctx context.Context, c *kube.Client, p *Prepared) ([]string, error) {
	refused, err := t.trials(ctx, c, p)
	if err != nil {
		return nil, fmt.Errorf("asking site %s what it would accept: %w", t.site, err)
	}
	return append(slices.Concat(p.refused, t.lacks(p)), refused...), nil
}

// lacks are what the target has not, though objects need it.
func (t *target) lacks(p *Prepared) []string {
	var out []string
	missing := map[string][]string{} // what the target lacks → who needs it
	for _, it := range p.items {
		for _, lack := range t.lacksFor(it) {
			missing[lack] = append(missing[lack], it.key.String())
		}
		if it.facts != nil && it.facts.unserved != "" {
			out = append(out, fmt.Sprintf("%s %s", it.key, it.facts.unserved))
		}
	}
	for lack, by := range missing {
		slices.Sort(by)
		more := ""
		if len(by) > 3 {
			more = fmt.Sprintf(" and %d more", len(by)-3)
			by = by[:3]
		}
		out = append(out, fmt.Sprintf("%s: needed by %s%s", lack, strings.Join(by, ", "), more))
	}
	slices.Sort(out)
	return out
}

// lacksFor are what the target does not have and the item needs.
func (t *target) lacksFor(it *item) []string {
	var out []string
	if f := it.facts; f != nil {
		for _, class := range f.classes {
			if _, ok := t.classes[class]; !ok && class != "" {
				out = append(out, fmt.Sprintf("storage class %s does not exist at site %s; map it in spec.storageClasses of the site (it has %s)", class, t.site, t.classNames()))
			}
		}
		if f.unclassed && t.defaultClass == "" {
			out = append(out, fmt.Sprintf("site %s has no default storage class", t.site))
		}
	}
	kind := it.key.GroupKind
	if _, ok := t.version(kind, ""); !ok && !t.mayServe(kind) {
		out = append(out, fmt.Sprintf("site %s does not serve kind %s", t.site, kind))
	}
	return out
}

// mayServe says whether a kind that the target does not serve may be served in a while.
func (t *target) mayServe(kind gk) bool {
	return t.failed[kind.Group] != nil || t.awaited[kind.Group]
}

// silent are the groups that do not answer at the moment, though objects are of them. A restore waits for
// them, and goes on with the rest.
func (t *target) silent(p *Prepared) []string {
	waiting := map[string]int{}
	for _, it := range p.items {
		if _, ok := t.version(it.key.GroupKind, ""); !ok && t.failed[it.key.Group] != nil {
			waiting[it.key.Group]++
		}
	}
	var out []string
	for group, n := range waiting {
		out = append(out, fmt.Sprintf("site %s does not serve group %s at the moment, of which %d objects are (%v)", t.site, group, n, t.failed[group]))
	}
	return out
}

func (t *target) classNames() string {
	if len(t.classes) == 0 {
		return "none"
	}
	names := make([]string, 0, len(t.classes))
	for n := range t.classes {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// awaitGone waits for namespaces that are being deleted: nothing can be made in them until they are gone.
func (t *target) awaitGone(ctx context.Context, c *kube.Client, opts Options, say func(Progress)) error {
	if len(t.terminating) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, opts.GateTimeout)
	defer cancel()
	for name := range t.terminating {
		say(Progress{Object: "Namespace " + name, Waiting: "its deletion to end"})
		r := c.Dynamic.Resource(t.gvr(namespaceKind, "v1"))
		err := kube.WaitFor(ctx, fmt.Sprintf("the deletion of namespace %s at site %s to end", name, t.site), 250*time.Millisecond,
			func(ctx context.Context) (bool, string, error) {
				ns, err := r.Get(ctx, name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return true, "", nil
				}
				if err != nil {
					return false, err.Error(), nil
				}
				return str(ns.Object, "status", "phase") != "Terminating", blocker(ns), nil
			})
		if err != nil {
			return dr.Errorf(dr.ClassBlocked, err, "Remove what keeps the namespace (a finalizer whose controller is gone, an API that does not answer), then run this again.",
				"namespace %s is still being deleted at site %s", name, t.site)
		}
	}
	return nil
}

func blocker(ns *unstructured.Unstructured) string {
	if why := kube.NamespaceBlockers(ns); why != "" {
		return "Terminating" + why
	}
	return "Terminating"
}
