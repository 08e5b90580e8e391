package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lifeboat.dev/lifeboat/lab/internal/svcproxy"
)

func fresh() *http.Client {
	return &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

func answersWith(t *testing.T, address, part string) {
	t.Helper()
	eventually(t, address, func() error {
		_, body, err := get(fresh(), "http://"+address+"/")
		if err == nil && !strings.Contains(body, part) {
			err = fmt.Errorf("answer %q, want %q", body, part)
		}
		return err
	})
}

func testProxy(t *testing.T, e *env) {
	e.pod(t, "p", "127.203.12.11", map[string]string{"app": "p"}, nil)
	webAt(t, "127.203.12.11:8080", says("pod-p"))
	ready := make(chan struct{})
	options := svcproxy.Options{Config: e.cfg, NodeAddress: "127.203.10.10", APIServer: strings.TrimPrefix(e.cfg.Host, "https://"),
		Pool: netip.MustParsePrefix("127.203.11.0/24"), Log: quiet(), Ready: func() { close(ready) }}
	stop := run(t, "proxy", func(ctx context.Context) error { return svcproxy.Run(ctx, options) })
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	s := e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer,
		Selector: map[string]string{"app": "p"}, Ports: []corev1.ServicePort{{Name: "http", Port: 8099, TargetPort: intstr.FromString("web")}}}})
	e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None",
		Selector: map[string]string{"app": "p"}, Ports: []corev1.ServicePort{{Port: 8099}}}})
	answersWith(t, s.Spec.ClusterIP+":8099", "pod-p")
	address := e.loadBalancer(t, "s")
	answersWith(t, address+":8099", "pod-p")
	answersWith(t, fmt.Sprintf("127.203.10.10:%d", s.Spec.Ports[0].NodePort), "pod-p")
	e.kubernetesService(t)
	e.udp(t)

	e.status(t, "p", "127.203.12.11", corev1.ConditionFalse)
	eventually(t, "a Service without a ready pod refuses", func() error {
		if _, body, err := get(fresh(), "http://"+s.Spec.ClusterIP+":8099/"); err == nil {
			return fmt.Errorf("answered %q", body)
		}
		return nil
	})
	e.status(t, "p", "127.203.12.11", corev1.ConditionTrue)
	answersWith(t, s.Spec.ClusterIP+":8099", "pod-p")

	stop()
	options.Ready = nil
	run(t, "second proxy", func(ctx context.Context) error { return svcproxy.Run(ctx, options) })
	answersWith(t, address+":8099", "pod-p")
	if again := e.loadBalancer(t, "s"); again != address {
		t.Errorf("address %s after a restart, was %s", again, address)
	}
	if err := e.CoreV1().Services(e.ns).Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a deleted Service's port is closed", func() error {
		c, err := net.DialTimeout("tcp", s.Spec.ClusterIP+":8099", time.Second)
		if err != nil {
			return nil
		}
		return fmt.Errorf("still open; closing: %v", c.Close())
	})
}

func (e *env) loadBalancer(t *testing.T, name string) string {
	t.Helper()
	var ip string
	eventually(t, "address of Service "+name, func() error {
		s, err := e.CoreV1().Services(e.ns).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && len(s.Status.LoadBalancer.Ingress) != 1 {
			err = fmt.Errorf("status %+v", s.Status)
		}
		if err == nil {
			ip = s.Status.LoadBalancer.Ingress[0].IP
		}
		return err
	})
	return ip
}

// kubernetesService asks the API server by the address that pods know it by.
func (e *env) kubernetesService(t *testing.T) {
	eventually(t, "the Service kubernetes", func() error {
		s, err := e.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil {
			return err
		}
		c, err := net.DialTimeout("tcp", s.Spec.ClusterIP+":443", time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (e *env) udp(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.203.12.11:9053")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // ends the loop below
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(append([]byte("echo "), buf[:n]...), from) // the client asks again
		}
	}()
	s := e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "udp"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "p"},
		Ports: []corev1.ServicePort{{Port: 9953, TargetPort: intstr.FromInt32(9053), Protocol: corev1.ProtocolUDP}}}})
	eventually(t, "UDP", func() error {
		c, err := net.Dial("udp", s.Spec.ClusterIP+":9953")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		fmt.Fprint(c, "ahoy")
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err == nil && string(buf[:n]) != "echo ahoy" {
			err = fmt.Errorf("answer %q", buf[:n])
		}
		return err
	})
}

// testAllocateOnly works on the same Services as testProxy, as two nodes' agents never would: its pool is
// another, so it looks only at what becomes of its own addresses.
func testAllocateOnly(t *testing.T, e *env) {
	var mu sync.Mutex
	added := map[netip.Addr]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pool := netip.MustParsePrefix("10.99.1.0/24")
	s := e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "lb"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer,
		LoadBalancerClass: ptr("lab.test/only-this-test"), Ports: []corev1.ServicePort{{Port: 80}}}})
	run(t, "allocator", func(context.Context) error {
		return svcproxy.Run(ctx, svcproxy.Options{Config: e.cfg, Pool: pool, AllocateOnly: true, Class: "lab.test/only-this-test", Log: quiet(),
			AddAddress:    func(_ context.Context, a netip.Addr) error { mu.Lock(); added[a] = true; mu.Unlock(); return nil },
			RemoveAddress: func(_ context.Context, a netip.Addr) error { mu.Lock(); delete(added, a); mu.Unlock(); return nil },
		})
	})
	a := netip.MustParseAddr(e.loadBalancer(t, s.Name))
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(added) }
	if !pool.Contains(a) {
		t.Fatalf("address %s", a)
	}
	eventually(t, "the address is added", func() error {
		if mu.Lock(); added[a] {
			mu.Unlock()
			return nil
		}
		mu.Unlock()
		return fmt.Errorf("added: %d", count())
	})
	if err := e.CoreV1().Services(e.ns).Delete(t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the address is removed", func() error {
		if count() != 0 {
			return fmt.Errorf("%d addresses", count())
		}
		return nil
	})
	cancel()
}

func ptr[T any](v T) *T { return &v }
