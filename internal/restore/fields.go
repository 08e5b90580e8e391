package restore

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type gk = schema.GroupKind

var (
	crdKind        = gk{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	apiServiceKind = gk{Group: "apiregistration.k8s.io", Kind: "APIService"}
	namespaceKind  = gk{Kind: "Namespace"}
	serviceKind    = gk{Kind: "Service"}
	accountKind    = gk{Kind: "ServiceAccount"}
	secretKind     = gk{Kind: "Secret"}
	configMapKind  = gk{Kind: "ConfigMap"}
	claimKind      = gk{Kind: "PersistentVolumeClaim"}
	volumeKind     = gk{Kind: "PersistentVolume"}
	podKind        = gk{Kind: "Pod"}
	jobKind        = gk{Group: "batch", Kind: "Job"}
	cronJobKind    = gk{Group: "batch", Kind: "CronJob"}
	priorityKind   = gk{Group: "scheduling.k8s.io", Kind: "PriorityClass"}
	statefulKind   = gk{Group: "apps", Kind: "StatefulSet"}
	daemonKind     = gk{Group: "apps", Kind: "DaemonSet"}
	constraintKind = gk{Group: "security.openshift.io", Kind: "SecurityContextConstraints"}
	routeKind      = gk{Group: "route.openshift.io", Kind: "Route"}
	ingressKind    = gk{Group: "networking.k8s.io", Kind: "Ingress"}
)

const gatewayGroup = "gateway.networking.k8s.io"

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func groupKind(apiVersion, kind string) gk {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return gk{Kind: kind} // matches nothing
	}
	return gv.WithKind(kind).GroupKind()
}

func str(m map[string]any, path ...string) string {
	s, _, _ := unstructured.NestedString(m, path...)
	return s
}

// dig returns a nested map itself, not a copy; nil where it is not there.
func dig(m map[string]any, path ...string) map[string]any {
	v, _, _ := unstructured.NestedFieldNoCopy(m, path...)
	inner, _ := v.(map[string]any)
	return inner
}

// maps returns the maps of a nested list themselves.
func maps(m map[string]any, path ...string) []map[string]any {
	v, _, _ := unstructured.NestedFieldNoCopy(m, path...)
	list, _ := v.([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		if inner, ok := e.(map[string]any); ok {
			out = append(out, inner)
		}
	}
	return out
}

// filter keeps those maps of a nested list that keep says; an emptied list is removed.
func filter(m map[string]any, keep func(map[string]any) bool, path ...string) {
	v, ok, _ := unstructured.NestedFieldNoCopy(m, path...)
	list, isList := v.([]any)
	if !ok || !isList {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(list), func(e any) bool {
		inner, ok := e.(map[string]any)
		return ok && !keep(inner)
	})
	if len(kept) == 0 {
		remove(m, path...)
		return
	}
	dig(m, path[:len(path)-1]...)[path[len(path)-1]] = kept
}

func remove(m map[string]any, path ...string) { unstructured.RemoveNestedField(m, path...) }

// removeKeys deletes keys from a nested map, and the map when nothing is left of it.
func removeKeys(m map[string]any, drop func(key string) bool, path ...string) {
	inner := dig(m, path...)
	if inner == nil {
		return
	}
	for k := range inner {
		if drop(k) {
			delete(inner, k)
		}
	}
	if len(inner) == 0 {
		remove(m, path...)
	}
}

// podParts returns the pod templates inside an object (of a pod: itself) as maps with metadata and spec.
// Custom kinds are looked at too: a template is known by its containers.
func podParts(o *unstructured.Unstructured) []map[string]any {
	if keyOf(o).GroupKind == podKind {
		return []map[string]any{o.Object}
	}
	var out []map[string]any
	for _, path := range [][]string{{"spec", "template"}, {"spec", "jobTemplate", "spec", "template"}} {
		if t := dig(o.Object, path...); t != nil && len(maps(t, "spec", "containers")) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// containers of all sorts in a pod template.
func containers(template map[string]any) []map[string]any {
	return slices.Concat(maps(template, "spec", "initContainers"), maps(template, "spec", "containers"), maps(template, "spec", "ephemeralContainers"))
}
