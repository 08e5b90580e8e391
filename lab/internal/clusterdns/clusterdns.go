// Package clusterdns answers the names of Services and pods inside a site, and forwards the rest.
package clusterdns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/lab/internal/backends"
	"lifeboat.dev/lifeboat/lab/internal/ports"
	"lifeboat.dev/lifeboat/lab/internal/resolver"
)

const (
	ttl         = 5               // seconds, as CoreDNS answers
	askDeadline = 2 * time.Second // for one question to an upstream server
)

// Options say what is answered and where.
type Options struct {
	Config   *rest.Config
	Address  string
	Port     int      // 53 if zero; port+8000 where it may not be bound
	Domain   string   // "cluster.local" if empty
	Upstream []string // ip:port; none: names outside Domain are REFUSED
	Log      *slog.Logger
	Ready    func(server string) // called once with ip:port
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.Port == 0 {
		o.Port = 53
	}
	if o.Domain == "" {
		o.Domain = "cluster.local"
	}
	client, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	set, err := backends.Start(ctx, client, nil)
	if err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	l, p, port, err := ports.ListenBoth(ctx, o.Address, o.Port)
	if err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	s := &server{set: set, suffix: ".svc." + dns.Fqdn(o.Domain), domain: dns.Fqdn(o.Domain), upstream: o.Upstream}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := s.answer(ctx, q)
		if w.RemoteAddr().Network() == "udp" {
			size := dns.MinMsgSize
			if opt := q.IsEdns0(); opt != nil {
				size = max(size, int(opt.UDPSize()))
			}
			reply.Truncate(size)
		}
		_ = w.WriteMsg(reply) // the asker went away: nobody to tell
	})
	return resolver.Serve(ctx, l, p, handler, nil, func() {
		if o.Ready != nil {
			o.Ready(net.JoinHostPort(o.Address, strconv.Itoa(port)))
		}
	})
}

type server struct {
	set            *backends.Set
	suffix, domain string // ".svc.cluster.local.", "cluster.local."
	upstream       []string
}

func (s *server) answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return reply.SetRcode(q, dns.RcodeNotImplemented)
	}
	name := strings.ToLower(q.Question[0].Name)
	if !dns.IsSubDomain(s.domain, name) {
		return s.forward(ctx, q)
	}
	reply.Authoritative = true
	found := s.find(name)
	for _, rr := range found {
		if rr.Header().Rrtype == q.Question[0].Qtype {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	if len(found) == 0 {
		reply.Rcode = dns.RcodeNameError
	}
	return reply
}

// find returns all records of a name of this cluster: SERVICE.NS, POD.SERVICE.NS and _PORT._PROTO.SERVICE.NS.
func (s *server) find(name string) []dns.RR {
	rest, ok := strings.CutSuffix(name, s.suffix)
	if !ok {
		return nil
	}
	labels := strings.Split(rest, ".")
	if len(labels) < 2 {
		return nil
	}
	svc, ok := s.set.Service(labels[len(labels)-1], labels[len(labels)-2])
	if !ok {
		return nil
	}
	switch front := labels[:len(labels)-2]; {
	case len(front) == 0:
		return addresses(name, s.ips(svc))
	case len(front) == 1:
		return addresses(name, s.pod(svc, front[0]))
	case len(front) == 2 && strings.HasPrefix(front[0], "_") && strings.HasPrefix(front[1], "_"):
		return s.srv(name, svc, front[0][1:], front[1][1:])
	}
	return nil
}

// ips are a Service's address, or those of its pods where it is headless.
func (s *server) ips(svc *corev1.Service) []string {
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		return svc.Spec.ClusterIPs
	}
	var out []string
	for _, p := range s.set.Pods(svc) {
		if svc.Spec.PublishNotReadyAddresses || backends.Ready(p) {
			out = append(out, p.Status.PodIP)
		}
	}
	return out
}

// pod is the address of a pod that has a name of its own below its headless Service.
func (s *server) pod(svc *corev1.Service, host string) []string {
	for _, p := range s.set.Pods(svc) {
		if p.Spec.Subdomain == svc.Name && p.Spec.Hostname == host && (svc.Spec.PublishNotReadyAddresses || backends.Ready(p)) {
			return []string{p.Status.PodIP}
		}
	}
	return nil
}

func (s *server) srv(name string, svc *corev1.Service, port, protocol string) []dns.RR {
	for _, p := range svc.Spec.Ports {
		if p.Name != port || !strings.EqualFold(string(p.Protocol), protocol) {
			continue
		}
		target := svc.Name + "." + svc.Namespace + s.suffix
		if svc.Spec.ClusterIP != corev1.ClusterIPNone {
			return []dns.RR{&dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: uint16(p.Port), Target: target}}
		}
		return s.podSRV(name, target, svc, p)
	}
	return nil
}

// podSRV leads to each pod behind a headless Service that has a name of its own.
func (s *server) podSRV(name, target string, svc *corev1.Service, port corev1.ServicePort) []dns.RR {
	var out []dns.RR
	for _, p := range s.set.Pods(svc) {
		n := backends.TargetPort(p, port)
		if n != 0 && p.Spec.Subdomain == svc.Name && p.Spec.Hostname != "" && (svc.Spec.PublishNotReadyAddresses || backends.Ready(p)) {
			out = append(out, &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: n, Target: p.Spec.Hostname + "." + target})
		}
	}
	return out
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

func addresses(name string, ips []string) []dns.RR {
	var out []dns.RR
	for _, text := range ips {
		ip := net.ParseIP(text)
		switch {
		case ip == nil:
		case ip.To4() != nil:
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: ip.To4()})
		default:
			out = append(out, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip})
		}
	}
	return out
}

// forward asks the world outside of the cluster.
func (s *server) forward(ctx context.Context, q *dns.Msg) *dns.Msg {
	if len(s.upstream) == 0 {
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	}
	client := &dns.Client{Timeout: askDeadline}
	for _, u := range s.upstream {
		m, _, err := client.ExchangeContext(ctx, q, u)
		if err == nil && m.Truncated {
			whole := &dns.Client{Net: "tcp", Timeout: askDeadline}
			m, _, err = whole.ExchangeContext(ctx, q, u)
		}
		if err == nil {
			return m
		}
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}
