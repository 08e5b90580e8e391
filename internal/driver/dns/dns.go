// Package dns moves a host name's traffic by changing its address records on an authoritative server
// that takes RFC 2136 updates signed with TSIG.
package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// limit bounds one operation (a lookup or an update with its confirmation) where the caller's context
// allows longer.
const limit = 8 * time.Second

// Driver changes records of one zone. It implements driver.Traffic.
type Driver struct {
	zone   string // fully qualified, lower case
	server string // host:port
	key    key
	file   string // where key was read from, for errors
	now    func() time.Time
}

var _ driver.Traffic = (*Driver)(nil)

// New reads the zone's key; it does not contact the server.
func New(zone dr.Zone) (*Driver, error) {
	if zone.RFC2136 == nil {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Give the zone an rfc2136 server and key.", "zone %s names no way to change it", zone.Name)
	}
	if _, ok := mdns.IsDomainName(zone.Name); !ok || zone.Name == "" {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Write the zone's name like example.com.", "%q is no name of a zone", zone.Name)
	}
	if _, _, err := net.SplitHostPort(zone.RFC2136.Server); err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "Write the server as host:port, for example ns1.example.com:53.", "server of zone %s cannot be used", zone.Name)
	}
	k, err := readKeyFile(zone.RFC2136.Key.File)
	if err != nil {
		return nil, err
	}
	return &Driver{
		zone:   mdns.CanonicalName(zone.Name),
		server: zone.RFC2136.Server,
		key:    k,
		file:   zone.RFC2136.Key.File,
		now:    time.Now,
	}, nil
}

// Inspect reads what the authority answers for host now, past every cache. A host without a record has
// no addresses, and its TTL says how long resolvers may remember that. A host that is an alias (CNAME)
// is an error of class blocked: its traffic follows another name.
func (d *Driver) Inspect(ctx context.Context, host string) (driver.Record, error) {
	name, err := d.name(host)
	if err != nil {
		return driver.Record{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var found []netip.Addr
	var ttl, negative time.Duration
	for _, family := range families {
		answer, err := d.query(ctx, name, family)
		if err != nil {
			return driver.Record{}, err
		}
		addrs, t, err := d.addresses(name, answer)
		if err != nil {
			return driver.Record{}, err
		}
		found = append(found, addrs...)
		if len(addrs) > 0 {
			ttl = max(ttl, t)
		} else {
			negative = max(negative, t)
		}
	}
	if len(found) == 0 {
		ttl = negative
	}
	return driver.Record{Addresses: format(found), TTL: ttl}, nil
}

// addresses takes the addresses of name and their TTL from an authoritative answer; where there are
// none, the TTL is that of the absence.
func (d *Driver) addresses(name string, answer *mdns.Msg) ([]netip.Addr, time.Duration, error) {
	var found []netip.Addr
	var ttl uint32
	for _, rr := range answer.Answer {
		if alias, ok := rr.(*mdns.CNAME); ok {
			return nil, 0, dr.Errorf(dr.ClassBlocked, nil,
				"Replace the CNAME by an address record, or give the application the alias's target as its host.",
				"%s is an alias (CNAME) of %s, and Lifeboat moves address records alone", bare(alias.Hdr.Name), bare(alias.Target))
		}
		if mdns.CanonicalName(rr.Header().Name) != name {
			continue
		}
		var ip net.IP
		switch r := rr.(type) {
		case *mdns.A:
			ip = r.A
		case *mdns.AAAA:
			ip = r.AAAA
		default:
			continue
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			found = append(found, a.Unmap())
			ttl = max(ttl, rr.Header().Ttl)
		}
	}
	if len(found) > 0 {
		return found, seconds(ttl), nil
	}
	for _, rr := range answer.Ns {
		if soa, ok := rr.(*mdns.SOA); ok {
			return nil, seconds(min(soa.Hdr.Ttl, soa.Minttl)), nil
		}
	}
	return nil, 0, nil
}

// name makes host fully qualified and refuses one outside the zone.
func (d *Driver) name(host string) (string, error) {
	if _, ok := mdns.IsDomainName(host); !ok || host == "" || strings.Contains(host, "*") {
		return "", dr.Errorf(dr.ClassUsage, nil, "Write the host like shop."+bare(d.zone)+".", "%q is no host name", host)
	}
	name := mdns.CanonicalName(host)
	if !mdns.IsSubDomain(d.zone, name) {
		return "", dr.Errorf(dr.ClassUsage, nil, "Name the zone that holds the host.", "host %s does not lie in zone %s", bare(name), bare(d.zone))
	}
	return name, nil
}

// families are the types of record that hold addresses.
var families = [...]uint16{mdns.TypeA, mdns.TypeAAAA}

// parse reads a record's addresses, sorted and without repetitions.
func parse(addresses []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return nil, dr.Errorf(dr.ClassUsage, nil, "Give plain IPv4 or IPv6 addresses.", "%q is no address for a DNS record", s)
		}
		out = append(out, a.Unmap())
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func format(addrs []netip.Addr) []string {
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []string
	for _, a := range slices.Compact(addrs) {
		out = append(out, a.String())
	}
	return out
}

// list is for people.
func list(addresses []string) string {
	if len(addresses) == 0 {
		return "nothing"
	}
	return strings.Join(addresses, ", ")
}

func bare(name string) string { return strings.TrimSuffix(name, ".") }

func seconds(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }

// wholeSeconds is a TTL as DNS carries it, rounded up.
func wholeSeconds(ttl time.Duration) (uint32, error) {
	const most = time.Duration(1<<31-1) * time.Second // RFC 2181, section 8
	if ttl < 0 || ttl > most {
		return 0, dr.Errorf(dr.ClassUsage, nil, "Give a TTL such as 30s.", "a DNS record cannot have a TTL of %s", ttl)
	}
	return uint32((ttl + time.Second - 1) / time.Second), nil
}

// records writes the addresses of one family as records of name.
func records(name string, family uint16, addrs []netip.Addr, ttl uint32) []mdns.RR {
	var out []mdns.RR
	for _, a := range addrs {
		hdr := mdns.RR_Header{Name: name, Rrtype: family, Class: mdns.ClassINET, Ttl: ttl}
		switch {
		case family == mdns.TypeA && a.Is4():
			out = append(out, &mdns.A{Hdr: hdr, A: a.AsSlice()})
		case family == mdns.TypeAAAA && a.Is6():
			out = append(out, &mdns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	return out
}

// rrset names a set of records without its content.
func rrset(name string, family uint16) []mdns.RR {
	return []mdns.RR{&mdns.ANY{Hdr: mdns.RR_Header{Name: name, Rrtype: family, Class: mdns.ClassINET}}}
}
