package podnode

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

const (
	cutTable = "lifeboat_cut"
	cutMark  = "0x01000000" // a bit that kube-proxy and the CNI plugins leave alone
)

// cutBase makes the tables, empty, or leaves them as they are. Whole partitions are in the netdev family, at
// the very edge of the site, where a dropped packet is lost without the sender being told; those of one
// direction need to know who began a connection, which only the inet family can tell.
const cutBase = `add table netdev lifeboat_cut
add set netdev lifeboat_cut peers { type ipv4_addr; flags interval; }
add chain netdev lifeboat_cut in { type filter hook ingress device "eth0" priority 0; }
add chain netdev lifeboat_cut out { type filter hook egress device "eth0" priority 0; }
flush chain netdev lifeboat_cut in
flush chain netdev lifeboat_cut out
add rule netdev lifeboat_cut in ip saddr @peers drop
add rule netdev lifeboat_cut out ip daddr @peers drop
add rule netdev lifeboat_cut out meta mark & 0x01000000 != 0 drop
add table inet lifeboat_cut
add set inet lifeboat_cut towards { type ipv4_addr; flags interval; }
add set inet lifeboat_cut from { type ipv4_addr; flags interval; }
add chain inet lifeboat_cut in { type filter hook prerouting priority mangle; }
add chain inet lifeboat_cut out { type filter hook postrouting priority 200; }
flush chain inet lifeboat_cut in
flush chain inet lifeboat_cut out
add rule inet lifeboat_cut in iifname "eth0" ct direction original ip saddr @from drop
add rule inet lifeboat_cut out oifname "eth0" ct direction original ip daddr @towards meta mark set meta mark | 0x01000000
`

// Cut makes a partition between a and b, of which at least one is a site and the other a site, Client, DNS,
// Resolver or Vault. Packets vanish, as they do in life: connections that exist stall. With oneWay only the
// packets of connections that a began towards b do. Cutting what is cut already is no error.
func Cut(ctx context.Context, p Plan, a, b string, oneWay bool) error {
	edits, err := p.edits(a, b, oneWay)
	if err != nil {
		return err
	}
	for _, e := range edits {
		if err := nft(ctx, e.namespace, cutBase+e.command("add")); err != nil {
			return fmt.Errorf("cut %s from %s: %w", a, b, err)
		}
	}
	return nil
}

// Heal ends every partition between a and b, of both directions.
func Heal(ctx context.Context, p Plan, a, b string) error {
	var script = map[string]string{}
	for _, way := range []struct {
		a, b   string
		oneWay bool
	}{{a, b, false}, {a, b, true}, {b, a, true}} {
		edits, err := p.edits(way.a, way.b, way.oneWay)
		if err != nil {
			return err
		}
		for _, e := range edits {
			// Added before it is deleted, as deleting what is not there is an error.
			script[e.namespace] += e.command("add") + e.command("delete")
		}
	}
	for namespace, s := range script {
		if err := nft(ctx, namespace, cutBase+s); err != nil {
			return fmt.Errorf("heal %s and %s: %w", a, b, err)
		}
	}
	return nil
}

// HealAll ends all partitions of the lab.
func HealAll(ctx context.Context, p Plan) error {
	for _, s := range p.each() {
		if !isNamespace(namespacePath(s.Namespace)) {
			continue
		}
		script := cutBase
		for _, family := range []string{"netdev", "inet"} {
			script += fmt.Sprintf("delete table %s %s\n", family, cutTable)
		}
		if err := nft(ctx, s.Namespace, script); err != nil {
			return fmt.Errorf("heal all partitions of site %s: %w", s.Name, err)
		}
	}
	return nil
}

// edit is a change to one set of one site's tables.
type edit struct {
	namespace, family, set string
	elements               []string
}

func (e edit) command(verb string) string {
	return fmt.Sprintf("%s element %s %s %s { %s }\n", verb, e.family, cutTable, e.set, strings.Join(e.elements, ", "))
}

// edits says what a partition between a and b consists of. A whole one between two sites is made at both,
// so that it holds when one of them loses its namespace.
func (p Plan) edits(a, b string, oneWay bool) ([]edit, error) {
	ea, err := p.elements(a)
	if err != nil {
		return nil, err
	}
	eb, err := p.elements(b)
	if err != nil {
		return nil, err
	}
	sa, errA := p.Site(a)
	sb, errB := p.Site(b)
	switch {
	case a == b:
		return nil, fmt.Errorf("cut %s from itself: name two different ends", a)
	case errA != nil && errB != nil:
		return nil, fmt.Errorf("cut %s from %s: one of the two must be a site (%s)", a, b, strings.Join(p.Sites, ", "))
	case oneWay && errA == nil:
		return []edit{{sa.Namespace, "inet", "towards", eb}}, nil
	case oneWay:
		return []edit{{sb.Namespace, "inet", "from", ea}}, nil
	}
	var all []edit
	if errA == nil {
		all = append(all, edit{sa.Namespace, "netdev", "peers", eb})
	}
	if errB == nil {
		all = append(all, edit{sb.Namespace, "netdev", "peers", ea})
	}
	return all, nil
}

// elements are the addresses of an end as they are seen on the bridge.
func (p Plan) elements(end string) ([]string, error) {
	one := func(a netip.Addr) ([]string, error) { return []string{a.String()}, nil }
	switch end {
	case Client:
		return one(p.ClientAddr())
	case DNS:
		return one(p.DNSAddr())
	case Resolver:
		return one(p.ResolverAddr())
	case Vault:
		return one(p.VaultAddr())
	}
	s, err := p.Site(end)
	if err != nil {
		return nil, fmt.Errorf("%w; beside sites there are %s, %s, %s and %s", err, Client, DNS, Resolver, Vault)
	}
	return []string{s.Address.String(), s.LB.String()}, nil
}
