package restore

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// need is one reason why an object comes after another. A firm need that could not be met stops what
// depends on it; for the others the order is a kindness (a pod that finds its Secret at once does not
// have to be restarted).
type need struct {
	key  key
	firm bool
}

// needs are the objects that it has to come after, as far as its own fields tell.
func (p *Prepared) needs(it *item) []need {
	var out []need
	add := func(firm bool, kind gk, namespace, name string) {
		if name != "" {
			out = append(out, need{key{GroupKind: kind, Namespace: namespace, Name: name}, firm})
		}
	}
	ns, o := it.key.Namespace, it.obj.Object
	add(true, namespaceKind, "", ns)
	if it.custom {
		out = append(out, need{p.definitions[it.key.GroupKind], true})
	}
	for _, owner := range it.owners {
		out = append(out, need{owner.key, false})
	}
	for _, template := range podParts(it.obj) {
		podNeeds(template, ns, add)
		out = append(out, p.limits[ns]...)
	}
	for _, template := range maps(o, "spec", "volumeClaimTemplates") {
		prefix := str(template, "metadata", "name") + "-" + it.key.Name + "-"
		for k := range p.byKey {
			if k.GroupKind == claimKind && k.Namespace == ns && strings.HasPrefix(k.Name, prefix) {
				out = append(out, need{k, false})
			}
		}
	}
	out = append(out, p.kindNeeds(it, add)...)
	return out
}

// kindNeeds are what certain kinds name in fields of their own.
func (p *Prepared) kindNeeds(it *item, add func(bool, gk, string, string)) []need {
	ns, o := it.key.Namespace, it.obj.Object
	switch it.key.Kind {
	case "RoleBinding", "ClusterRoleBinding":
		roleNS := ns
		if str(o, "roleRef", "kind") == "ClusterRole" {
			roleNS = ""
		}
		add(false, gk{Group: "rbac.authorization.k8s.io", Kind: str(o, "roleRef", "kind")}, roleNS, str(o, "roleRef", "name"))
		for _, s := range maps(o, "subjects") {
			if s["kind"] == "ServiceAccount" {
				add(false, accountKind, str(s, "namespace"), str(s, "name"))
			}
		}
	case "Secret":
		// The API server deletes a token whose account is not there.
		add(true, accountKind, ns, it.obj.GetAnnotations()["kubernetes.io/service-account.name"])
	case "StatefulSet":
		add(false, serviceKind, ns, str(o, "spec", "serviceName"))
	case "Endpoints", "EndpointSlice":
		add(false, serviceKind, ns, it.key.Name)
		add(false, serviceKind, ns, it.obj.GetLabels()["kubernetes.io/service-name"])
	case "Route":
		add(false, serviceKind, ns, str(o, "spec", "to", "name"))
		add(false, secretKind, ns, str(o, "spec", "tls", "externalCertificate", "name"))
	case "Ingress":
		for _, rule := range maps(o, "spec", "rules") {
			for _, path := range maps(rule, "http", "paths") {
				add(false, serviceKind, ns, str(path, "backend", "service", "name"))
			}
		}
		add(false, serviceKind, ns, str(o, "spec", "defaultBackend", "service", "name"))
		for _, tls := range maps(o, "spec", "tls") {
			add(false, secretKind, ns, str(tls, "secretName"))
		}
	case "HorizontalPodAutoscaler":
		add(false, groupKind(str(o, "spec", "scaleTargetRef", "apiVersion"), str(o, "spec", "scaleTargetRef", "kind")), ns, str(o, "spec", "scaleTargetRef", "name"))
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration":
		return p.backendNeeds(it)
	}
	return nil
}

// podNeeds are what a pod template mounts, reads and runs as.
func podNeeds(template map[string]any, ns string, add func(bool, gk, string, string)) {
	account := str(template, "spec", "serviceAccountName")
	if account == "" {
		account = "default"
	}
	add(false, accountKind, ns, account)
	add(false, priorityKind, "", str(template, "spec", "priorityClassName"))
	for _, s := range maps(template, "spec", "imagePullSecrets") {
		add(false, secretKind, ns, str(s, "name"))
	}
	for _, v := range maps(template, "spec", "volumes") {
		add(false, claimKind, ns, str(v, "persistentVolumeClaim", "claimName"))
		add(false, configMapKind, ns, str(v, "configMap", "name"))
		add(false, secretKind, ns, str(v, "secret", "secretName"))
		for _, source := range maps(v, "projected", "sources") {
			add(false, configMapKind, ns, str(source, "configMap", "name"))
			add(false, secretKind, ns, str(source, "secret", "name"))
		}
	}
	for _, c := range containers(template) {
		for _, from := range maps(c, "envFrom") {
			add(false, configMapKind, ns, str(from, "configMapRef", "name"))
			add(false, secretKind, ns, str(from, "secretRef", "name"))
		}
		for _, env := range maps(c, "env") {
			add(false, configMapKind, ns, str(env, "valueFrom", "configMapKeyRef", "name"))
			add(false, secretKind, ns, str(env, "valueFrom", "secretKeyRef", "name"))
		}
	}
}

// backendNeeds: a webhook in front of its own backend would refuse the backend's pods.
func (p *Prepared) backendNeeds(it *item) []need {
	var out []need
	for _, hook := range maps(it.obj.Object, "webhooks") {
		service := key{GroupKind: serviceKind, Namespace: str(hook, "clientConfig", "service", "namespace"), Name: str(hook, "clientConfig", "service", "name")}
		if service.Name == "" {
			continue
		}
		out = append(out, need{service, false})
		for _, backend := range p.backends(service) {
			out = append(out, need{backend.key, true})
		}
	}
	return out
}

// backends are the workloads whose pods a Service selects.
func (p *Prepared) backends(service key) []*item {
	svc := p.byKey[service]
	if svc == nil {
		return nil
	}
	selector, _, _ := unstructured.NestedStringMap(svc.obj.Object, "spec", "selector")
	if len(selector) == 0 {
		return nil
	}
	var out []*item
	for _, it := range p.items {
		if it.key.Namespace != service.Namespace {
			continue
		}
		if slices.ContainsFunc(podParts(it.obj), func(t map[string]any) bool { return selects(selector, t) }) {
			out = append(out, it)
		}
	}
	return out
}

func selects(selector map[string]string, template map[string]any) bool {
	labels := dig(template, "metadata", "labels")
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}
