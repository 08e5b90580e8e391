package capture

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

func (s set) add(name string) {
	if name != "" {
		s[name] = true
	}
}

// references are the cluster-scoped things that captured objects name.
type references struct {
	definitions     set // plural.group of kinds that may be custom
	volumes         set
	storageClasses  set
	priorityClasses set
	clusterRoles    set
	claimNoClass    bool
}

func newReferences() *references {
	return &references{definitions: set{}, volumes: set{}, storageClasses: set{}, priorityClasses: set{}, clusterRoles: set{}}
}

func (r *references) add(res resource, obj *unstructured.Unstructured) {
	// Built-in groups have no dot or end in .k8s.io; the latter may be custom too.
	if strings.Contains(res.Group, ".") && res.Group != "apiextensions.k8s.io" {
		r.definitions.add(res.GroupResource().String())
	}
	switch res.GroupResource().String() {
	case "persistentvolumeclaims":
		r.volumes.add(text(obj.Object, "spec", "volumeName"))
		class, named, _ := unstructured.NestedString(obj.Object, "spec", "storageClassName")
		r.storageClasses.add(class)
		r.claimNoClass = r.claimNoClass || !named
	case "statefulsets.apps":
		templates, _, _ := unstructured.NestedSlice(obj.Object, "spec", "volumeClaimTemplates")
		for _, t := range templates {
			if m, ok := t.(map[string]any); ok {
				r.storageClasses.add(text(m, "spec", "storageClassName"))
			}
		}
	case "rolebindings.rbac.authorization.k8s.io":
		if text(obj.Object, "roleRef", "kind") == "ClusterRole" {
			r.clusterRoles.add(text(obj.Object, "roleRef", "name"))
		}
	}
	for _, path := range [][]string{{"spec"}, {"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}} {
		r.priorityClasses.add(text(obj.Object, append(slices.Clone(path), "priorityClassName")...))
	}
}

// namesSubject says whether a binding's or constraint's subject is a ServiceAccount of these namespaces.
func namesSubject(subject map[string]any, namespaces []string) bool {
	kind, _ := subject["kind"].(string)
	name, _ := subject["name"].(string)
	ns, _ := subject["namespace"].(string)
	if kind == "ServiceAccount" {
		return slices.Contains(namespaces, ns)
	}
	return isAccountName(name, namespaces)
}

// isAccountName knows the user and group names under which ServiceAccounts of a namespace appear.
func isAccountName(name string, namespaces []string) bool {
	for _, ns := range namespaces {
		if strings.HasPrefix(name, "system:serviceaccount:"+ns+":") || name == "system:serviceaccounts:"+ns {
			return true
		}
	}
	return false
}

// bindsAccounts: a ClusterRoleBinding of the application, and not one that every cluster has.
func bindsAccounts(obj *unstructured.Unstructured, namespaces []string) bool {
	subjects, _, _ := unstructured.NestedSlice(obj.Object, "subjects")
	return slices.ContainsFunc(subjects, func(s any) bool {
		m, ok := s.(map[string]any)
		return ok && namesSubject(m, namespaces)
	})
}

// constrainsAccounts: a SecurityContextConstraints that names the application's accounts.
func constrainsAccounts(obj *unstructured.Unstructured, namespaces []string) bool {
	for _, field := range []string{"users", "groups"} {
		names, _, _ := unstructured.NestedStringSlice(obj.Object, field)
		if slices.ContainsFunc(names, func(n string) bool { return isAccountName(n, namespaces) }) {
			return true
		}
	}
	return false
}

// servedFrom: a webhook configuration any of whose backends is in these namespaces.
func servedFrom(obj *unstructured.Unstructured, namespaces []string) bool {
	hooks, _, _ := unstructured.NestedSlice(obj.Object, "webhooks")
	return slices.ContainsFunc(hooks, func(h any) bool {
		m, ok := h.(map[string]any)
		return ok && slices.Contains(namespaces, text(m, "clientConfig", "service", "namespace"))
	})
}

// isDefault: roles that the API server itself makes and keeps.
func isDefault(obj *unstructured.Unstructured) bool {
	return obj.GetLabels()["kubernetes.io/bootstrapping"] == "rbac-defaults"
}

// aggregates returns the selectors of the roles that an aggregated ClusterRole is made of.
func aggregates(obj *unstructured.Unstructured) []labels.Selector {
	list, _, _ := unstructured.NestedSlice(obj.Object, "aggregationRule", "clusterRoleSelectors")
	var out []labels.Selector
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			continue
		}
		var s metav1.LabelSelector
		if fromUnstructured(m, &s) != nil {
			continue
		}
		if sel, err := metav1.LabelSelectorAsSelector(&s); err == nil && !sel.Empty() {
			out = append(out, sel)
		}
	}
	return out
}

func text(m map[string]any, path ...string) string {
	s, _, _ := unstructured.NestedString(m, path...)
	return s
}
