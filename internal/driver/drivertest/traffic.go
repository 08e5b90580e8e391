// Package drivertest holds the contracts of package driver as suites of tests, which every driver runs.
package drivertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

// TrafficHarness gives the suite an authority to work on.
type TrafficHarness interface {
	// Driver is a driver for the authority.
	Driver(t *testing.T) driver.Traffic
	// Host returns a host name that has no record and that no other test uses.
	Host(t *testing.T) string
	// Set makes host answer with r behind the driver's back.
	Set(t *testing.T, host string, r driver.Record)
}

// Traffic runs the contract of driver.Traffic.
func Traffic(t *testing.T, h TrafficHarness) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, TrafficHarness)
	}{
		{"a host without a record has no addresses", trafficAbsent},
		{"creates, moves and removes a record", trafficMoves},
		{"several addresses are a set", trafficSet},
		{"a stale switch changes nothing", trafficStale},
		{"of two switches at once one wins", trafficRace},
		{"a cancelled switch changes nothing", trafficCancelled},
		{"an address that is none is refused", trafficBadAddress},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, h) })
	}
}

func record(ttl time.Duration, addresses ...string) driver.Record {
	return driver.Record{Addresses: addresses, TTL: ttl}
}

func trafficAbsent(t *testing.T, h TrafficHarness) {
	if got := inspectTraffic(t, h.Driver(t), h.Host(t)); len(got.Addresses) != 0 {
		t.Errorf("got %v, want no addresses", got.Addresses)
	}
}

func trafficMoves(t *testing.T, h TrafficHarness) {
	d, host := h.Driver(t), h.Host(t)
	now := driver.Record{}
	for _, to := range []driver.Record{record(5*time.Second, "192.0.2.1"), record(30*time.Second, "192.0.2.2"), record(30*time.Second, "2001:db8::2"), {}} {
		start := time.Now()
		out, err := d.Switch(t.Context(), host, now, to)
		if err != nil {
			t.Fatalf("from %v to %v: %v", now, to, err)
		}
		if out.Host != host || !slices.Equal(out.Before, now.Addresses) || !slices.Equal(out.After, to.Addresses) || out.TTL != now.TTL {
			t.Errorf("from %v to %v: got output %+v", now, to, out)
		}
		if out.Changed.Before(start.Add(-time.Second)) || out.Changed.After(time.Now().Add(time.Second)) {
			t.Errorf("changed at %s, which is not now", out.Changed)
		}
		now = inspectTraffic(t, d, host)
		if !slices.Equal(now.Addresses, to.Addresses) || len(to.Addresses) > 0 && now.TTL != to.TTL {
			t.Errorf("after a switch to %v it answers %v", to, now)
		}
	}
}

func trafficSet(t *testing.T, h TrafficHarness) {
	d, host := h.Driver(t), h.Host(t)
	h.Set(t, host, record(time.Minute, "192.0.2.10", "192.0.2.2", "2001:db8::1"))
	got := inspectTraffic(t, d, host)
	if want := []string{"192.0.2.2", "192.0.2.10", "2001:db8::1"}; !slices.Equal(got.Addresses, want) {
		t.Fatalf("got %v, want %v", got.Addresses, want)
	}
	if _, err := d.Switch(t.Context(), host, record(0, "192.0.2.2", "192.0.2.10"), record(time.Minute, "192.0.2.3")); !errors.Is(err, dr.ErrStale) {
		t.Errorf("a part of the set passed for the whole: %v", err)
	}
	out, err := d.Switch(t.Context(), host, record(0, "2001:db8::1", "192.0.2.10", "192.0.2.2"), record(time.Minute, "192.0.2.30", "192.0.2.4", "192.0.2.4"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"192.0.2.4", "192.0.2.30"}; !slices.Equal(out.After, want) || !slices.Equal(inspectTraffic(t, d, host).Addresses, want) {
		t.Errorf("got %v, want %v", out.After, want)
	}
}

func trafficStale(t *testing.T, h TrafficHarness) {
	d := h.Driver(t)
	for _, c := range []struct {
		name         string
		is, expected []string
	}{
		{"another address", []string{"192.0.2.7"}, []string{"192.0.2.1"}},
		{"one address more", []string{"192.0.2.1", "192.0.2.7"}, []string{"192.0.2.1"}},
		{"another family more", []string{"192.0.2.1", "2001:db8::7"}, []string{"192.0.2.1"}},
		{"a record where none was", []string{"192.0.2.7"}, nil},
		{"no record where one was", nil, []string{"192.0.2.1"}},
	} {
		host := h.Host(t)
		if c.is != nil {
			h.Set(t, host, record(time.Minute, c.is...))
		}
		_, err := d.Switch(t.Context(), host, record(time.Minute, c.expected...), record(time.Minute, "192.0.2.99"))
		if !errors.Is(err, dr.ErrStale) || dr.ClassOf(err) != dr.ClassConflict {
			t.Errorf("%s: got error %v, want dr.ErrStale of class conflict", c.name, err)
		}
		if got := inspectTraffic(t, d, host); !slices.Equal(got.Addresses, c.is) {
			t.Errorf("%s: a stale switch left %v, want %v", c.name, got.Addresses, c.is)
		}
	}
}

func trafficRace(t *testing.T, h TrafficHarness) {
	d, host := h.Driver(t), h.Host(t)
	from := record(time.Minute, "192.0.2.1")
	h.Set(t, host, from)
	targets := []string{"192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"}
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, to := range targets {
		all.Go(func() { _, errs[i] = d.Switch(t.Context(), host, from, record(time.Minute, to)) })
	}
	all.Wait()
	var won []string
	for i, err := range errs {
		switch {
		case err == nil:
			won = append(won, targets[i])
		case !errors.Is(err, dr.ErrStale):
			t.Errorf("to %s: got error %v, want dr.ErrStale", targets[i], err)
		}
	}
	if got := inspectTraffic(t, d, host); len(won) != 1 || !slices.Equal(got.Addresses, won) {
		t.Errorf("%v won and it answers %v, want one winner", won, got.Addresses)
	}
}

func trafficCancelled(t *testing.T, h TrafficHarness) {
	d, host := h.Driver(t), h.Host(t)
	from := record(time.Minute, "192.0.2.1")
	h.Set(t, host, from)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Switch(ctx, host, from, record(time.Minute, "192.0.2.2")); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", err)
	}
	if got := inspectTraffic(t, d, host); !slices.Equal(got.Addresses, from.Addresses) {
		t.Errorf("it answers %v, want %v", got.Addresses, from.Addresses)
	}
}

func trafficBadAddress(t *testing.T, h TrafficHarness) {
	d, host := h.Driver(t), h.Host(t)
	for _, to := range []driver.Record{record(time.Minute, "shop.example.com"), record(-time.Second, "192.0.2.1")} {
		if _, err := d.Switch(t.Context(), host, driver.Record{}, to); dr.ClassOf(err) != dr.ClassUsage {
			t.Errorf("to %v: got error %v, want one of class usage", to, err)
		}
	}
	if got := inspectTraffic(t, d, host); len(got.Addresses) != 0 {
		t.Errorf("it answers %v, want nothing", got.Addresses)
	}
}

func inspectTraffic(t *testing.T, d driver.Traffic, host string) driver.Record {
	t.Helper()
	r, err := d.Inspect(t.Context(), host)
	if err != nil {
		t.Fatalf("inspect %s: %v", host, err)
	}
	return r
}
