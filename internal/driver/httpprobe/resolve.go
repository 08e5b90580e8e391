package httpprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

// udpTry bounds one question over UDP, so that a lost packet does not cost the whole try.
const udpTry = 700 * time.Millisecond

// resolve finds the addresses of host. It asks the resolver itself, not through the machine's library,
// whose files and caches would stand between the probe and what a user sees.
func resolve(ctx context.Context, resolver, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if resolver == "" {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("resolving %s: %w", host, err)
		}
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		return addrs, nil
	}
	type result struct {
		addrs []netip.Addr
		err   error
	}
	six := make(chan result, 1)
	go func() {
		addrs, err := lookup(ctx, resolver, host, mdns.TypeAAAA)
		six <- result{addrs, err}
	}()
	addrs, err := lookup(ctx, resolver, host, mdns.TypeA)
	r := <-six
	addrs = append(addrs, r.addrs...)
	if len(addrs) > 0 {
		return addrs, nil
	}
	if err == nil {
		err = r.err
	}
	if err == nil {
		err = errors.New("it has no address")
	}
	return nil, fmt.Errorf("resolving %s at %s: %w", host, resolver, err)
}

// lookup asks for one type of address, over UDP and, where that brings no whole answer, over TCP. The
// resolver follows aliases; its answer holds the addresses at their end.
func lookup(ctx context.Context, resolver, host string, qtype uint16) ([]netip.Addr, error) {
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(host), qtype)
	m.SetEdns0(1232, false)
	try, cancel := context.WithTimeout(ctx, udpTry)
	answer, err := exchange(try, "udp", resolver, m)
	cancel()
	if err != nil || answer.Truncated {
		answer, err = exchange(ctx, "tcp", resolver, m)
	}
	if err != nil {
		return nil, fmt.Errorf("the resolver does not answer: %w", err)
	}
	if answer.Rcode != mdns.RcodeSuccess {
		if answer.Rcode == mdns.RcodeNameError {
			return nil, errors.New("there is no such name (NXDOMAIN)")
		}
		return nil, fmt.Errorf("the resolver answers %s", mdns.RcodeToString[answer.Rcode])
	}
	var addrs []netip.Addr
	for _, rr := range answer.Answer {
		var ip net.IP
		switch r := rr.(type) {
		case *mdns.A:
			ip = r.A
		case *mdns.AAAA:
			ip = r.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}

// exchange ends when ctx does, which the library alone does not promise while it waits for an answer.
func exchange(ctx context.Context, network, server string, m *mdns.Msg) (*mdns.Msg, error) {
	client := &mdns.Client{Net: network}
	if deadline, ok := ctx.Deadline(); ok {
		client.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answer, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	return answer, err
}
