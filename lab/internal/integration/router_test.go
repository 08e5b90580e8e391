package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"

	"lifeboat.dev/lifeboat/lab/internal/openshift"
	"lifeboat.dev/lifeboat/lab/internal/pki"
	"lifeboat.dev/lifeboat/lab/internal/router"
)

const routerIP = "127.203.10.2"

type routerTest struct {
	*env
	routes      dynamic.ResourceInterface
	ca          *pki.CA
	plain, safe int
}

func testRouter(t *testing.T, e *env) {
	r := startRouter(t, e)
	e.pod(t, "a", "127.203.12.1", map[string]string{"app": "shop"}, nil)
	e.pod(t, "b", "127.203.12.2", map[string]string{"app": "other"}, nil)
	webAt(t, "127.203.12.1:8080", says("pod-a"))
	webAt(t, "127.203.12.2:8080", echo(says("pod-b")))
	for _, app := range []string{"shop", "other"} {
		e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}}})
	}
	r.edge(t)
	r.generatedHost(t)
	r.claimed(t)
	r.weights(t)
	r.passthrough(t)
	r.ingress(t)
	r.websocket(t)
	r.noBackend(t)
}

func startRouter(t *testing.T, e *env) *routerTest {
	t.Helper()
	ca, err := pki.NewCA("router test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &routerTest{env: e, routes: dyn.Resource(openshift.RouteResource()).Namespace(e.ns), ca: ca}
	ready := make(chan struct{})
	run(t, "router", func(ctx context.Context) error {
		return router.Run(ctx, router.Options{Config: e.cfg, Site: "east", Domain: "apps.east.lab.test", Address: routerIP, Log: quiet(),
			Certificate: func(host string) (*tls.Certificate, error) {
				p, err := ca.IssueServer([]string{host}, nil, time.Hour)
				if err != nil {
					return nil, err
				}
				c, err := p.TLS()
				return &c, err
			},
			Ready: func(plain, safe int) { r.plain, r.safe = plain, safe; close(ready) },
		})
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the router is not ready")
	}
	return r
}

// client reaches the router whatever the host is, and trusts the lab's CA.
func (r *routerTest) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.ca.PEM())
	return &http.Client{
		Timeout:       5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			port := r.plain
			if strings.HasSuffix(addr, ":443") {
				port = r.safe
			}
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("%s:%d", routerIP, port))
		}},
	}
}

func (r *routerTest) expect(t *testing.T, url string, code int, part string) {
	t.Helper()
	eventually(t, "GET "+url, func() error {
		got, body, err := get(r.client(), url)
		if err != nil || got != code || !strings.Contains(body, part) {
			return fmt.Errorf("answer %d %q, %v; want %d and %q", got, body, err, code, part)
		}
		return nil
	})
}

func (r *routerTest) create(t *testing.T, name string, spec map[string]any) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "route.openshift.io/v1", "kind": "Route",
		"metadata": map[string]any{"name": name}, "spec": spec}}
	if _, err := r.routes.Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// admitted waits for the router's word on a Route.
func (r *routerTest) admitted(t *testing.T, name, status, reason, message string) openshift.Route {
	t.Helper()
	var route openshift.Route
	eventually(t, "status of Route "+name, func() error {
		u, err := r.routes.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		route = openshift.Route{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &route); err != nil {
			return err
		}
		if len(route.Status.Ingress) != 1 || len(route.Status.Ingress[0].Conditions) != 1 {
			return fmt.Errorf("status %+v", route.Status)
		}
		c := route.Status.Ingress[0].Conditions[0]
		if c.Type != openshift.Admitted || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) || c.LastTransitionTime == nil {
			return fmt.Errorf("condition %+v", c)
		}
		return nil
	})
	return route
}

func to(name string, weight int64) map[string]any {
	return map[string]any{"kind": "Service", "name": name, "weight": weight}
}

func (r *routerTest) edge(t *testing.T) {
	r.create(t, "edge", map[string]any{"host": "shop.lab.test", "to": to("shop", 100), "port": map[string]any{"targetPort": "http"},
		"tls": map[string]any{"termination": "edge", "insecureEdgeTerminationPolicy": "Allow"}})
	r.expect(t, "http://shop.lab.test/x", 200, "pod-a host=shop.lab.test proto=http for=127.0.0.1")
	r.expect(t, "https://shop.lab.test/x", 200, "pod-a host=shop.lab.test proto=https")
	r.admitted(t, "edge", "True", "", "")
	r.create(t, "redirect", map[string]any{"host": "redirect.lab.test", "to": to("shop", 100),
		"tls": map[string]any{"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"}})
	r.expect(t, "http://redirect.lab.test/x?y=1", 302, "https://redirect.lab.test")
	r.create(t, "safe", map[string]any{"host": "safe.lab.test", "to": to("shop", 100), "tls": map[string]any{"termination": "edge"}})
	r.expect(t, "https://safe.lab.test/", 200, "pod-a")
	r.expect(t, "http://safe.lab.test/", 503, "does not serve plain HTTP")
	r.expect(t, "http://nobody.lab.test/", 503, "no Route or Ingress")
}

func (r *routerTest) generatedHost(t *testing.T) {
	r.create(t, "nameless", map[string]any{"to": to("shop", 100)})
	route := r.admitted(t, "nameless", "True", "", "")
	if want := "nameless-" + r.ns + ".apps.east.lab.test"; route.Spec.Host != want || route.Status.Ingress[0].Host != want {
		t.Errorf("host %s, in status %s; want %s", route.Spec.Host, route.Status.Ingress[0].Host, want)
	}
	r.expect(t, "http://"+route.Spec.Host+"/", 200, "pod-a")
}

func (r *routerTest) claimed(t *testing.T) {
	time.Sleep(1100 * time.Millisecond) // creation times have whole seconds
	r.create(t, "younger", map[string]any{"host": "Shop.lab.test", "to": to("other", 100)})
	r.admitted(t, "younger", "False", "HostAlreadyClaimed", r.ns+"/edge already exposes shop.lab.test")
	r.expect(t, "http://shop.lab.test/", 200, "pod-a")
	r.create(t, "by-path", map[string]any{"host": "shop.lab.test", "path": "/other", "to": to("other", 100)})
	r.expect(t, "http://shop.lab.test/other/x", 200, "pod-b")
	r.expect(t, "http://shop.lab.test/otherwise", 200, "pod-a")
	if err := r.routes.Delete(t.Context(), "edge", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.admitted(t, "younger", "True", "", "")
	r.expect(t, "http://shop.lab.test/", 200, "pod-b")
}

func (r *routerTest) weights(t *testing.T) {
	r.create(t, "split", map[string]any{"host": "split.lab.test", "to": to("shop", 75), "alternateBackends": []any{to("other", 25)}})
	r.expect(t, "http://split.lab.test/", 200, "pod-")
	count := 0
	for range 200 {
		_, body, err := get(r.client(), "http://split.lab.test/")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(body, "pod-a") {
			count++
		}
	}
	if count < 110 || count > 190 { // 150 expected; these are more than six deviations away
		t.Errorf("%d of 200 requests went to a backend with weight 75 of 100", count)
	}
}

func (r *routerTest) passthrough(t *testing.T) {
	other, err := pki.NewCA("the pod's own", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.IssueServer([]string{"pass.lab.test"}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.203.12.3:8443", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(l, says("pod-tls")) }() // ends with the listener
	t.Cleanup(func() { _ = l.Close() })                // ends with the test
	r.pod(t, "tls", "127.203.12.3", map[string]string{"app": "tls"}, nil)
	r.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "tls"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "tls"},
		Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}}})
	r.create(t, "pass", map[string]any{"host": "pass.lab.test", "to": to("tls", 100), "tls": map[string]any{"termination": "passthrough"}})
	r.create(t, "again", map[string]any{"host": "again.lab.test", "to": to("tls", 100), "tls": map[string]any{"termination": "reencrypt"}})
	c := r.client()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(other.PEM())
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
	eventually(t, "passthrough", func() error {
		code, body, err := get(c, "https://pass.lab.test/")
		if err != nil || code != 200 || !strings.HasPrefix(body, "pod-tls") {
			return fmt.Errorf("%d %q %v", code, body, err)
		}
		return nil
	})
	r.expect(t, "https://again.lab.test/", 200, "pod-tls")
}

func (r *routerTest) ingress(t *testing.T) {
	prefix, exact := networkingv1.PathTypePrefix, networkingv1.PathTypeExact
	backend := func(name string) networkingv1.IngressBackend {
		return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: 80}}}
	}
	_, err := r.NetworkingV1().Ingresses(r.ns).Create(t.Context(), &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: "web.lab.test", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: backend("shop")}, {Path: "/one", PathType: &exact, Backend: backend("other")}}}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.expect(t, "http://web.lab.test/one", 200, "pod-b")
	r.expect(t, "https://web.lab.test/one/two", 200, "pod-a")
	eventually(t, "status of the Ingress", func() error {
		i, err := r.NetworkingV1().Ingresses(r.ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err == nil && (len(i.Status.LoadBalancer.Ingress) != 1 || i.Status.LoadBalancer.Ingress[0].IP != routerIP) {
			err = fmt.Errorf("%+v", i.Status)
		}
		return err
	})
}

// echo takes over connections that ask for it, as a websocket does.
func echo(other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			other.ServeHTTP(w, r)
			return
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw) // ends with the client
	})
}

func (r *routerTest) websocket(t *testing.T) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", routerIP, r.plain), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: shop.lab.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	fmt.Fprintln(c, "ahoy")
	if line, err := in.ReadString('\n'); err != nil || line != "ahoy\n" {
		t.Fatalf("through the upgraded connection: %q, %v", line, err)
	}
}

func (r *routerTest) noBackend(t *testing.T) {
	r.status(t, "b", "127.203.12.2", corev1.ConditionFalse)
	r.expect(t, "http://shop.lab.test/", 503, "no ready pod")
	r.status(t, "b", "127.203.12.99", corev1.ConditionTrue) // ready, it says, but nothing listens
	r.expect(t, "http://shop.lab.test/", 503, "no pod answers")
}
