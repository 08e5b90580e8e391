package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// Switch changes host's addresses from one set to another in one signed update whose prerequisites the
// server checks together with the change, so that it either sees exactly from and writes to, or changes
// nothing and the error is dr.ErrStale. TTLs are no part of the comparison. Then it reads back. A host
// that answers from a wildcard gets a record of its own, on condition that the wildcard still holds from.
// An empty to removes the record.
func (d *Driver) Switch(ctx context.Context, host string, from, to driver.Record) (dr.TrafficOutput, error) {
	name, err := d.name(host)
	if err != nil {
		return dr.TrafficOutput{}, err
	}
	c := change{name: name, holder: name}
	if c.before, err = parse(from.Addresses); err != nil {
		return dr.TrafficOutput{}, err
	}
	if c.after, err = parse(to.Addresses); err != nil {
		return dr.TrafficOutput{}, err
	}
	if c.ttl, err = wholeSeconds(to.TTL); err != nil {
		return dr.TrafficOutput{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	made, err := d.update(ctx, c)
	if err == nil && !made {
		made, err = d.updateAtWildcard(ctx, host, c)
	}
	if err != nil {
		return dr.TrafficOutput{}, err
	}
	changed := d.now().UTC()
	if !made {
		return dr.TrafficOutput{}, d.stale(ctx, host, c)
	}
	now, err := d.Inspect(ctx, host)
	if err != nil {
		return dr.TrafficOutput{}, dr.Errorf(dr.ClassOf(err), err, "Ask the server what it answers before going on.",
			"record %s was changed to %s but cannot be read back", bare(name), list(format(c.after)))
	}
	if !slices.Equal(now.Addresses, format(c.after)) {
		return dr.TrafficOutput{}, dr.Errorf(dr.ClassIncomplete, nil, "Find out who else changes this record.",
			"record %s was changed to %s but answers %s", bare(name), list(format(c.after)), list(now.Addresses))
	}
	return dr.TrafficOutput{Host: host, Before: format(c.before), After: now.Addresses, TTL: from.TTL, Changed: changed}, nil
}

// change is one compare-and-swap.
type change struct {
	name          string // whose records change
	holder        string // whose records must be before: name itself, or the wildcard that answers for it
	before, after []netip.Addr
	ttl           uint32
}

// message writes the change as an update of zone.
func (c change) message(zone string) *mdns.Msg {
	m := new(mdns.Msg)
	m.SetUpdate(zone)
	for _, family := range families {
		if rrs := records(c.holder, family, c.before, 0); len(rrs) > 0 {
			m.Used(rrs)
		} else {
			m.RRsetNotUsed(rrset(c.holder, family))
		}
	}
	if c.holder == c.name {
		// Servers drop an address that is added beside a CNAME without a word.
		m.RRsetNotUsed(rrset(c.name, mdns.TypeCNAME))
	} else {
		m.NameNotUsed(rrset(c.name, mdns.TypeANY))
	}
	for _, family := range families {
		m.RemoveRRset(rrset(c.name, family))
		if rrs := records(c.name, family, c.after, c.ttl); len(rrs) > 0 {
			m.Insert(rrs)
		}
	}
	return m
}

// update sends one change and says whether it was made; not made means that a prerequisite did not hold.
func (d *Driver) update(ctx context.Context, c change) (bool, error) {
	answer, err := d.signed(ctx, c.message(d.zone))
	if err != nil {
		return false, err
	}
	switch answer.Rcode {
	case mdns.RcodeSuccess:
		return true, nil
	case mdns.RcodeYXRrset, mdns.RcodeNXRrset, mdns.RcodeYXDomain, mdns.RcodeNameError:
		return false, nil
	}
	return false, d.refusal("update of "+bare(c.name), answer.Rcode)
}

// updateAtWildcard makes the change where the host answers what is expected, but from a wildcard.
func (d *Driver) updateAtWildcard(ctx context.Context, host string, c change) (bool, error) {
	now, err := d.Inspect(ctx, host)
	if err != nil {
		return false, err
	}
	if len(c.before) == 0 || len(c.after) == 0 || !slices.Equal(now.Addresses, format(c.before)) {
		return false, nil
	}
	labels := mdns.SplitDomainName(c.name)
	for i := 1; i < len(labels); i++ {
		parent := strings.Join(labels[i:], ".") + "."
		if !mdns.IsSubDomain(d.zone, parent) {
			break
		}
		c.holder = "*." + parent
		if made, err := d.update(ctx, c); made || err != nil {
			return made, err
		}
	}
	return false, nil
}

// stale says what the record answers instead of what was expected.
func (d *Driver) stale(ctx context.Context, host string, c change) error {
	now, err := d.Inspect(ctx, host)
	if err != nil {
		return err
	}
	return dr.Errorf(dr.ClassConflict, dr.ErrStale, "Find out who changed it, then plan again.",
		"record %s answers %s where %s was expected; nothing was changed", bare(c.name), list(now.Addresses), list(format(c.before)))
}
