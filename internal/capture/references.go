package capture

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
)

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// reference is a cluster-scoped object that a captured one names. Without a name it is whatever the site
// takes by default.
type reference struct{ kind, name string }

// appendReferences adds what an object names. The kinds of custom resources are not among them.
func appendReferences(refs []reference, r resource, o rawjson.Value) []reference {
	add := func(kind, name string) {
		if name != "" {
			refs = append(refs, reference{kind, name})
		}
	}
	spec := o.Get("spec")
	switch r.GroupResource().String() {
	case "configmaps", "secrets":
		return refs // they name nothing, and are the most
	case "persistentvolumeclaims":
		add(kindVolume, spec.Get("volumeName").Text())
		class := spec.Get("storageClassName")
		add(kindStorageClass, class.Text())
		if !class.Exists() {
			refs = append(refs, reference{kind: kindStorageClass})
		}
	case "statefulsets.apps":
		for t := range spec.Get("volumeClaimTemplates").Items() {
			class := t.Get("spec", "storageClassName")
			add(kindStorageClass, class.Text())
			if !class.Exists() {
				refs = append(refs, reference{kind: kindStorageClass})
			}
		}
	case "ingresses.networking.k8s.io":
		class := spec.Get("ingressClassName").Text()
		if class == "" {
			class = o.Get("metadata", "annotations", "kubernetes.io/ingress.class").Text()
		}
		refs = append(refs, reference{kindIngressClass, class})
	case kindPolicyBinding:
		add(kindPolicy, spec.Get("policyName").Text())
	case kindMutatingPolicyBinding:
		add(kindMutatingPolicy, spec.Get("policyName").Text())
	case "roles.rbac.authorization.k8s.io", kindClusterRole:
		for rule := range o.Get("rules").Items() {
			if !hasText(rule.Get("resources"), "securitycontextconstraints") {
				continue
			}
			for name := range rule.Get("resourceNames").Items() {
				add(kindConstraints, name.Text())
			}
		}
	case "rolebindings.rbac.authorization.k8s.io":
		if o.Get("roleRef", "kind").IsText("ClusterRole") {
			add(kindClusterRole, o.Get("roleRef", "name").Text())
		}
	}
	for _, pod := range []rawjson.Value{spec, spec.Get("template", "spec"), spec.Get("jobTemplate", "spec", "template", "spec")} {
		add(kindPriorityClass, pod.Get("priorityClassName").Text())
		add(kindRuntimeClass, pod.Get("runtimeClassName").Text())
	}
	return refs
}

// fact is what has to be known of a cluster-scoped object to tell whether it is needed.
type fact struct {
	own       bool // it is the application's by what it says itself
	byDefault bool // it is what is taken where none is named
	role      string
	labels    labels.Set
	parts     []labels.Selector // of the roles that an aggregated one is made of
}

// factOf looks at an object of a kind that selects by content. Roles and bindings that the API server itself
// makes and keeps are nobody's.
func factOf(kind string, o rawjson.Value, namespaces []string) (fact, bool) {
	meta := o.Get("metadata")
	bootstrap := meta.Get("labels", "kubernetes.io/bootstrapping").IsText("rbac-defaults")
	switch kind {
	case kindStorageClass:
		return fact{byDefault: meta.Get("annotations", "storageclass.kubernetes.io/is-default-class").IsText("true")}, true
	case kindIngressClass:
		return fact{byDefault: meta.Get("annotations", "ingressclass.kubernetes.io/is-default-class").IsText("true")}, true
	case kindValidatingWebhook, kindMutatingWebhook:
		return fact{own: servedFrom(o, namespaces)}, true
	case kindAPIService:
		return fact{own: slices.Contains(namespaces, o.Get("spec", "service", "namespace").Text())}, true
	case kindPolicyBinding, kindMutatingPolicyBinding:
		return fact{own: bindsPolicy(o, namespaces)}, true
	case kindConstraints:
		return fact{own: constrainsAccounts(o, namespaces)}, true
	case kindClusterBinding:
		return fact{own: !bootstrap && bindsAccounts(o, namespaces), role: o.Get("roleRef", "name").Text()}, true
	case kindClusterRole:
		if bootstrap {
			return fact{}, false
		}
		f := fact{labels: labels.Set{}, parts: aggregates(o)}
		for name, value := range meta.Get("labels").Members() {
			f.labels[name] = value.Text()
		}
		return f, true
	}
	return fact{}, false
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

// bindsAccounts: a ClusterRoleBinding whose subjects are ServiceAccounts of these namespaces.
func bindsAccounts(o rawjson.Value, namespaces []string) bool {
	for s := range o.Get("subjects").Items() {
		if s.Get("kind").IsText("ServiceAccount") {
			if slices.Contains(namespaces, s.Get("namespace").Text()) {
				return true
			}
		} else if isAccountName(s.Get("name").Text(), namespaces) {
			return true
		}
	}
	return false
}

// constrainsAccounts: a SecurityContextConstraints that names the application's accounts.
func constrainsAccounts(o rawjson.Value, namespaces []string) bool {
	for _, field := range []string{"users", "groups"} {
		for name := range o.Get(field).Items() {
			if isAccountName(name.Text(), namespaces) {
				return true
			}
		}
	}
	return false
}

// bindsPolicy: a binding of an admission policy whose parameters are in these namespaces, or which is for one
// of them alone.
func bindsPolicy(o rawjson.Value, namespaces []string) bool {
	spec := o.Get("spec")
	return slices.Contains(namespaces, spec.Get("paramRef", "namespace").Text()) ||
		slices.Contains(namespaces, spec.Get("matchResources", "namespaceSelector", "matchLabels", "kubernetes.io/metadata.name").Text())
}

func hasText(list rawjson.Value, text string) bool {
	for item := range list.Items() {
		if item.IsText(text) {
			return true
		}
	}
	return false
}

// servedFrom: a webhook configuration any of whose backends is in these namespaces.
func servedFrom(o rawjson.Value, namespaces []string) bool {
	for hook := range o.Get("webhooks").Items() {
		if slices.Contains(namespaces, hook.Get("clientConfig", "service", "namespace").Text()) {
			return true
		}
	}
	return false
}

// aggregates returns the selectors of the roles that an aggregated ClusterRole is made of.
func aggregates(o rawjson.Value) []labels.Selector {
	var out []labels.Selector
	for item := range o.Get("aggregationRule", "clusterRoleSelectors").Items() {
		var s metav1.LabelSelector
		if decode(item.Raw(), &s) != nil {
			continue
		}
		if sel, err := metav1.LabelSelectorAsSelector(&s); err == nil && !sel.Empty() {
			out = append(out, sel)
		}
	}
	return out
}
