package podnode

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPlanAddressesDoNotOverlap(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range MaxSites {
		names = append(names, "s"+strings.Repeat("x", i+1))
	}
	p := Plan{Dir: "/lab", Octet: 99, Sites: names}
	if err := p.check(); err != nil {
		t.Fatal(err)
	}
	if len(p.Interface()) > 15 {
		t.Errorf("interface name %q is longer than the kernel takes", p.Interface())
	}
	type named struct {
		what   string
		prefix netip.Prefix
	}
	all := []named{{"bridge", p.Bridge()}, {"services", netip.MustParsePrefix(serviceCIDR)}}
	single := []netip.Addr{p.ClientAddr(), p.DNSAddr(), p.ResolverAddr(), p.VaultAddr()}
	for _, s := range p.each() {
		all = append(all, named{s.Name + " lb", s.LB}, named{s.Name + " pods", s.Pods})
		if slices.Contains(single, s.Address) || !p.Bridge().Contains(s.Address) {
			t.Errorf("site %s has address %s, which is taken or not on the bridge", s.Name, s.Address)
		}
		single = append(single, s.Address)
	}
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.prefix.Overlaps(b.prefix) {
				t.Errorf("%s %s overlaps %s %s", a.what, a.prefix, b.what, b.prefix)
			}
		}
	}
}

func TestPlanNamesDifferByDirectory(t *testing.T) {
	t.Parallel()
	a, b := Plan{Dir: "/lab/a"}, Plan{Dir: "/lab/b"}
	if a.ID() == b.ID() {
		t.Errorf("two labs share the id %s", a.ID())
	}
	if c := (Plan{Dir: "/lab/b/../a/"}); c.ID() != a.ID() {
		t.Errorf("the same directory gives ids %s and %s", a.ID(), c.ID())
	}
}

func TestPlanCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		plan Plan
		want string
	}{
		{"good", Plan{Dir: "/l", Octet: 99, Sites: []string{"east", "west"}}, ""},
		{"no directory", Plan{Octet: 99}, "directory"},
		{"services' octet", Plan{Dir: "/l", Octet: 96}, "octet 96"},
		{"octet out of range", Plan{Dir: "/l", Octet: 255}, "octet 255"},
		{"duplicate", Plan{Dir: "/l", Octet: 99, Sites: []string{"east", "east"}}, `"east"`},
		{"reserved", Plan{Dir: "/l", Octet: 99, Sites: []string{"dns"}}, `"dns"`},
		{"path", Plan{Dir: "/l", Octet: 99, Sites: []string{"../x"}}, `"../x"`},
		{"too many", Plan{Dir: "/l", Octet: 99, Sites: make([]string, MaxSites+1)}, "sites"},
	} {
		err := c.plan.check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestFreeOctet(t *testing.T) {
	t.Parallel()
	routes := func(s ...string) (all []netip.Prefix) {
		for _, p := range s {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	for _, c := range []struct {
		used []netip.Prefix
		want int
		ok   bool
	}{
		{nil, 99, true},
		{routes("0.0.0.0/0", "192.0.2.0/24"), 99, true},
		{routes("10.99.0.0/24"), 98, true},
		{routes("10.96.0.0/14"), 100, true},
		{routes("10.99.3.7/32", "10.98.0.0/16", "10.97.1.0/24"), 100, true},
		{routes("10.0.0.0/8"), 0, false},
	} {
		got, ok := freeOctet(c.used)
		if got != c.want || ok != c.ok {
			t.Errorf("with %v used: %d %v, want %d %v", c.used, got, ok, c.want, c.ok)
		}
	}
}

func TestCutEdits(t *testing.T) {
	t.Parallel()
	p := Plan{Dir: "/lab", Octet: 99, Sites: []string{"east", "west"}}
	east, west := p.site(1).Namespace, p.site(2).Namespace
	for _, c := range []struct {
		a, b   string
		oneWay bool
		want   []string // namespace family set elements
		err    string
	}{
		{a: "east", b: "west", want: []string{east + " netdev peers 10.99.0.12,10.99.2.0/24", west + " netdev peers 10.99.0.11,10.99.1.0/24"}},
		{a: "east", b: DNS, want: []string{east + " netdev peers 10.99.0.53"}},
		{a: Vault, b: "west", want: []string{west + " netdev peers 10.99.0.60"}},
		{a: "east", b: "west", oneWay: true, want: []string{east + " inet towards 10.99.0.12,10.99.2.0/24"}},
		{a: Client, b: "east", oneWay: true, want: []string{east + " inet from 10.99.0.1"}},
		{a: "east", b: Client, oneWay: true, want: []string{east + " inet towards 10.99.0.1"}},
		{a: "east", b: "east", err: "itself"},
		{a: Client, b: DNS, err: "must be a site"},
		{a: "east", b: "moon", err: `"moon"`},
	} {
		edits, err := p.edits(c.a, c.b, c.oneWay)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s–%s: error %v, want one with %q", c.a, c.b, err, c.err)
			}
			continue
		}
		var got []string
		for _, e := range edits {
			got = append(got, e.namespace+" "+e.family+" "+e.set+" "+strings.Join(e.elements, ","))
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s–%s one-way %v: %v %v, want %v", c.a, c.b, c.oneWay, got, err, c.want)
		}
	}
}

func TestCgroupMount(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"34 25 0:29 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset": "/sys/fs/cgroup/cpuset",
		"35 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw":                       "/sys/fs/cgroup/unified",
		"36 25 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw":                                   "",
		"37 25 0:32 / /elsewhere/cpu rw - cgroup cgroup rw,cpu":                             "",
		"": "",
	} {
		got, ok := cgroupMount(line)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", line, got, ok, want)
		}
	}
}
