package statetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Addresses that a cluster allotted stay behind; those that a Service's owner asked for come along where
// they can.
func TestServiceAddresses(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "addresses"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: Service, metadata: {name: plain, namespace: @NS@}, spec: {selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless, namespace: @NS@}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: fixed, namespace: @NS@}, spec: {clusterIP: 10.96.0.77, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: pinned, namespace: @NS@, annotations: {lifeboat.dev/pin: clusterIP}}, spec: {clusterIP: 10.96.0.78, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: pinned-nothing, namespace: @NS@, annotations: {lifeboat.dev/pin: clusterIP}}, spec: {selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: name, namespace: @NS@}, spec: {type: ExternalName, externalName: db.example.com}}
---
{apiVersion: v1, kind: Service, metadata: {name: ports, namespace: @NS@}, spec: {type: NodePort, selector: {a: b}, ports: [{name: auto, port: 80}, {name: mine, port: 81, nodePort: 30081}, {name: dns, port: 53, protocol: UDP, nodePort: 30053}, {name: dns-tcp, port: 53, protocol: TCP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: balanced, namespace: @NS@}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerIP: 192.0.2.1, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: checked, namespace: @NS@}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30070, selector: {a: b}, ports: [{port: 80}]}}
`)
	source := func(name, path string) any { return field(get(t, east, ns, "v1/Service/"+name), path) }
	target := func(name, path string) any { return v.field("v1/Service/"+name, path) }
	// Whatever was allotted at the source belongs to others at the target.
	create(t, west, "addresses-others", fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: @NS@}, spec: {clusterIP: %v, type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: %v, ports: [{port: 80, nodePort: %v}]}}`,
		source("plain", "spec.clusterIP"), source("balanced", "spec.healthCheckNodePort"), portOf(get(t, east, ns, "v1/Service/ports"), "auto")))
	out := v.apply()
	if got := target("plain", "spec.clusterIP"); got == source("plain", "spec.clusterIP") || got == nil {
		t.Errorf("an allotted address was kept: %v", got)
	}
	if got := target("fixed", "spec.clusterIP"); got == "10.96.0.77" {
		t.Error("an address of one cluster's range was kept at another, without being pinned")
	}
	for name, want := range map[string]any{"headless": "None", "pinned": "10.96.0.78", "name": nil} {
		if got := target(name, "spec.clusterIP"); got != want {
			t.Errorf("%s has address %v, want %v", name, got, want)
		}
	}
	ports := get(t, west, ns, "v1/Service/ports")
	if portOf(ports, "mine") != int64(30081) || portOf(ports, "dns") != int64(30053) {
		t.Errorf("ports that were asked for: %v", field(ports, "spec.ports"))
	}
	if got := portOf(ports, "auto"); got == portOf(get(t, east, ns, "v1/Service/ports"), "auto") || got == nil {
		t.Errorf("an allotted port was kept: %v", got)
	}
	if got := target("checked", "spec.healthCheckNodePort"); got != int64(30070) {
		t.Errorf("a health check's port that was asked for: %v", got)
	}
	if got := target("balanced", "spec.loadBalancerIP"); got != nil {
		t.Errorf("an address of the source's region was kept: %v", got)
	}
	names(t, out.Notes, "Service "+ns+"/balanced", "192.0.2.1")
	v.twice()
}

func portOf(service *unstructured.Unstructured, name string) any {
	return portField(service, name, "nodePort")
}

// A port that somebody else has at the target is a problem that names the other.
func TestServicePortThatIsTaken(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "port-taken"
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+`
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: @NS@}, spec: {type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: 30077}]}}`)
	create(t, west, "port-owner", `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: Service, metadata: {name: first, namespace: @NS@}, spec: {type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: 30077}]}}`)
	v.refused("Service "+ns+"/web", "30077", "Service port-owner/first")
	if !v.there("v1/ConfigMap/settings") {
		t.Error("the rest did not go on")
	}
}

// A load balancer's address is another one at the target: the restore waits for it, and says it.
func TestLoadBalancerGetsAnotherAddress(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "balancer"
	docs := emptyNamespace + `---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: @NS@}, spec: {type: LoadBalancer, selector: {a: b}, ports: [{port: 80}]}}`
	create(t, east, ns, docs)
	patch(t, east, ns, "v1/Service/web", "status: {loadBalancer: {ingress: [{ip: 192.0.2.7}]}}", "status")
	v := moving(t, east, west, ns)
	v.apply()
	if got := v.field("v1/Service/web", "status.loadBalancer.ingress"); got != nil {
		t.Errorf("the old address came along: %v", got)
	}
	v.verify("Service " + ns + "/web: has no load balancer's address yet")
	time.AfterFunc(300*time.Millisecond, func() {
		patch(t, west, ns, "v1/Service/web", "status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}", "status")
	})
	out, err := v.set.AwaitReady(deadline(t), west, v.opts, nil)
	if err != nil || len(out.Problems) > 0 {
		t.Errorf("error %v, problems %q", err, out.Problems)
	}
	names(t, out.Notes, "Service "+ns+"/web", "198.51.100.9")
	got, err := kube.LoadBalancerAddresses(deadline(t), west, dr.ServiceRef{Namespace: ns, Name: "web"}) // as the traffic step does
	if err != nil || !slices.Equal(got, []string{"198.51.100.9"}) {
		t.Errorf("traffic would go to %q, error %v", got, err)
	}
	if _, err := kube.LoadBalancerAddresses(deadline(t), west, dr.ServiceRef{Namespace: ns, Name: "nobody"}); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("a Service that is not there: %v", err)
	}
}

// Endpoints that controllers make are left to them; those that somebody wrote by hand are restored.
func TestEndpointsOfServices(t *testing.T) {
	t.Parallel()
	_, west := connect(t)
	north := withControllers(t)
	const ns = "endpoints"
	create(t, north, ns, "{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}\n"+`---
{apiVersion: v1, kind: Service, metadata: {name: selected, namespace: @NS@}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: manual, namespace: @NS@}, spec: {ports: [{name: db, port: 5432}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: manual, namespace: @NS@}, subsets: [{addresses: [{ip: 192.0.2.10}], ports: [{name: db, port: 5432}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: sliced, namespace: @NS@}, spec: {ports: [{name: db, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sliced-by-hand, namespace: @NS@, labels: {kubernetes.io/service-name: sliced}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.11]}], ports: [{name: db, port: 5432}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: mine, namespace: @NS@, labels: {kubernetes.io/service-name: sliced, endpointslice.kubernetes.io/managed-by: own-controller.example.com}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.12]}], ports: [{name: db, port: 5432}]}
`)
	eventually(t, "the controllers to make slices", func() (bool, string) {
		list, err := north.Typed.DiscoveryV1().EndpointSlices(ns).List(t.Context(), listAll)
		return err == nil && len(list.Items) >= 4 && get(t, north, ns, "v1/Endpoints/selected") != nil, fmt.Sprintf("%d slices", len(list.Items))
	})
	v := moving(t, north, west, ns)
	v.apply()
	if v.there("v1/Endpoints/selected") || !v.there("v1/Endpoints/manual") {
		t.Error("Endpoints of a selector were restored, or those written by hand were not")
	}
	slices, err := west.Typed.DiscoveryV1().EndpointSlices(ns).List(t.Context(), listAll)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range slices.Items {
		got = append(got, slices.Items[i].Name)
	}
	if strings.Join(got, " ") != "mine sliced-by-hand" {
		t.Errorf("slices %q", got)
	}
	v.verify()
}

// A Route's host that the old site generated is made anew; one that a person chose is kept.
func TestRouteHosts(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	withRoutes(t, east, west)
	const ns = "route-hosts"
	const docs = emptyNamespace + `---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: @NS@}, spec: {selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: generated, namespace: @NS@, annotations: {openshift.io/host.generated: "true"}}, spec: {host: generated-@NS@.apps.east.test, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: custom, namespace: @NS@}, spec: {host: shop.example.com, to: {kind: Service, name: web}, tls: {termination: edge}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: in-domain, namespace: @NS@}, spec: {host: api.apps.east.test, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: looks-alike, namespace: @NS@}, spec: {host: api.apps.east.test.example.com, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: of-ingress, namespace: @NS@, ownerReferences: [{apiVersion: networking.k8s.io/v1, kind: Ingress, name: web, uid: 11111111-1111-1111-1111-111111111111, controller: true}]}, spec: {host: x.example.com, to: {kind: Service, name: web}}}
`
	create(t, east, ns, docs)
	for _, name := range []string{"generated", "custom"} {
		patch(t, east, ns, "route.openshift.io/v1/Route/"+name, `status: {ingress: [{host: old.apps.east.test, routerName: default, conditions: [{type: Admitted, status: "True"}]}]}`, "status")
	}
	v := moving(t, east, west, ns)
	v.opts.From.Ingress.Domain = "apps.east.test"
	v.apply()
	for name, want := range map[string]any{
		"generated": "generated-" + ns + ".apps.west.test", "custom": "shop.example.com", "in-domain": "api.apps.west.test", "looks-alike": "api.apps.east.test.example.com", "of-ingress": nil,
	} {
		if got := v.field("route.openshift.io/v1/Route/"+name, "spec.host"); got != want {
			t.Errorf("%s: host %v, want %v", name, got, want)
		}
	}
	if got := v.field("route.openshift.io/v1/Route/custom", "status.ingress"); got != nil {
		t.Errorf("what the old router said came along: %v", got)
	}
	v.verify("Route "+ns+"/custom: not admitted by any router yet", "Route "+ns+"/generated: not admitted by any router yet",
		"Route "+ns+"/in-domain: not admitted by any router yet", "Route "+ns+"/looks-alike: not admitted by any router yet")
	for _, name := range []string{"generated", "custom", "in-domain", "looks-alike"} {
		patch(t, west, ns, "route.openshift.io/v1/Route/"+name, `status: {ingress: [{routerName: default, conditions: [{type: Admitted, status: "True"}]}]}`, "status")
	}
	v.verify()
	v.twice()
	// Where the site's domain is not known, the target generates the host.
	const again = "route-hosts-anew"
	w := move(t, east, west, again, docs)
	w.opts.To.Ingress.Domain = ""
	w.apply()
	if got := w.field("route.openshift.io/v1/Route/generated", "spec.host"); got != nil {
		t.Errorf("a generated host was kept: %v", got)
	}
	patch(t, west, again, "route.openshift.io/v1/Route/generated", "spec: {host: whatever.apps.elsewhere.test}") // as the target would
	if out, err := w.set.Verify(deadline(t), west, w.opts); err != nil || strings.Contains(fmt.Sprint(out.Problems), "whatever") {
		t.Errorf("what the target generated is a problem: %v %q", err, out.Problems)
	}
}

// A host that somebody else has at the target: the failure says who.
func TestRouteHostThatIsClaimed(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	withRoutes(t, east, west)
	const ns = "route-claimed"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: web, namespace: @NS@}, spec: {host: taken.example.com, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: api, namespace: @NS@}, spec: {host: api.taken.example.com, path: /v2, to: {kind: Service, name: web}}}`)
	create(t, west, "route-claimer", `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: elder, namespace: @NS@}, spec: {host: taken.example.com, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: other-path, namespace: @NS@}, spec: {host: api.taken.example.com, path: /v1, to: {kind: Service, name: web}}}`)
	v.apply()
	const refused = `status: {ingress: [{host: x, routerName: default, conditions: [{type: Admitted, status: "False", reason: HostAlreadyClaimed, message: "a route in another namespace holds the host"}]}]}`
	patch(t, west, ns, "route.openshift.io/v1/Route/web", refused, "status")
	patch(t, west, ns, "route.openshift.io/v1/Route/api", refused, "status")
	out, err := v.set.Verify(deadline(t), west, v.opts)
	if err != nil || len(out.Problems) != 2 {
		t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	names(t, out.Problems, "Route "+ns+"/web", "HostAlreadyClaimed", "taken.example.com", "Route route-claimer/elder")
	names(t, out.Problems, "Route "+ns+"/api", "HostAlreadyClaimed")
	if strings.Contains(fmt.Sprint(out.Problems), "other-path") {
		t.Errorf("a Route with another path is blamed: %q", out.Problems)
	}
	// It does not go away by waiting: that ends soon.
	began := time.Now()
	_, err = v.set.AwaitReady(deadline(t), west, v.opts, nil)
	if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), "route-claimer/elder") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it waited %s for what cannot be", took)
	}
}

// Gateway API: hosts within the site's domain move, addresses stay behind, the order is kept.
func TestGatewayRoutes(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, []string{"gateway.networking.k8s.io/v1/Gateway/gateways", "gateway.networking.k8s.io/v1/HTTPRoute/httproutes", "gateway.networking.k8s.io/v1beta1/ReferenceGrant/referencegrants"}, east, west)
	const ns = "gateway"
	create(t, east, ns, emptyNamespace+`---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: @NS@}, spec: {gatewayClassName: a, listeners: [{name: own, port: 443, protocol: HTTPS, hostname: "*.apps.east.test"}, {name: custom, port: 80, protocol: HTTP, hostname: shop.example.com}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: @NS@}, spec: {parentRefs: [{name: front}], hostnames: [web.apps.east.test, shop.example.com], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: grant, namespace: @NS@}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: @NS@}], to: [{group: "", kind: Service}]}}`)
	patch(t, east, ns, "gateway.networking.k8s.io/v1/Gateway/front", "status: {addresses: [{value: 192.0.2.4}]}", "status")
	v := moving(t, east, west, ns)
	v.opts.From.Ingress.Domain = "apps.east.test"
	v.apply()
	if got := fmt.Sprint(v.field("gateway.networking.k8s.io/v1/Gateway/front", "spec.listeners")); !strings.Contains(got, "*.apps.west.test") || !strings.Contains(got, "shop.example.com") {
		t.Errorf("listeners %s", got)
	}
	if got := fmt.Sprint(v.field("gateway.networking.k8s.io/v1/HTTPRoute/web", "spec.hostnames")); got != "[web.apps.west.test shop.example.com]" {
		t.Errorf("hosts %s", got)
	}
	if got := v.field("gateway.networking.k8s.io/v1/Gateway/front", "status"); got != nil {
		t.Errorf("the old address came along: %v", got)
	}
	if !v.there("gateway.networking.k8s.io/v1beta1/ReferenceGrant/grant") {
		t.Error("the grant is not there")
	}
	v.verify()
	v.twice()
}
