package restore

import (
	"fmt"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/kube"
)

// placeKinds changes what says where the application is to be found.
func (t *transform) placeKinds() {
	switch t.item.key.GroupKind {
	case namespaceKind:
		// The annotations stay: on OpenShift they hold the UID and MCS ranges that the data was written with.
		remove(t.obj.Object, "spec")
	case routeKind:
		t.route()
	case ingressKind:
		for _, rule := range maps(t.obj.Object, "spec", "rules") {
			t.siteHost(rule, "host")
		}
		for _, tls := range maps(t.obj.Object, "spec", "tls") {
			hosts, _ := tls["hosts"].([]any)
			for i, h := range hosts {
				m := map[string]any{"host": h}
				t.siteHost(m, "host")
				hosts[i] = m["host"]
			}
		}
	}
	if t.item.key.Group == gatewayGroup {
		t.gateway()
	}
}

// gateway: the hosts of a Gateway's listeners and of the routes behind them.
func (t *transform) gateway() {
	for _, listener := range maps(t.obj.Object, "spec", "listeners") {
		t.siteHost(listener, "hostname")
	}
	hosts, _ := dig(t.obj.Object, "spec")["hostnames"].([]any)
	for i, h := range hosts {
		m := map[string]any{"host": h}
		t.siteHost(m, "host")
		hosts[i] = m["host"]
	}
}

// route: a host that the site generated belongs to the site; the target gets one of its own.
func (t *transform) route() {
	spec := dig(t.obj.Object, "spec")
	if t.obj.GetAnnotations()["openshift.io/host.generated"] != "true" {
		t.siteHost(spec, "host")
		return
	}
	host, _ := spec["host"].(string)
	delete(spec, "host") // without a domain to put it in, the target generates one
	if d := t.opts.To.Ingress.Domain; d != "" {
		spec["host"] = fmt.Sprintf("%s-%s.%s", t.item.key.Name, t.item.key.Namespace, d)
		t.note("host %s becomes %s", host, spec["host"])
	}
}

// siteHost moves a host within the old site's own domain, which leads to no other site, into the target's.
func (t *transform) siteHost(m map[string]any, field string) {
	host, _ := m[field].(string)
	from, to := t.opts.From.Ingress.Domain, t.opts.To.Ingress.Domain
	name, ok := strings.CutSuffix(host, "."+from)
	if !ok || from == "" || to == "" || from == to {
		return
	}
	m[field] = name + "." + to
	t.note("host %s becomes %s", host, m[field])
}

// service drops what the old cluster allotted, and keeps what the Service's owner asked for.
func (t *transform) service() {
	asked := func(name string) bool { return slices.Contains(t.explicit, name) }
	pins := strings.Split(t.obj.GetAnnotations()[kube.AnnotationPin], ",") // what its owner wants to be the same at every site
	pinned := func(name string) bool { return asked(name) && slices.Contains(pins, name) }
	spec := dig(t.obj.Object, "spec")
	if spec == nil {
		return
	}
	headless := spec["clusterIP"] == "None"
	delete(spec, "clusterIPs")
	if !headless && spec["type"] != "ExternalName" && !pinned("clusterIP") {
		// An address is of one cluster's range, so even one that was asked for does not fit another.
		delete(spec, "clusterIP")
	}
	if ip, asked := spec["loadBalancerIP"]; asked && !pinned("loadBalancerIP") {
		delete(spec, "loadBalancerIP")
		t.note("the load balancer's address %v, which is of the old site, is dropped", ip)
	}
	if policy := spec["ipFamilyPolicy"]; (policy == nil || policy == "SingleStack") && !asked("ipFamilies") {
		delete(spec, "ipFamilies")
		delete(spec, "ipFamilyPolicy")
	}
	if !asked("healthCheckNodePort") {
		delete(spec, "healthCheckNodePort")
	}
	for _, port := range maps(spec, "ports") {
		protocol, _ := port["protocol"].(string)
		if protocol == "" {
			protocol = "TCP"
		}
		if !asked(fmt.Sprintf("nodePort/%v/%s", port["port"], protocol)) {
			delete(port, "nodePort")
		}
	}
}

// injected: certificates that the target's own controllers write into a ConfigMap are theirs.
func (t *transform) injected() {
	if t.obj.GetAnnotations()["service.beta.openshift.io/inject-cabundle"] == "true" {
		remove(t.obj.Object, "data", "service-ca.crt")
	}
	if t.obj.GetLabels()["config.openshift.io/inject-trusted-cabundle"] == "true" {
		remove(t.obj.Object, "data", "ca-bundle.crt")
	}
}

// authority leaves it to the target's controllers whom an API server trusts as the backend of a webhook, a
// conversion or an aggregated API, where they are asked to say so: their authority is another one.
func (t *transform) authority() {
	injected := false
	for name, value := range t.obj.GetAnnotations() {
		switch name {
		case "service.beta.openshift.io/inject-cabundle", "service.alpha.openshift.io/inject-cabundle":
			injected = injected || value == "true"
		case "cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret", "cert-manager.io/inject-apiserver-ca":
			injected = true
		}
	}
	if !injected {
		return
	}
	for _, hook := range maps(t.obj.Object, "webhooks") {
		remove(hook, "clientConfig", "caBundle")
	}
	remove(t.obj.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	if t.item.key.Kind == "APIService" {
		remove(t.obj.Object, "spec", "caBundle")
	}
}

// priority: an application's class does not become what every pod of the target gets.
func (t *transform) priority() {
	if t.obj.Object["globalDefault"] == true {
		delete(t.obj.Object, "globalDefault")
		t.note("it is not the default of the target's pods")
	}
}

// account loses the tokens and pull secrets that are not restored.
func (t *transform) account() {
	restored := func(m map[string]any) bool {
		name, _ := m["name"].(string)
		s := t.set.lookup(key{GroupKind: secretKind, Namespace: t.item.key.Namespace, Name: name})
		if s != nil {
			return t.set.skip(s) == ""
		}
		// Not captured: a reference to something generated that was gone already leads nowhere.
		return !strings.HasPrefix(name, t.item.key.Name+"-dockercfg-") && !strings.HasPrefix(name, t.item.key.Name+"-token-")
	}
	filter(t.obj.Object, restored, "secrets")
	filter(t.obj.Object, restored, "imagePullSecrets")
	removeKeys(t.obj.Object, func(k string) bool { return k == "openshift.io/internal-registry-pull-secret-ref" }, "metadata", "annotations")
}

// secret: a token that was asked for is asked for again; the target fills it in.
func (t *transform) secret() {
	if str(t.obj.Object, "type") == "kubernetes.io/service-account-token" {
		remove(t.obj.Object, "data")
		t.note("the token is issued anew by the target")
	}
}

// awaited marks a claim whose data is yet to come.
func (t *transform) awaited() {
	for _, d := range t.opts.Data {
		if d.Namespace == t.item.key.Namespace && d.Claim == t.item.key.Name {
			annotations := t.obj.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[kube.AnnotationRestoring] = t.opts.Point
			t.obj.SetAnnotations(annotations)
			return
		}
	}
	if t.opts.Data != nil && str(t.obj.Object, "spec", "volumeName") == "" {
		t.note("the recovery point has no copy of its data: it comes back empty")
	}
}

// legacyClass is the annotation by which claims named their class before there was a field for it.
const legacyClass = "volume.beta.kubernetes.io/storage-class"

// claim lets the target's provisioner make the volume.
func (t *transform) claim(claim map[string]any) {
	removeKeys(claim, func(k string) bool {
		switch k {
		case "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/selected-node",
			"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner",
			"volume.kubernetes.io/storage-resizer":
			return true
		}
		return false
	}, "metadata", "annotations")
	remove(claim, "status")
	remove(claim, "metadata", "creationTimestamp")
	spec := dig(claim, "spec")
	if spec == nil {
		return
	}
	if !t.set.pinned(str(spec, "volumeName")) {
		delete(spec, "volumeName")
	}
	for _, field := range []string{"dataSource", "dataSourceRef", "selector", "volumeAttributesClassName"} {
		if _, ok := spec[field]; ok {
			delete(spec, field)
			t.note("the claim's %s is dropped: the target has none such, and data comes from the recovery point", field)
		}
	}
	if class, ok := spec["storageClassName"].(string); ok {
		spec["storageClassName"] = t.class(class)
	}
	if annotations := dig(claim, "metadata", "annotations"); annotations != nil {
		if class, ok := annotations[legacyClass].(string); ok {
			annotations[legacyClass] = t.class(class)
		}
	}
}

// class maps a StorageClass as the target's map says; one that is not in it keeps its name.
func (t *transform) class(name string) string {
	to, ok := t.opts.To.StorageClasses[name]
	if !ok {
		to, ok = t.opts.To.StorageClasses["*"]
	}
	if !ok || name == "" || to == name || t.opts.From.Name == t.opts.To.Name {
		return name
	}
	t.note("storage class %s becomes %s", name, to)
	return to
}

// pod loses what the old cluster's admission and scheduler put into it.
func (t *transform) pod() {
	spec := dig(t.obj.Object, "spec")
	if spec == nil {
		return
	}
	delete(spec, "nodeName")
	delete(spec, "priority") // comes from priorityClassName
	token := func(m map[string]any) bool {
		name, _ := m["name"].(string)
		return strings.HasPrefix(name, "kube-api-access-")
	}
	filter(spec, func(m map[string]any) bool { return !token(m) }, "volumes")
	for _, c := range containers(t.obj.Object) {
		filter(c, func(m map[string]any) bool { return !token(m) }, "volumeMounts")
	}
	filter(spec, func(m map[string]any) bool {
		key, _ := m["key"].(string)
		return key != "node.kubernetes.io/not-ready" && key != "node.kubernetes.io/unreachable" || m["tolerationSeconds"] != int64(300)
	}, "tolerations")
}

// job gets a selector of its own: the old one names the old Job's uid.
func (t *transform) job() {
	spec := dig(t.obj.Object, "spec")
	if spec == nil || spec["manualSelector"] == true {
		return
	}
	delete(spec, "selector")
	generated := func(k string) bool {
		switch k {
		case "controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name":
			return true
		}
		return false
	}
	removeKeys(t.obj.Object, generated, "spec", "template", "metadata", "labels")
	removeKeys(t.obj.Object, generated, "metadata", "labels")
}
