// Package ports opens listeners on the ports that a lab asks for, and falls back to port+8000 where an
// unprivileged user may not have them.
package ports

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// Offset is added to a port below 1024 that the process may not bind.
const Offset = 8000

// Listen opens a TCP listener on address:port, or on port+Offset where the first is not permitted.
// The returned port is the one that was opened.
func Listen(ctx context.Context, address string, port int) (net.Listener, int, error) {
	l, got, err := open(address, port, func(hostport string) (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", hostport)
	})
	if g := gateOf(ctx); g != nil && err == nil {
		l = g.Listener(l)
	}
	return l, got, err
}

// ListenPacket does for UDP what Listen does for TCP.
func ListenPacket(ctx context.Context, address string, port int) (net.PacketConn, int, error) {
	p, got, err := open(address, port, func(hostport string) (net.PacketConn, error) {
		return (&net.ListenConfig{}).ListenPacket(ctx, "udp", hostport)
	})
	if g := gateOf(ctx); g != nil && err == nil {
		p = g.PacketConn(p)
	}
	return p, got, err
}

// ListenBoth opens TCP and UDP on one port, as a DNS server needs them.
func ListenBoth(ctx context.Context, address string, port int) (net.Listener, net.PacketConn, int, error) {
	l, got, err := Listen(ctx, address, port)
	if err != nil {
		return nil, nil, 0, err
	}
	p, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", net.JoinHostPort(address, strconv.Itoa(got)))
	if err != nil {
		return nil, nil, 0, errors.Join(fmt.Errorf("listening on UDP %s port %d: %w", address, got, err), l.Close())
	}
	if g := gateOf(ctx); g != nil {
		p = g.PacketConn(p)
	}
	return l, p, got, nil
}

// Gate stands in every listener of a part of the lab, and may hold back what comes in or goes out.
type Gate interface {
	Listener(net.Listener) net.Listener
	PacketConn(net.PacketConn) net.PacketConn
}

type gateKey struct{}

// WithGate makes everything that is opened under the context go through g. A partition cuts off a whole
// site: that must not depend on each of its services' knowing of partitions.
func WithGate(ctx context.Context, g Gate) context.Context {
	return context.WithValue(ctx, gateKey{}, g)
}

func gateOf(ctx context.Context) Gate {
	g, _ := ctx.Value(gateKey{}).(Gate)
	return g
}

func open[T any](address string, port int, try func(string) (T, error)) (T, int, error) {
	l, err := try(net.JoinHostPort(address, strconv.Itoa(port)))
	if errors.Is(err, syscall.EACCES) && port > 0 && port < 1024 {
		port += Offset
		l, err = try(net.JoinHostPort(address, strconv.Itoa(port)))
	}
	if err != nil {
		var none T
		return none, 0, fmt.Errorf("listening on %s port %d: %w", address, port, err)
	}
	return l, Of(l, port), nil
}

// Of returns the port that a listener or packet connection really has (of use where port 0 was asked for).
func Of(l any, otherwise int) int {
	var a net.Addr
	switch l := l.(type) {
	case net.Listener:
		a = l.Addr()
	case net.PacketConn:
		a = l.LocalAddr()
	default:
		return otherwise
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return otherwise
	}
	return int(ap.Port())
}
