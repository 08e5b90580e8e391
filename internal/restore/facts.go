package restore

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// facts are what is asked of some objects after they were prepared, when their documents are packed again.
type facts struct {
	classes   []string          // the storage classes that its claims name; empty: none on purpose
	unclassed bool              // it is a claim that leaves the class to the target
	pods      []map[string]any  // the labels of the pods that it makes
	idle      bool              // it makes no pods soon
	selector  map[string]string // of a Service
	services  []key             // which an API server calls: for a webhook, or for an aggregated API
	scales    key               // whose replicas an autoscaler sets
	serves    string            // the group of an aggregated API
	unserved  string            // why no API server would serve the kind that a CRD defines
}

// factsOf returns nil for objects of which nothing is asked.
func factsOf(k key, o *unstructured.Unstructured) *facts {
	f := &facts{}
	switch k.GroupKind {
	case crdKind:
		if dig(o.Object, "spec")["preserveUnknownFields"] == true {
			f.unserved = "has no structural schema (preserveUnknownFields), which no API server accepts any more"
		}
	case claimKind:
		f.classes, f.unclassed = claimClass(o)
	case statefulKind:
		for _, m := range maps(o.Object, "spec", "volumeClaimTemplates") {
			f.classes = append(f.classes, str(m, "spec", "storageClassName"))
		}
	case serviceKind:
		f.selector, _, _ = unstructured.NestedStringMap(o.Object, "spec", "selector")
	}
	switch k.Kind {
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration":
		for _, hook := range maps(o.Object, "webhooks") {
			service := key{GroupKind: serviceKind, Namespace: str(hook, "clientConfig", "service", "namespace"), Name: str(hook, "clientConfig", "service", "name")}
			if service.Name != "" {
				f.services = append(f.services, service)
			}
		}
	case "APIService":
		f.serves = str(o.Object, "spec", "group")
		if name := str(o.Object, "spec", "service", "name"); name != "" {
			f.services = append(f.services, key{GroupKind: serviceKind, Namespace: str(o.Object, "spec", "service", "namespace"), Name: name})
		}
	}
	f.scales = scaleTarget(o)
	for _, template := range podParts(o) {
		f.pods = append(f.pods, dig(template, "metadata", "labels"))
	}
	replicas, scaled := dig(o.Object, "spec")["replicas"].(int64)
	f.idle = scaled && replicas == 0 || k.GroupKind == cronJobKind // a CronJob may not run for a long time
	if f.classes == nil && f.pods == nil && f.selector == nil && f.services == nil && f.scales == (key{}) && f.serves == "" && f.unserved == "" {
		return nil
	}
	return f
}

// claimClass is the class that a claim asks for; nothing is asked for where its volume is restored with it.
func claimClass(o *unstructured.Unstructured) (classes []string, unclassed bool) {
	if str(o.Object, "spec", "volumeName") != "" {
		return []string{""}, false
	}
	class, named := o.GetAnnotations()[legacyClass]
	if c, ok := dig(o.Object, "spec")["storageClassName"].(string); ok {
		class, named = c, true
	}
	return []string{class}, !named
}
