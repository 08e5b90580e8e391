// Package svcproxy makes a site's Services reachable where no kube-proxy runs, and gives Services of type
// LoadBalancer their addresses.
package svcproxy

import (
	"context"
	"log/slog"
	"net/netip"

	"k8s.io/client-go/rest"
)

// Options say which Services are served and where.
type Options struct {
	Config      *rest.Config
	NodeAddress string       // NodePorts are served here
	APIServer   string       // host:port behind the Service default/kubernetes
	Pool        netip.Prefix // addresses for Services of type LoadBalancer
	// AllocateOnly gives out LoadBalancer addresses but forwards nothing (kube-proxy does).
	AllocateOnly bool
	// AddAddress makes a LoadBalancer address exist on this machine, again after each start. Nil: nothing to do.
	AddAddress func(ctx context.Context, a netip.Addr) error
	// RemoveAddress undoes AddAddress once no Service has the address any more. May be nil.
	RemoveAddress func(ctx context.Context, a netip.Addr) error
	Log           *slog.Logger
	Ready         func() // called once, when all Services there at the start are served
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
