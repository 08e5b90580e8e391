// Package layout says where everything of a lab is: paths in its directory, and addresses.
package layout

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Zone is the shared DNS zone.
const Zone = "lab.test"

// Ports that do not depend on privileges.
const (
	APIPort      = 6443
	EtcdPort     = 2379
	EtcdPeerPort = 2380
	RegistryPort = 5000
	KubeletPort  = 10250
	WorldPort    = 7766 // the world's own service
	ClaimPort    = 7767 // bound by a command that has chosen a lab's octet, until the lab runs
)

// Dir is a lab's directory.
type Dir string

// Paths shared by all of a lab.
func (d Dir) Marker() string     { return filepath.Join(string(d), ".lifeboat-lab") }
func (d Dir) Lock() string       { return filepath.Join(string(d), "lock") }
func (d Dir) EdgeCA() string     { return filepath.Join(string(d), "pki", "ca") } // base of .crt and .key
func (d Dir) Cuts() string       { return filepath.Join(string(d), "cuts.json") }
func (d Dir) Sites() string      { return filepath.Join(string(d), "site") }
func (d Dir) Site(n string) Site { return Site(filepath.Join(d.Sites(), n)) }
func (d Dir) World() Site        { return Site(filepath.Join(string(d), "world")) }

// Site is the directory of one site, or of the world.
type Site string

// Paths of a site.
func (s Site) Name() string             { return filepath.Base(string(s)) }
func (s Site) Logs() string             { return filepath.Join(string(s), "log") }
func (s Site) Log(daemon string) string { return filepath.Join(s.Logs(), daemon+".log") }
func (s Site) Init() string             { return filepath.Join(string(s), "init.json") }   // Ref of the first process
func (s Site) Status() string           { return filepath.Join(string(s), "status.json") } // written by the agent when it serves
func (s Site) PKI(base string) string   { return filepath.Join(string(s), "pki", base) }
func (s Site) Kubeconfig() string       { return filepath.Join(string(s), "kubeconfig") }
func (s Site) InnerKubeconfig() string  { return filepath.Join(string(s), "inner.kubeconfig") }
func (s Site) Etcd() string             { return filepath.Join(string(s), "etcd") }
func (s Site) Volumes() string          { return filepath.Join(string(s), "volumes") }
func (s Site) Registry() string         { return filepath.Join(string(s), "registry") }
func (s Site) Node() string             { return filepath.Join(string(s), "node") }
func (s Site) DNS() string              { return filepath.Join(string(s), "dns") }

// World's addresses in mode processes.
func Guard(octet int) netip.Addr      { return loopback(octet, 0, 1) }
func Nameserver(octet int) netip.Addr { return loopback(octet, 0, 53) }
func Resolver(octet int) netip.Addr   { return loopback(octet, 0, 54) }

// Whole is every address of a lab in mode processes.
func Whole(octet int) netip.Prefix { return netip.PrefixFrom(loopback(octet, 0, 0), 16) }

// MaxSites is how many sites fit in a lab's addresses.
const MaxSites = 24

// Loopback are a site's addresses in mode processes.
type Loopback struct {
	Public       netip.Addr   // the API server as all others see it
	Ingress      netip.Addr   // the router
	Registry     netip.Addr   //
	Inner        netip.Addr   // the API server itself and etcd
	ClusterDNS   netip.Addr   //
	Node         netip.Addr   // kubelet API, NodePorts
	LoadBalancer netip.Prefix // Services of type LoadBalancer
	Pods         netip.Prefix //
	Services     netip.Prefix // ClusterIPs
}

// LoopbackOf returns the addresses of the index-th site, counted from 1.
func LoopbackOf(octet, index int) (Loopback, error) {
	if index < 1 || index > MaxSites {
		return Loopback{}, fmt.Errorf("a lab has 1 to %d sites, not %d", MaxSites, index)
	}
	b := index * 10
	return Loopback{
		Public:       loopback(octet, b, 1),
		Ingress:      loopback(octet, b, 2),
		Registry:     loopback(octet, b, 3),
		Inner:        loopback(octet, b, 4),
		ClusterDNS:   loopback(octet, b, 5),
		Node:         loopback(octet, b, 10),
		LoadBalancer: netip.PrefixFrom(loopback(octet, b+1, 0), 24),
		Pods:         netip.PrefixFrom(loopback(octet, b+2, 0), 23),
		Services:     netip.PrefixFrom(loopback(octet, b+4, 0), 24),
	}, nil
}

// Holds says whether an address is one of the site's.
func (l Loopback) Holds(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	first, b := l.Public.As4(), a.As4()
	return b[0] == 127 && b[1] == first[1] && b[2] >= first[2] && b[2] < first[2]+10
}

func loopback(octet, third, last int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(octet), byte(third), byte(last)})
}
