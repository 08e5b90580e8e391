package layout

import (
	"net/netip"
	"testing"
)

func TestSitesShareNoAddress(t *testing.T) {
	t.Parallel()
	owner := map[netip.Addr]int{}
	for i := 1; i <= MaxSites; i++ {
		l, err := LoopbackOf(66, i)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []netip.Addr{l.Public, l.Ingress, l.Registry, l.Inner, l.ClusterDNS, l.Node} {
			if o, taken := owner[a]; taken {
				t.Errorf("site %d: %s is an address of site %d", i, a, o)
			}
			owner[a] = i
			if !l.Holds(a) {
				t.Errorf("site %d does not hold its own %s", i, a)
			}
		}
		ranges := []netip.Prefix{l.LoadBalancer, l.Pods, l.Services}
		for j, p := range ranges {
			if p != p.Masked() || !l.Holds(p.Addr()) || !Whole(66).Overlaps(p) {
				t.Errorf("site %d: range %s is not a range of its own", i, p)
			}
			for _, q := range ranges[j+1:] {
				if p.Overlaps(q) {
					t.Errorf("site %d: %s overlaps %s", i, p, q)
				}
			}
		}
		for a, o := range owner {
			if o != i && l.Holds(a) {
				t.Errorf("site %d holds %s of site %d", i, a, o)
			}
		}
		if l.Holds(Resolver(66)) || l.Holds(netip.MustParseAddr("127.67.10.1")) || l.Holds(netip.MustParseAddr("::1")) {
			t.Errorf("site %d holds what is not a site's", i)
		}
	}
	for _, i := range []int{0, -1, MaxSites + 1} {
		if _, err := LoopbackOf(66, i); err == nil {
			t.Errorf("there are addresses for site %d", i)
		}
	}
}
