// Package topology says at which addresses a lab's parts stand, for both kinds of node.
package topology

import (
	"fmt"
	"net/netip"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// Site are a site's addresses.
type Site struct {
	Index        int            // from 1
	Public       netip.AddrPort // the API server, for everybody outside the site
	Ingress      netip.Addr
	Registry     netip.AddrPort
	Inner        netip.Addr // the API server and etcd, for the site's own programs
	ClusterDNS   netip.Addr
	Node         netip.Addr
	LoadBalancer netip.Prefix
	Pods         netip.Prefix
	Services     netip.Prefix
}

// World are the addresses of what stands outside all sites.
type World struct {
	Nameserver netip.Addr
	Resolver   netip.Addr
	Service    netip.AddrPort // the world's own service
}

// Of returns the addresses of a site.
func Of(st *state.State, name string) (Site, error) {
	index := 0
	for i, s := range st.Sites {
		if s.Name == name {
			index = i + 1
		}
	}
	if index == 0 {
		return Site{}, fmt.Errorf("the lab %s has no site %q", st.Name, name)
	}
	if st.Nodes == state.Pods {
		return ofPods(st, name, index)
	}
	l, err := layout.LoopbackOf(st.Octet, index)
	if err != nil {
		return Site{}, err
	}
	return Site{
		Index:        index,
		Public:       netip.AddrPortFrom(l.Public, layout.APIPort),
		Ingress:      l.Ingress,
		Registry:     netip.AddrPortFrom(l.Registry, layout.RegistryPort),
		Inner:        l.Inner,
		ClusterDNS:   l.ClusterDNS,
		Node:         l.Node,
		LoadBalancer: l.LoadBalancer,
		Pods:         l.Pods,
		Services:     l.Services,
	}, nil
}

func ofPods(st *state.State, name string, index int) (Site, error) {
	n, err := PodPlan(st).Site(name)
	if err != nil {
		return Site{}, err
	}
	return Site{
		Index:        index,
		Public:       netip.AddrPortFrom(n.Address, layout.APIPort),
		Ingress:      n.Address,
		Registry:     netip.AddrPortFrom(n.Address, layout.RegistryPort),
		Inner:        netip.AddrFrom4([4]byte{127, 0, 0, 1}), // the site has a loopback of its own
		ClusterDNS:   n.Address,
		Node:         n.Address,
		LoadBalancer: n.LB,
		Pods:         n.Pods,
		Services:     n.Services,
	}, nil
}

// OfWorld returns the addresses of what stands outside all sites.
func OfWorld(st *state.State) World {
	if st.Nodes == state.Pods {
		p := PodPlan(st)
		return World{p.DNSAddr(), p.ResolverAddr(), netip.AddrPortFrom(p.ClientAddr(), layout.WorldPort)}
	}
	return World{
		layout.Nameserver(st.Octet), layout.Resolver(st.Octet),
		netip.AddrPortFrom(layout.Guard(st.Octet), layout.WorldPort),
	}
}

// PodPlan is the network of a lab in mode pods.
func PodPlan(st *state.State) podnode.Plan {
	p := podnode.Plan{Dir: st.Dir, Octet: st.Octet}
	for _, s := range st.Sites {
		p.Sites = append(p.Sites, s.Name)
	}
	return p
}
