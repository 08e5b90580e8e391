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

// needs are the objects that it has to come after, as far as its own fields tell. What needs what is read
// off the captured objects, with the names that they had.
func (s *Set) needs(it *item, captured *unstructured.Unstructured) []need {
	var out []need
	add := func(firm bool, kind gk, namespace, name string) {
		if name != "" {
			out = append(out, need{key{GroupKind: kind, Namespace: namespace, Name: name}, firm})
		}
	}
	ns, name := captured.GetNamespace(), captured.GetName()
	add(true, namespaceKind, "", ns)
	if d := s.definitions[it.key.GroupKind]; d != nil {
		out = append(out, need{d.key, true})
	}
	templates := podParts(captured)
	for _, template := range templates {
		podNeeds(template, ns, add)
	}
	if len(templates) > 0 { // quotas and limits shape pods as they are made
		out = append(out, s.all(gk{Kind: "LimitRange"}, ns)...)
		out = append(out, s.all(gk{Kind: "ResourceQuota"}, ns)...)
	}
	for _, template := range maps(captured.Object, "spec", "volumeClaimTemplates") {
		prefix := str(template, "metadata", "name") + "-" + name + "-"
		for _, n := range s.all(claimKind, ns) {
			if strings.HasPrefix(n.key.Name, prefix) {
				out = append(out, n)
			}
		}
	}
	if scales := scaleTarget(captured); scales.Name != "" {
		out = append(out, need{scales, false})
	}
	kindNeeds(captured, add)
	return out
}

// all are the objects of a kind in a namespace.
func (s *Set) all(kind gk, namespace string) []need {
	from, to := s.ofKind(kind, namespace)
	out := make([]need, 0, to-from)
	for _, e := range s.entries[from:to] {
		out = append(out, need{e.key, false})
	}
	return out
}

// kindNeeds are what certain kinds name in fields of their own.
func kindNeeds(captured *unstructured.Unstructured, add func(bool, gk, string, string)) {
	ns, name, o := captured.GetNamespace(), captured.GetName(), captured.Object
	switch captured.GetKind() {
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
		add(true, accountKind, ns, captured.GetAnnotations()["kubernetes.io/service-account.name"])
	case "PersistentVolumeClaim":
		add(false, volumeKind, "", str(o, "spec", "volumeName"))
	case "StatefulSet":
		add(false, serviceKind, ns, str(o, "spec", "serviceName"))
	case "Endpoints", "EndpointSlice":
		add(false, serviceKind, ns, name)
		add(false, serviceKind, ns, captured.GetLabels()["kubernetes.io/service-name"])
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
	case "Certificate":
		issuer := gk{Group: "cert-manager.io", Kind: orElse(str(o, "spec", "issuerRef", "kind"), "Issuer")}
		if issuer.Kind != "Issuer" {
			ns = ""
		}
		add(false, issuer, ns, str(o, "spec", "issuerRef", "name"))
	case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute":
		for _, parent := range maps(o, "spec", "parentRefs") {
			add(false, gk{Group: gatewayGroup, Kind: "Gateway"}, orElse(str(parent, "namespace"), ns), str(parent, "name"))
		}
	}
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

// backendEdges: a webhook in front of its own backend would refuse the backend's pods, and an aggregated API
// without one would be missed by whoever asks what is served.
func (p *Prepared) backendEdges(it *item) []edge {
	var out []edge
	for _, service := range it.facts.services {
		svc := p.item(service)
		if svc == nil {
			continue
		}
		out = append(out, edge{to: svc.index})
		for _, backend := range p.backends(svc) {
			out = append(out, edge{to: backend.index, firm: true})
		}
	}
	return out
}

// backends are the workloads whose pods a Service selects.
func (p *Prepared) backends(service *item) []*item {
	if service.facts == nil || len(service.facts.selector) == 0 {
		return nil
	}
	var out []*item
	for _, it := range p.inNamespace(service.key.Namespace) {
		if it.facts != nil && slices.ContainsFunc(it.facts.pods, func(labels map[string]any) bool { return selects(service.facts.selector, labels) }) {
			out = append(out, it)
		}
	}
	return out
}

// inNamespace returns the items of one namespace.
func (p *Prepared) inNamespace(namespace string) []*item {
	byNamespace := func(it *item, ns string) int { return strings.Compare(it.key.Namespace, ns) }
	from, _ := slices.BinarySearchFunc(p.items, namespace, byNamespace)
	to := from
	for to < len(p.items) && p.items[to].key.Namespace == namespace {
		to++
	}
	return p.items[from:to]
}

func selects(selector map[string]string, labels map[string]any) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}
