package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/lab/internal/clusterdns"
)

// testClusterDNS asks for the names that pods use.
func testClusterDNS(t *testing.T, e *env) {
	labels := map[string]string{"app": "db"}
	svc := e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
	e.service(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 5432}}}})
	e.pod(t, "db-0", "127.203.77.1", labels, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "db" })
	e.pod(t, "db-1", "127.203.77.2", labels, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-1", "db" })
	e.status(t, "db-1", "127.203.77.2", corev1.ConditionFalse)

	server := make(chan string, 1)
	run(t, "cluster DNS", func(ctx context.Context) error {
		return clusterdns.Run(ctx, clusterdns.Options{Config: e.cfg, Address: "127.203.77.53", Port: 10053, Log: quiet(), Ready: func(s string) { server <- s }})
	})
	var at string
	select {
	case at = <-server:
	case <-time.After(15 * time.Second):
		t.Fatal("cluster DNS is not ready after 15 s")
	}
	ask := func(name string, qtype uint16) (int, []string) {
		m, _, err := (&dns.Client{Timeout: time.Second}).ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, qtype), at)
		if err != nil {
			return -1, []string{err.Error()}
		}
		var out []string
		for _, rr := range m.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				out = append(out, rr.A.String())
			case *dns.SRV:
				out = append(out, fmt.Sprintf("%s:%d", rr.Target, rr.Port))
			}
		}
		slices.Sort(out)
		return m.Rcode, out
	}
	suffix := "." + e.ns + ".svc.cluster.local."
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"web" + suffix, dns.TypeA, dns.RcodeSuccess, []string{svc.Spec.ClusterIP}},
		{"db" + suffix, dns.TypeA, dns.RcodeSuccess, []string{"127.203.77.1"}},
		{"db-0.db" + suffix, dns.TypeA, dns.RcodeSuccess, []string{"127.203.77.1"}},
		{"_http._tcp.web" + suffix, dns.TypeSRV, dns.RcodeSuccess, []string{"web" + suffix + ":80"}},
		{"nothing" + suffix, dns.TypeA, dns.RcodeNameError, nil},
		{"shop.lab.test.", dns.TypeA, dns.RcodeRefused, nil}, // no upstream was given
	} {
		eventually(t, c.name, func() error {
			rcode, got := ask(c.name, c.qtype)
			if rcode != c.rcode || !slices.Equal(got, c.want) {
				return fmt.Errorf("code %d %v, want %d %v", rcode, got, c.rcode, c.want)
			}
			return nil
		})
	}
}
