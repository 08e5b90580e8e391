// Package svcproxy makes a site's Services reachable where no kube-proxy runs, and gives Services of type
// LoadBalancer their addresses.
package svcproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/lab/internal/backends"
	"lifeboat.dev/lifeboat/lab/internal/ports"
)

// retryAfter is when what failed (an address in use, a status not written) is tried again.
const retryAfter = time.Second

// Options say which Services are served and where.
type Options struct {
	Config      *rest.Config
	NodeAddress string       // NodePorts are served here
	APIServer   string       // host:port behind the Service default/kubernetes
	Pool        netip.Prefix // addresses for Services of type LoadBalancer
	// Class is the loadBalancerClass whose Services get addresses; empty: those of no class.
	Class string
	// AllocateOnly gives out LoadBalancer addresses but forwards nothing (kube-proxy does).
	AllocateOnly bool
	// AddAddress makes a LoadBalancer address exist on this machine, again after each start. Nil: nothing to do.
	AddAddress func(ctx context.Context, a netip.Addr) error
	// RemoveAddress undoes AddAddress once no Service has the address any more. May be nil.
	RemoveAddress func(ctx context.Context, a netip.Addr) error
	Log           *slog.Logger
	Ready         func() // called once, when all Services there at the start are served
}

// proxy is the running proxy. Its fields belong to the goroutine of Run.
type proxy struct {
	Options
	client kubernetes.Interface
	set    *backends.Set
	open   map[door]*served
	added  map[netip.Addr]bool // LoadBalancer addresses that were made to exist
}

// door is an address that a Service is reached at.
type door struct {
	addr     netip.AddrPort
	protocol corev1.Protocol
}

// behind is what lies behind a door. Where the port leads is looked up for each connection, so that a
// Service may be changed without its doors closing for a moment.
type behind struct {
	namespace, service string
	port               int32
	protocol           corev1.Protocol
}

// served is an open door.
type served struct {
	behind behind
	port   int // that was really opened
	stop   context.CancelFunc
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return fmt.Errorf("service proxy: %w", err)
	}
	changed := make(chan struct{}, 1)
	p := &proxy{Options: o, client: client, open: map[door]*served{}, added: map[netip.Addr]bool{}}
	p.set, err = backends.Start(ctx, client, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("service proxy: %w", err)
	}
	ready := o.Ready
	for {
		var again <-chan time.Time
		if err := p.pass(ctx); err != nil && ctx.Err() == nil {
			o.Log.Warn("serving Services", "error", err)
			again = time.After(retryAfter)
		}
		if ready != nil {
			ready()
			ready = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// pass gives out addresses, opens what is to be open and closes the rest.
func (p *proxy) pass(ctx context.Context) error {
	services := p.set.Services()
	errs := []error{p.allocate(ctx, services)}
	if p.AllocateOnly {
		return errors.Join(errs...)
	}
	want := map[door]behind{}
	for _, svc := range services {
		for d, b := range p.doors(svc) {
			want[d] = b
		}
	}
	for d, s := range p.open {
		if b, ok := want[d]; !ok || b != s.behind {
			s.stop()
			delete(p.open, d)
		}
	}
	for d, b := range want {
		if p.open[d] != nil {
			continue
		}
		s, err := p.serve(ctx, d, b)
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s/%s: %w", b.namespace, b.service, err))
			continue
		}
		p.open[d] = s
	}
	for _, svc := range services {
		errs = append(errs, p.tellPorts(ctx, svc))
	}
	return errors.Join(errs...)
}

// doors are the addresses of a Service.
func (p *proxy) doors(svc *corev1.Service) map[door]behind {
	out := map[door]behind{}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return out
	}
	var addrs []string
	addrs = append(addrs, svc.Spec.ClusterIPs...)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		addrs = append(addrs, in.IP)
	}
	for _, port := range svc.Spec.Ports {
		b := behind{svc.Namespace, svc.Name, port.Port, port.Protocol}
		for _, text := range addrs {
			if a, err := netip.ParseAddr(text); err == nil {
				out[door{netip.AddrPortFrom(a, uint16(port.Port)), port.Protocol}] = b
			}
		}
		if node, err := netip.ParseAddr(p.NodeAddress); err == nil && port.NodePort != 0 {
			out[door{netip.AddrPortFrom(node, uint16(port.NodePort)), port.Protocol}] = b
		}
	}
	return out
}

func (p *proxy) serve(ctx context.Context, d door, b behind) (*served, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &served{behind: b, stop: stop}
	var err error
	switch d.protocol {
	case corev1.ProtocolUDP:
		var c net.PacketConn
		if c, s.port, err = ports.ListenPacket(ctx, d.addr.Addr().String(), int(d.addr.Port())); err == nil {
			go forwardUDP(ctx, c, func() (string, bool) { return p.pick(b) })
		}
	default: // TCP; nothing here speaks SCTP, whose doors answer nobody anyway
		var l net.Listener
		if l, s.port, err = ports.Listen(ctx, d.addr.Addr().String(), int(d.addr.Port())); err == nil {
			go forwardTCP(ctx, l, func() (string, bool) { return p.pick(b) })
		}
	}
	if err != nil {
		stop()
		return nil, err
	}
	return s, nil
}
