package restore

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Prepared is what will be applied: every object of a Set, made fit for the target, without having asked
// the target anything.
type Prepared struct {
	Changes []Change
	Skipped []string // object: reason
	items   []*item  // in order of key
	byKey   map[key]*item
	// definitions are the CRDs by the kind that they define; limits the quotas and limits of each
	// namespace, which shape pods as they are made.
	definitions map[gk]key
	limits      map[string][]need
}

// item is one object to be restored.
type item struct {
	key        key
	obj        *unstructured.Unstructured // without owner references
	stage      dr.Stage
	owners     []owner
	custom     bool           // its kind comes from a CRD of the set
	status     map[string]any // as captured; nil where it is not restored
	generation int64          // as captured
	autoscaled bool           // a HorizontalPodAutoscaler sets its replicas
}

// owner is an owner reference whose UID means nothing at the target.
type owner struct {
	key key
	ref metav1.OwnerReference
}

// Objects returns copies of what will be applied, in order of key.
func (p *Prepared) Objects() []*unstructured.Unstructured {
	out := make([]*unstructured.Unstructured, 0, len(p.items))
	for _, it := range p.items {
		out = append(out, it.obj.DeepCopy())
	}
	return out
}

// Prepare decides what of the set is restored and changes it for the target. It is pure.
func (s *Set) Prepare(opts Options) *Prepared {
	opts = opts.withDefaults()
	p := &Prepared{byKey: map[key]*item{}, definitions: map[gk]key{}, limits: map[string][]need{}}
	for _, captured := range s.objects {
		k := keyOf(captured)
		if reason := s.skip(captured); reason != "" {
			p.Skipped = append(p.Skipped, fmt.Sprintf("%s: %s", k, reason))
			continue
		}
		it := &item{
			key: k, obj: captured.DeepCopy(), stage: stageOf(k.GroupKind),
			owners: s.ownersOf(captured), custom: s.definitions[k.GroupKind] != nil, generation: captured.GetGeneration(),
		}
		if it.custom {
			it.status, _, _ = unstructured.NestedMap(captured.Object, "status")
		}
		t := &transform{opts: opts, set: s, item: it, obj: it.obj, note: func(format string, args ...any) {
			p.Changes = append(p.Changes, Change{Object: k.String(), What: fmt.Sprintf(format, args...)})
		}}
		t.all()
		p.items = append(p.items, it)
		p.byKey[k] = it
		p.index(it)
	}
	p.markAutoscaled()
	return p
}

func (p *Prepared) index(it *item) {
	switch it.key.GroupKind {
	case crdKind:
		p.definitions[gk{Group: str(it.obj.Object, "spec", "group"), Kind: str(it.obj.Object, "spec", "names", "kind")}] = it.key
	case gk{Kind: "LimitRange"}, gk{Kind: "ResourceQuota"}:
		p.limits[it.key.Namespace] = append(p.limits[it.key.Namespace], need{it.key, false})
	}
}

// stage returns the items of one stage, with those of the foundation whose owners come only now.
func (p *Prepared) stage(stage dr.Stage) []*item {
	var out []*item
	for _, it := range p.items {
		adopted := stage == dr.StageWorkloads && slices.ContainsFunc(it.owners, func(o owner) bool {
			owner := p.byKey[o.key]
			return owner != nil && owner.stage == dr.StageWorkloads
		})
		if it.stage == stage || adopted {
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
	case "Namespace", "ServiceAccount", "ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "Endpoints",
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
	out := make([]owner, 0, len(refs))
	for _, ref := range refs {
		k, captured := s.byUID[ref.UID]
		if !captured {
			k = key{GroupKind: groupKind(ref.APIVersion, ref.Kind), Name: ref.Name, Namespace: o.GetNamespace()}
		}
		out = append(out, owner{key: k, ref: ref})
	}
	return out
}

// markAutoscaled remembers whose replicas are an autoscaler's business.
func (p *Prepared) markAutoscaled() {
	for _, it := range p.items {
		if it.key.Kind != "HorizontalPodAutoscaler" {
			continue
		}
		target := key{
			GroupKind: groupKind(str(it.obj.Object, "spec", "scaleTargetRef", "apiVersion"), str(it.obj.Object, "spec", "scaleTargetRef", "kind")),
			Namespace: it.key.Namespace, Name: str(it.obj.Object, "spec", "scaleTargetRef", "name"),
		}
		if scaled := p.byKey[target]; scaled != nil {
			scaled.autoscaled = true
		}
	}
}
