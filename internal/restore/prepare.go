package restore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Prepared is what will be applied: what of a Set is restored, in which order, and what is changed for the
// target, without having asked the target anything. The objects themselves are made one by one: see form.
type Prepared struct {
	Changes []Change
	Skipped []string // object: reason

	refused []string // what makes the whole impossible
	left    []Change // what Skipped says, object by object
	set     *Set
	opts    Options
	all     []item  // one for each object of the set, at the same index
	items   []*item // those that are restored, in order of key
}

// item is one object of the set on its way: what is known of it without its document.
type item struct {
	key     key
	index   int    // in the set
	skipped bool   // not restored
	asked   bool   // chosen itself, and not for what needs it
	fault   error  // why it cannot be made
	version string // of its API, as captured
	stage   dr.Stage
	needs   []edge
	facts   *facts // of those kinds of which more is asked
	// custom: its kind comes from a CRD of the set. autoscaled: a HorizontalPodAutoscaler sets its replicas.
	// adopted: it has an owner that comes in a later stage. owns: it is the owner of another.
	custom, autoscaled, adopted, owns bool
	addressed                         bool // a load balancer had given it an address
}

// edge is a need of another object of the set.
type edge struct {
	to    int  // index in the set
	firm  bool // to has to have succeeded
	owner bool // to is an owner
}

// form is an object as it is restored.
type form struct {
	obj        *unstructured.Unstructured // without owner references
	owners     []owner
	status     map[string]any // as captured; nil where it is not restored
	generation int64          // as captured
	left       string         // why it is not restored after all
	fault      error          // why it cannot be made
}

// owner is an owner reference whose UID means nothing at the target.
type owner struct {
	key key
	ref metav1.OwnerReference
}

// Len is the number of objects that are restored.
func (p *Prepared) Len() int { return len(p.items) }

// Each makes the objects that will be applied, in order of key; owner references come with the apply. What
// fn is given is its own.
func (p *Prepared) Each(ctx context.Context, fn func(*unstructured.Unstructured) error) error {
	for _, it := range p.items {
		f, err := p.form(ctx, it)
		if err != nil {
			return err
		}
		if err := fn(f.obj); err != nil {
			return err
		}
	}
	return nil
}

// Prepare decides what of the set is restored and what is changed for the target. It asks nobody but,
// for documents too large to be kept, the checkpoint.
func (s *Set) Prepare(ctx context.Context, opts Options) (*Prepared, error) {
	p := &Prepared{set: s, opts: opts.withDefaults(), all: make([]item, len(s.entries))}
	if !opts.Select.Empty() {
		var err error
		if p.opts.match, err = edit.NewMatcher(opts.Select); err != nil {
			return nil, dr.Errorf(dr.ClassUsage, err, "Correct it and run the command again; nothing was changed.", "cannot choose objects")
		}
	}
	workers := runtime.GOMAXPROCS(0)
	parts := make([]remarks, workers)
	g, ctx := errgroup.WithContext(ctx)
	for w := range parts {
		g.Go(func() error {
			for i := w * len(p.all) / workers; i < (w+1)*len(p.all)/workers; i++ {
				if err := p.prepare(ctx, i, &parts[w]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("preparing the restore: %w", err)
	}
	for _, part := range parts {
		p.Changes, p.left = append(p.Changes, part.changes...), append(p.left, part.skipped...)
	}
	for _, l := range p.left {
		p.Skipped = append(p.Skipped, l.Object+": "+l.What)
	}
	for i := range p.all {
		if !p.all[i].skipped {
			p.items = append(p.items, &p.all[i])
		}
	}
	p.relate()
	p.choose()
	return p, nil
}

// remarks are what is said of some objects.
type remarks struct {
	changes []Change
	skipped []Change // with the reason
}

func (p *Prepared) prepare(ctx context.Context, i int, r *remarks) error {
	captured, err := p.set.object(ctx, i)
	if err != nil {
		return err
	}
	it := &p.all[i]
	it.key, it.index = p.set.entries[i].key, i
	it.asked = p.asks(captured)
	if reason := p.set.skip(captured); reason != "" {
		if it.skipped = true; !it.asked {
			return nil
		}
		r.skipped = append(r.skipped, Change{it.key.String(), reason})
		return nil
	}
	it.stage, it.custom = stageOf(it.key.GroupKind), p.set.definitions[it.key.GroupKind] != nil
	it.addressed = len(maps(captured.Object, "status", "loadBalancer", "ingress")) > 0
	owners := p.set.ownersOf(captured)
	it.needs = p.set.edges(it, captured, owners)
	f := p.transform(it, captured, owners, func(what string) {
		r.changes = append(r.changes, Change{Object: it.key.String(), What: what})
	})
	it.fault = f.fault
	if f.left != "" {
		it.skipped = true
		r.skipped = append(r.skipped, Change{it.key.String(), f.left})
		return nil
	}
	it.version, it.facts = shared(f.obj.GroupVersionKind().Version), factsOf(it.key, f.obj)
	return nil
}

// form makes an item's object. It gives the same each time.
func (p *Prepared) form(ctx context.Context, it *item) (*form, error) {
	captured, err := p.set.object(ctx, it.index)
	if err != nil {
		return nil, err
	}
	return p.transform(it, captured, p.set.ownersOf(captured), func(string) {}), nil
}

// transform turns a captured object into what is restored of it.
func (p *Prepared) transform(it *item, captured *unstructured.Unstructured, owners []owner, note func(what string)) *form {
	f := &form{obj: captured, owners: owners, generation: captured.GetGeneration()}
	if it.custom && statusMatters(it.key.GroupKind) && p.opts.Status != dr.StatusSkip {
		f.status = dig(captured.Object, "status")
	}
	t := &transform{opts: p.opts, set: p.set, item: it, form: f, obj: captured, explicit: strings.Split(str(captured.Object, "metadata", "annotations", kube.AnnotationExplicit), ","),
		note: func(format string, args ...any) { note(fmt.Sprintf(format, args...)) }}
	t.all()
	return f
}

// relate fills in what an item can know only once all the others are there.
func (p *Prepared) relate() {
	for _, it := range p.items {
		if it.facts != nil {
			it.needs = append(it.needs, p.backendEdges(it)...)
			if scaled := p.item(it.facts.scales); scaled != nil {
				scaled.autoscaled = true
			}
		}
		for _, e := range it.needs {
			if owner := &p.all[e.to]; e.owner && !owner.skipped {
				owner.owns = true
				it.adopted = it.adopted || owner.stage == dr.StageWorkloads
			}
		}
	}
}

// size is that of an item's document, in bytes.
func (p *Prepared) size(it *item) int { return int(p.set.entries[it.index].ref.size) }

// item finds what is restored of the set under a key; nil where nothing is.
func (p *Prepared) item(k key) *item {
	if i := p.set.find(k); i >= 0 && !p.all[i].skipped {
		return &p.all[i]
	}
	return nil
}

// stage returns the items of one stage, with those of the foundation whose owners come only now.
func (p *Prepared) stage(stage dr.Stage) []*item {
	var out []*item
	for _, it := range p.items {
		if it.stage == stage || it.adopted && stage == dr.StageWorkloads || stage == dr.StageCutover && acts(it.key.GroupKind) {
			out = append(out, it)
		}
	}
	return out
}

func stages(stage dr.Stage) []dr.Stage {
	if stage != "" {
		return []dr.Stage{stage}
	}
	return []dr.Stage{dr.StageFoundation, dr.StageWorkloads}
}

// stageOf: the foundation is what runs nothing and starts nothing. Quotas and limits wait for the
// workloads, so that they do not stand in the way of the data's restore.
func stageOf(gk gk) dr.Stage {
	switch gk.String() {
	case "Namespace", "ServiceAccount", "ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim", "Service", "Endpoints",
		"EndpointSlice.discovery.k8s.io", "NetworkPolicy.networking.k8s.io", "PodDisruptionBudget.policy",
		"PriorityClass.scheduling.k8s.io", "CustomResourceDefinition.apiextensions.k8s.io",
		"Role.rbac.authorization.k8s.io", "RoleBinding.rbac.authorization.k8s.io",
		"ClusterRole.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io",
		"SecurityContextConstraints.security.openshift.io", "ImageStream.image.openshift.io":
		return dr.StageFoundation
	}
	return dr.StageWorkloads
}

// ownersOf resolves each owner reference to a key: by UID where the owner was captured, else by name.
func (s *Set) ownersOf(o *unstructured.Unstructured) []owner {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	out := make([]owner, 0, len(refs))
	for _, ref := range refs {
		k := key{GroupKind: groupKind(ref.APIVersion, ref.Kind), Name: ref.Name, Namespace: o.GetNamespace()}
		if i, captured := s.owners[ref.UID]; captured {
			k = s.entries[i].key
		}
		out = append(out, owner{key: k, ref: ref})
	}
	return out
}

// edges are an object's needs as far as the set has what is needed.
func (s *Set) edges(it *item, captured *unstructured.Unstructured, owners []owner) []edge {
	var out []edge
	join := func(n need, isOwner bool) {
		to := s.find(n.key)
		if to < 0 || to == it.index {
			return
		}
		if at := slices.IndexFunc(out, func(e edge) bool { return e.to == to }); at >= 0 {
			out[at].firm, out[at].owner = out[at].firm || n.firm, out[at].owner || isOwner
			return
		}
		out = append(out, edge{to, n.firm, isOwner})
	}
	for _, o := range owners {
		join(need{o.key, false}, true)
	}
	for _, n := range s.needs(it, captured) {
		join(n, false)
	}
	return slices.Clip(out)
}

// scaleTarget is what an autoscaler sets the replicas of: a HorizontalPodAutoscaler, or another kind that
// names its target in the same way (KEDA's ScaledObject, whose target is a Deployment where it says none).
func scaleTarget(o *unstructured.Unstructured) key {
	ref := dig(o.Object, "spec", "scaleTargetRef")
	if ref == nil {
		return key{}
	}
	kind := groupKind(str(ref, "apiVersion"), str(ref, "kind"))
	if kind.Kind == "" {
		kind = gk{Group: "apps", Kind: "Deployment"}
	}
	return key{GroupKind: kind, Namespace: o.GetNamespace(), Name: str(ref, "name")}
}
