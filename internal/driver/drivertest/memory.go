package drivertest

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// MemoryTraffic is a driver.Traffic whose authority is a map: for tests of what uses one.
type MemoryTraffic struct {
	mu      sync.Mutex
	records map[string]driver.Record
}

var _ driver.Traffic = (*MemoryTraffic)(nil)

// Set makes host answer with r, whatever it answered before.
func (m *MemoryTraffic) Set(host string, r driver.Record) error {
	r, err := normal(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(host, r)
	return nil
}

func (m *MemoryTraffic) put(host string, r driver.Record) {
	if m.records == nil {
		m.records = map[string]driver.Record{}
	}
	if len(r.Addresses) == 0 {
		delete(m.records, host)
		return
	}
	m.records[host] = r
}

// Inspect implements driver.Traffic.
func (m *MemoryTraffic) Inspect(ctx context.Context, host string) (driver.Record, error) {
	if ctx.Err() != nil {
		return driver.Record{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[host]
	r.Addresses = slices.Clone(r.Addresses)
	return r, nil
}

// Switch implements driver.Traffic.
func (m *MemoryTraffic) Switch(ctx context.Context, host string, from, to driver.Record) (dr.TrafficOutput, error) {
	if ctx.Err() != nil {
		return dr.TrafficOutput{}, context.Cause(ctx)
	}
	before, err := normal(from)
	if err != nil {
		return dr.TrafficOutput{}, err
	}
	after, err := normal(to)
	if err != nil {
		return dr.TrafficOutput{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.records[host]; !slices.Equal(now.Addresses, before.Addresses) {
		return dr.TrafficOutput{}, dr.Errorf(dr.ClassConflict, dr.ErrStale, "", "record %s answers %v where %v was expected", host, now.Addresses, before.Addresses)
	}
	m.put(host, after)
	return dr.TrafficOutput{Host: host, Before: before.Addresses, After: slices.Clone(after.Addresses), TTL: from.TTL, Changed: time.Now().UTC()}, nil
}

// normal sorts a record's addresses and refuses what is none.
func normal(r driver.Record) (driver.Record, error) {
	var addrs []netip.Addr
	for _, s := range r.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return r, dr.Errorf(dr.ClassUsage, err, "", "%q is no address", s)
		}
		addrs = append(addrs, a.Unmap())
	}
	if r.TTL < 0 {
		return r, dr.Errorf(dr.ClassUsage, nil, "", "a TTL of %s cannot be", r.TTL)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	r.Addresses = nil
	for _, a := range slices.Compact(addrs) {
		r.Addresses = append(r.Addresses, a.String())
	}
	return r, nil
}
