package podnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	netnsDir = "/run/netns"
	uplink   = "eth0" // a site's interface, as the site sees it
	natTable = "lifeboat_nat"
)

func namespacePath(name string) string { return filepath.Join(netnsDir, name) }

// port is the bridge's end of a site's veth.
func port(s SiteNet) string { return fmt.Sprintf("site%d", s.Index) }

// FreeOctet chooses an N for which nothing on this machine has or routes an address of 10.N.0.0/16.
func FreeOctet(ctx context.Context) (int, error) {
	out, err := run(ctx, "", "ip", "-json", "-4", "route", "show", "table", "all")
	if err != nil {
		return 0, fmt.Errorf("choose a network for the lab: %w", err)
	}
	var routes []struct {
		Dst string `json:"dst"`
	}
	if err := json.Unmarshal([]byte(out), &routes); err != nil {
		return 0, fmt.Errorf("choose a network for the lab: parse the routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if p, err := netip.ParsePrefix(r.Dst); err == nil {
			used = append(used, p)
		} else if a, err := netip.ParseAddr(r.Dst); err == nil {
			used = append(used, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if n, ok := freeOctet(used); ok {
		return n, nil
	}
	return 0, errors.New("choose a network for the lab: every one from 10.97.0.0/16 to 10.254.0.0/16 is routed already on this machine")
}

func freeOctet(used []netip.Prefix) (int, bool) {
	order := []int{99, 98, 97}
	for n := 100; n < 255; n++ {
		order = append(order, n)
	}
next:
	for _, n := range order {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		for _, u := range used {
			if u.Overlaps(p) && u.Bits() > 0 {
				continue next
			}
		}
		return n, true
	}
	return 0, false
}

// NetUp makes the plan's network, or what is missing of it. A lab that is up already loses nothing by it:
// partitions stay, and so do sites that are disconnected.
func NetUp(ctx context.Context, p Plan) error {
	if err := p.check(); err != nil {
		return err
	}
	fresh, err := rootUp(ctx, p)
	if err != nil {
		return fmt.Errorf("make the network of the lab in %s: %w", p.Dir, err)
	}
	for _, s := range p.each() {
		if err := siteUp(ctx, p, s, fresh); err != nil {
			return fmt.Errorf("make the network of site %s: %w", s.Name, err)
		}
	}
	return nil
}

// rootUp makes the bridge in its namespace and joins the root namespace to it. It says whether the bridge
// is a new one.
func rootUp(ctx context.Context, p Plan) (bool, error) {
	fresh, err := ensureNamespace(ctx, p.bridgeNS())
	if err != nil {
		return fresh, err
	}
	if !hasLink(ctx, p.bridgeNS(), "br0") {
		err := ip(ctx, p.bridgeNS(), "link set lo up", "link add br0 type bridge forward_delay 0", "link set br0 up")
		if err != nil {
			return fresh, err
		}
	}
	if _, err := ensureVeth(ctx, fresh, end{"", p.Interface(), mac(p.ClientAddr())}, end{p.bridgeNS(), "root", ""}); err != nil {
		return fresh, err
	}
	if err := ip(ctx, p.bridgeNS(), "link set root master br0 up"); err != nil {
		return fresh, err
	}
	lines := []string{fmt.Sprintf("link set %s up", p.Interface())}
	for _, a := range []netip.Addr{p.ClientAddr(), p.DNSAddr(), p.ResolverAddr(), p.VaultAddr()} {
		lines = append(lines, fmt.Sprintf("address replace %s/24 dev %s", a, p.Interface()))
	}
	for _, s := range p.each() {
		lines = append(lines, fmt.Sprintf("route replace %s via %s dev %s src %s", s.LB, s.Address, p.Interface(), p.ClientAddr()))
	}
	return fresh, ip(ctx, "", lines...)
}

// siteUp makes a site's namespace and its way to the bridge.
func siteUp(ctx context.Context, p Plan, s SiteNet, freshBridge bool) error {
	fresh, err := ensureNamespace(ctx, s.Namespace)
	if err != nil {
		return err
	}
	joined, err := ensureVeth(ctx, fresh || freshBridge, end{p.bridgeNS(), port(s), ""}, end{s.Namespace, uplink, mac(s.Address)})
	if err != nil {
		return err
	}
	attach := fmt.Sprintf("link set %s master br0", port(s))
	if joined {
		attach += " up" // else it stays as it is: a site that was disconnected is not connected by this
	}
	if err := ip(ctx, p.bridgeNS(), attach); err != nil {
		return err
	}
	lines := []string{
		"link set lo up",
		fmt.Sprintf("address replace %s/24 dev %s", s.Address, uplink),
		fmt.Sprintf("link set %s up", uplink),
		fmt.Sprintf("route replace default via %s", p.ClientAddr()),
		// The whole range is the site's own, so that an address answers from the moment it is given out.
		fmt.Sprintf("route replace local %s dev lo", s.LB),
	}
	for _, other := range p.each() {
		if other.Index != s.Index {
			lines = append(lines, fmt.Sprintf("route replace %s via %s", other.LB, other.Address))
		}
	}
	if err := ip(ctx, s.Namespace, lines...); err != nil {
		return err
	}
	// Not the bridge plugin's ipMasq: that needs iptables, and there is no other need for it.
	return nft(ctx, s.Namespace, fmt.Sprintf(`add table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain out {
		type nat hook postrouting priority srcnat; policy accept;
		oifname %[2]q ip saddr %[3]s masquerade
	}
}
`, natTable, uplink, s.Pods))
}

// Disconnect takes a site off the bridge, as the loss of its region does: what is sent to it from now on is
// neither answered nor refused. Do this before ending the site's processes, whose sockets would otherwise
// say good-bye. A lab that has no network any more has nothing to disconnect.
func Disconnect(ctx context.Context, p Plan, site string) error {
	if !isNamespace(namespacePath(p.bridgeNS())) {
		return nil
	}
	return setPort(ctx, p, site, "down")
}

// Connect undoes Disconnect.
func Connect(ctx context.Context, p Plan, site string) error {
	return setPort(ctx, p, site, "up")
}

func setPort(ctx context.Context, p Plan, site, to string) error {
	s, err := p.Site(site)
	if err != nil {
		return err
	}
	if err := ip(ctx, p.bridgeNS(), fmt.Sprintf("link set %s %s", port(s), to)); err != nil {
		return fmt.Errorf("set the link of site %s %s: %w", site, to, err)
	}
	return nil
}

// NetDown removes the plan's network, whatever there is of it, and does not mind when there is nothing.
// The sites' processes must have ended: a namespace lives as long as a process is in it.
func NetDown(ctx context.Context, p Plan) error {
	if err := p.check(); err != nil {
		return err
	}
	var errs []error
	for _, s := range p.each() {
		errs = append(errs, removeNamespace(ctx, s.Namespace))
	}
	// The veth's addresses and routes go with it.
	errs = append(errs, removeLink(ctx, "", p.Interface()))
	errs = append(errs, removeNamespace(ctx, p.bridgeNS()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the network of the lab in %s: %w", p.Dir, err)
	}
	return nil
}

// ensureNamespace says whether it had to make the namespace.
func ensureNamespace(ctx context.Context, name string) (bool, error) {
	if isNamespace(namespacePath(name)) {
		return false, nil
	}
	// A file that is no namespace is what a crash between making and mounting leaves.
	if err := removeNamespace(ctx, name); err != nil {
		return false, err
	}
	_, err := run(ctx, "", "ip", "netns", "add", name)
	return true, err
}

func removeNamespace(ctx context.Context, name string) error {
	if _, err := os.Lstat(namespacePath(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := run(ctx, "", "ip", "netns", "delete", name)
	return err
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// end is one end of a veth.
type end struct{ namespace, name, mac string }

// add is how iproute2 is told to make it.
func (e end) add() string {
	if e.mac == "" {
		return e.name
	}
	return e.name + " address " + e.mac
}

// mac derives a hardware address, so that an interface made anew is the one that its neighbours remember.
func mac(a netip.Addr) string {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x1b, b[0], b[1], b[2], b[3]}.String()
}

// ensureVeth joins two namespaces, and says so, unless they are joined already. stale says that one of them is new, so that what is there
// of an old veth is about to vanish: the kernel takes its time to undo a namespace that was deleted.
func ensureVeth(ctx context.Context, stale bool, a, b end) (bool, error) {
	if !stale && hasLink(ctx, a.namespace, a.name) && hasLink(ctx, b.namespace, b.name) {
		return false, nil
	}
	for _, e := range []end{a, b} {
		if err := removeLink(ctx, e.namespace, e.name); err != nil {
			return false, err
		}
	}
	return true, ip(ctx, a.namespace, fmt.Sprintf("link add %s type veth peer name %s netns %s", a.add(), b.add(), b.namespace))
}

// removeLink removes an interface, which may be vanishing by itself.
func removeLink(ctx context.Context, namespace, name string) error {
	if !hasLink(ctx, namespace, name) {
		return nil
	}
	err := ip(ctx, namespace, "link delete "+name)
	if err != nil && !hasLink(ctx, namespace, name) {
		return nil
	}
	return err
}

// hasLink says whether the namespace has an interface of that name.
func hasLink(ctx context.Context, namespace, name string) bool {
	if namespace == "" {
		_, err := net.InterfaceByName(name)
		return err == nil
	}
	_, err := run(ctx, "", inside(namespace, "ip", "link", "show", "dev", name)...)
	return err == nil
}
