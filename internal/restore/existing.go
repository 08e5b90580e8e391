package restore

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/kube"
)

// leaveAlone says why somebody else's object at the target is not touched, or nothing.
func (t *attempt) leaveAlone(live *unstructured.Unstructured, diffs []string) string {
	if reason := t.original(t.item); reason != "" {
		return reason
	}
	if by := gitOps(live); by != "" {
		return "it is there and managed by " + by + "; left to it"
	}
	if t.item.key.GroupKind == crdKind {
		return "the target has this CRD already; kept" // it may be newer, and others may use it
	}
	if isShared(t.item.key.GroupKind) && len(lasting(diffs)) > 0 {
		return "the target has one of that name already, which differs (" + join(lasting(diffs)) + "); kept"
	}
	if t.opts.Existing != Keep {
		return ""
	}
	if foreign := lasting(diffs); len(foreign) > 0 {
		return "it is there and differs (" + join(foreign) + "); kept"
	}
	return "it is there already; kept"
}

// isShared: kinds by whose objects others at the target go too.
func isShared(kind gk) bool {
	switch kind {
	case priorityKind, gk{Group: "networking.k8s.io", Kind: "IngressClass"}, gk{Group: "node.k8s.io", Kind: "RuntimeClass"}:
		return true
	}
	return false
}

// yield gives way, in what is wanted, to what the target alone decides or what cannot be changed.
func (t *attempt) yield(want, live *unstructured.Unstructured) {
	switch t.item.key.GroupKind {
	case claimKind:
		takeOver(want, live, func(string) bool { return true })
	case jobKind:
		takeOver(want, live, func(field string) bool { return field != "suspend" && field != "parallelism" })
	}
	t.yieldShared(want, live)
}

// yieldShared leaves to others what is theirs: the replicas to an autoscaler, entries of lists that several
// applications share to those who put them there.
func (t *attempt) yieldShared(want, live *unstructured.Unstructured) {
	switch t.item.key.GroupKind {
	case claimKind:
		yieldMark(want, live)
	case constraintKind:
		constraint(want, live)
	case gk{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:
		union(want, live, "subjects")
	}
	if replicas, ok := dig(live.Object, "spec")["replicas"].(int64); ok && t.item.autoscaled && replicas > 0 {
		dig(want.Object, "spec")["replicas"] = replicas
	}
}

// yieldMark leaves it as it is whether a claim's data is yet to come: only one that is made anew is empty.
func yieldMark(want, live *unstructured.Unstructured) {
	annotations := dig(want.Object, "metadata", "annotations")
	if mark, ok := live.GetAnnotations()[kube.AnnotationRestoring]; ok && annotations != nil {
		annotations[kube.AnnotationRestoring] = mark
	} else {
		delete(annotations, kube.AnnotationRestoring)
	}
}

// constraint adds the application's accounts to a SecurityContextConstraints that is there, and changes
// nothing else of it: others may be admitted by it, or it may be the cluster's own.
func constraint(want, live *unstructured.Unstructured) {
	union(want, live, "users")
	union(want, live, "groups")
	for field := range want.Object {
		if field == "users" || field == "groups" || field == "metadata" || field == "kind" || field == "apiVersion" {
			continue
		}
		if v, ok := live.Object[field]; ok {
			want.Object[field] = v
		} else {
			delete(want.Object, field)
		}
	}
}

// takeOver sets the fields of spec that want has to what live has.
func takeOver(want, live *unstructured.Unstructured, which func(field string) bool) {
	from, to := dig(live.Object, "spec"), dig(want.Object, "spec")
	for field := range to {
		if v, ok := from[field]; ok && which(field) {
			to[field] = v
		}
	}
}

// union keeps in a list what others have put into it at the target.
func union(want, live *unstructured.Unstructured, field string) {
	ours, _ := want.Object[field].([]any)
	theirs, _ := live.Object[field].([]any)
	out := slices.Clone(theirs)
	for _, v := range ours {
		if !slices.ContainsFunc(out, func(o any) bool { return same(v, o) }) {
			out = append(out, v)
		}
	}
	if len(out) > 0 {
		want.Object[field] = out
	}
}
