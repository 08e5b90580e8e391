// Package podnode runs the node of a site whose pods are real containers: kubelet, containerd, runc, CNI
// and kube-proxy in namespaces of the site's own, and the network that joins the sites of a lab.
//
// A lab's network is one bridge in a namespace of its own. The root namespace hangs on it by one veth, on
// which the client, the DNS server, the resolver and the vault have their addresses; each site hangs on it
// by another. So nothing of the machine's own network is changed but for that one interface, and a firewall
// that the machine has for forwarded traffic does not see what sites send each other.
package podnode

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// MaxSites is how many sites a plan has addresses for.
const MaxSites = 40

// serviceCIDR is the same in every site: a Service's address means something only inside its site.
const serviceCIDR = "10.96.0.0/16"

// Names that stand for what is outside all sites, as Cut and Heal take them.
const (
	Client   = "client"
	DNS      = "dns"
	Resolver = "resolver"
	Vault    = "vault"
)

// Plan is the network of a lab. Everything in it follows from three values, so that whoever knows them
// can take the network down, after a crash too.
type Plan struct {
	Dir   string   // the lab's directory; names of interfaces and namespaces derive from it
	Octet int      // the lab has 10.Octet.0.0/16
	Sites []string // by index, from 1 on: the first is site 1
}

// SiteNet is the part of a plan that is one site's.
type SiteNet struct {
	Name      string
	Index     int
	Namespace string       // name of the network namespace, as in `ip netns`
	Address   netip.Addr   // the site's one address on the bridge
	LB        netip.Prefix // addresses for Services of type LoadBalancer, routed to the site
	Pods      netip.Prefix // pods' addresses, hidden behind Address outside the site
	Services  netip.Prefix // ClusterIPs
}

// ID is what tells this lab's names from another's.
func (p Plan) ID() string {
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		dir = p.Dir
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dir)))
	return hex.EncodeToString(sum[:3])
}

// Interface is the lab's one interface in the root namespace.
func (p Plan) Interface() string { return "lifeboat" + p.ID() }

// bridgeNS is the namespace in which the bridge stands.
func (p Plan) bridgeNS() string { return "lifeboat-" + p.ID() }

// Bridge is the subnet that all sites and the root namespace share.
func (p Plan) Bridge() netip.Prefix { return netip.PrefixFrom(p.addr(0, 0), 24) }

// ClientAddr is the root namespace's first address: what a client's connections come from.
func (p Plan) ClientAddr() netip.Addr { return p.addr(0, 1) }

// DNSAddr is for the authoritative DNS server.
func (p Plan) DNSAddr() netip.Addr { return p.addr(0, 53) }

// ResolverAddr is for the caching resolver.
func (p Plan) ResolverAddr() netip.Addr { return p.addr(0, 54) }

// VaultAddr is for an object store that stands outside the sites.
func (p Plan) VaultAddr() netip.Addr { return p.addr(0, 60) }

// Site returns the part of the plan that is the named site's.
func (p Plan) Site(name string) (SiteNet, error) {
	for i, s := range p.Sites {
		if s == name {
			return p.site(i + 1), nil
		}
	}
	return SiteNet{}, fmt.Errorf("no site %q in the lab of %s (it has %s)", name, p.Dir, strings.Join(p.Sites, ", "))
}

func (p Plan) site(i int) SiteNet {
	return SiteNet{
		Name:      p.Sites[i-1],
		Index:     i,
		Namespace: p.bridgeNS() + "-" + p.Sites[i-1],
		Address:   p.addr(0, 10+i),
		LB:        netip.PrefixFrom(p.addr(i, 0), 24),
		Pods:      netip.PrefixFrom(p.addr(100+i, 0), 24),
		Services:  netip.MustParsePrefix(serviceCIDR),
	}
}

// each is every site's part of the plan.
func (p Plan) each() []SiteNet {
	all := make([]SiteNet, 0, len(p.Sites))
	for i := range p.Sites {
		all = append(all, p.site(i+1))
	}
	return all
}

func (p Plan) addr(third, fourth int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(p.Octet), byte(third), byte(fourth)})
}

// check refuses a plan that would make names or addresses which the kernel or another lab cannot have.
func (p Plan) check() error {
	if p.Dir == "" {
		return fmt.Errorf("the network of a lab needs the lab's directory")
	}
	if p.Octet < 1 || p.Octet > 254 || p.Octet == 96 {
		return fmt.Errorf("the network of the lab in %s: octet %d is not in 1–254, or is the Services' 96", p.Dir, p.Octet)
	}
	if len(p.Sites) > MaxSites {
		return fmt.Errorf("the network of the lab in %s: %d sites, and there are addresses for %d", p.Dir, len(p.Sites), MaxSites)
	}
	seen := map[string]bool{Client: true, DNS: true, Resolver: true, Vault: true}
	for _, s := range p.Sites {
		if s == "" || strings.ContainsAny(s, "/ \n\t{}\"") || seen[s] {
			return fmt.Errorf("the network of the lab in %s: site name %q is empty, taken or not a plain name", p.Dir, s)
		}
		seen[s] = true
	}
	return nil
}
