package nameserver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// prerequisites checks RFC 2136 section 3.2 and returns the code of the first that does not hold.
func prerequisites(zone string, records, wanted []dns.RR) int {
	values := map[[2]string][]dns.RR{} // RRsets that must be there with exactly these values
	for _, p := range wanted {
		h := p.Header()
		name := strings.ToLower(h.Name)
		if h.Ttl != 0 {
			return dns.RcodeFormatError
		}
		if !dns.IsSubDomain(zone, name) {
			return dns.RcodeNotZone
		}
		there := slices.ContainsFunc(records, func(rr dns.RR) bool { return sameSet(rr, name, h.Rrtype) })
		switch h.Class {
		case dns.ClassANY:
			if !there {
				return absent(h.Rrtype)
			}
		case dns.ClassNONE:
			if there {
				return present(h.Rrtype)
			}
		case dns.ClassINET:
			k := [2]string{name, dns.TypeToString[h.Rrtype]}
			values[k] = append(values[k], p)
		default:
			return dns.RcodeFormatError
		}
	}
	for k, want := range values {
		is := slices.DeleteFunc(slices.Clone(records), func(rr dns.RR) bool { return !sameSet(rr, k[0], dns.StringToType[k[1]]) })
		if len(is) != len(want) {
			return dns.RcodeNXRrset
		}
		for _, w := range want {
			if !slices.ContainsFunc(is, func(rr dns.RR) bool { return sameData(rr, w) }) {
				return dns.RcodeNXRrset
			}
		}
	}
	return dns.RcodeSuccess
}

// sameSet says whether a record is of the name and type; TypeANY stands for any type.
func sameSet(rr dns.RR, name string, t uint16) bool {
	return strings.EqualFold(rr.Header().Name, name) && (t == dns.TypeANY || rr.Header().Rrtype == t)
}

// sameData compares two records but for their TTLs and classes.
func sameData(a, b dns.RR) bool {
	x, y := dns.Copy(a), dns.Copy(b)
	for _, rr := range []dns.RR{x, y} {
		h := rr.Header()
		h.Ttl, h.Class, h.Name = 0, dns.ClassINET, strings.ToLower(h.Name)
	}
	return x.String() == y.String()
}

func absent(t uint16) int {
	if t == dns.TypeANY {
		return dns.RcodeNameError
	}
	return dns.RcodeNXRrset
}

func present(t uint16) int {
	if t == dns.TypeANY {
		return dns.RcodeYXDomain
	}
	return dns.RcodeYXRrset
}

// change does RFC 2136 section 3.4 to a copy of the records.
func change(zone string, records, changes []dns.RR) ([]dns.RR, int) {
	next := slices.Clone(records)
	for _, u := range changes {
		h := u.Header()
		name := strings.ToLower(h.Name)
		if !dns.IsSubDomain(zone, name) {
			return nil, dns.RcodeNotZone
		}
		// The zone's own SOA and NS records stay whatever an update says.
		kept := func(rr dns.RR) bool {
			t := rr.Header().Rrtype
			return name == zone && (t == dns.TypeSOA || t == dns.TypeNS)
		}
		switch h.Class {
		case dns.ClassINET:
			if h.Rrtype == dns.TypeSOA || clashes(next, name, h.Rrtype) {
				continue
			}
			if h.Rrtype == dns.TypeCNAME { // a name has one at most: the new one replaces it
				next = slices.DeleteFunc(next, func(rr dns.RR) bool { return sameSet(rr, name, dns.TypeCNAME) })
			}
			next = slices.DeleteFunc(next, func(rr dns.RR) bool { return sameSet(rr, name, h.Rrtype) && sameData(rr, u) })
			added := dns.Copy(u)
			added.Header().Name = name
			next = append(sameTTL(next, name, h.Rrtype, h.Ttl), added)
		case dns.ClassANY:
			next = slices.DeleteFunc(next, func(rr dns.RR) bool { return sameSet(rr, name, h.Rrtype) && !kept(rr) })
		case dns.ClassNONE:
			next = slices.DeleteFunc(next, func(rr dns.RR) bool { return sameSet(rr, name, h.Rrtype) && sameData(rr, u) && !kept(rr) })
		default:
			return nil, dns.RcodeFormatError
		}
	}
	return next, dns.RcodeSuccess
}

// clashes says whether an addition would put an alias beside other data, which section 3.4.2.2 ignores.
func clashes(records []dns.RR, name string, t uint16) bool {
	return slices.ContainsFunc(records, func(rr dns.RR) bool {
		return sameSet(rr, name, dns.TypeANY) && (t == dns.TypeCNAME) != (rr.Header().Rrtype == dns.TypeCNAME)
	})
}

// sameTTL gives a set the TTL of a record that joins it: the records of a set have one (RFC 2181, 5.2).
func sameTTL(records []dns.RR, name string, t uint16, ttl uint32) []dns.RR {
	for i, rr := range records {
		if sameSet(rr, name, t) && rr.Header().Ttl != ttl {
			records[i] = dns.Copy(rr)
			records[i].Header().Ttl = ttl
		}
	}
	return records
}
