package svcproxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	dialDeadline = 2 * time.Second
	quietUDP     = time.Minute // after which a client of a UDP Service is forgotten
	datagram     = 64 << 10
)

// pick chooses a backend of what lies behind a door, as of now.
func (p *proxy) pick(b behind) (string, bool) {
	if b.namespace == "default" && b.service == "kubernetes" {
		return p.APIServer, true
	}
	svc, ok := p.set.Service(b.namespace, b.service)
	if !ok {
		return "", false
	}
	for _, port := range svc.Spec.Ports {
		if port.Port != b.port || port.Protocol != b.protocol {
			continue
		}
		if all := p.set.Backends(svc, port); len(all) > 0 {
			return all[rand.IntN(len(all))].String(), true
		}
	}
	return "", false
}

// Relay passes what comes in at a TCP and a UDP port on to one address until ctx is done.
func Relay(ctx context.Context, l net.Listener, c net.PacketConn, to string) {
	pick := func() (string, bool) { return to, true }
	var wg sync.WaitGroup
	wg.Go(func() { forwardTCP(ctx, l, pick) })
	wg.Go(func() { forwardUDP(ctx, c, pick) })
	wg.Wait()
}

// forwardTCP passes connections on until ctx is done.
func forwardTCP(ctx context.Context, l net.Listener, pick func() (string, bool)) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // ends Accept
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the client left at once
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go func() {
			defer c.Close() //nolint:errcheck // its peer knows already
			to, ok := pick()
			if !ok {
				reset(c)
				return
			}
			b, err := (&net.Dialer{Timeout: dialDeadline}).DialContext(ctx, "tcp", to)
			if err != nil {
				reset(c)
				return
			}
			defer context.AfterFunc(ctx, func() { _ = errors.Join(b.Close(), c.Close()) })() // ends both copies
			join(c, b)
		}()
	}
}

// reset makes a client see at once that nobody is there, as kube-proxy's rejection does.
func reset(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // it is closed in any case
	}
}

// join copies both ways, passing on the end of each direction by itself.
func join(a, b net.Conn) {
	var wg sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the other side sees the end
		if t, ok := to.(interface{ CloseWrite() error }); ok {
			_ = t.CloseWrite() // may be gone already
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
	_ = b.Close() // a is closed by the caller
}

// forwardUDP passes datagrams on until ctx is done; each client keeps its backend while it talks.
func forwardUDP(ctx context.Context, c net.PacketConn, pick func() (string, bool)) {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // ends ReadFrom
	var mu sync.Mutex
	clients := map[string]net.Conn{}
	buf := make([]byte, datagram)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		mu.Lock()
		b := clients[from.String()]
		mu.Unlock()
		if b == nil {
			to, ok := pick()
			if !ok {
				continue
			}
			if b, err = (&net.Dialer{}).DialContext(ctx, "udp", to); err != nil {
				continue
			}
			mu.Lock()
			clients[from.String()] = b
			mu.Unlock()
			go func() {
				answer(ctx, c, from, b)
				mu.Lock()
				delete(clients, from.String())
				mu.Unlock()
			}()
		}
		_, _ = b.Write(buf[:n]) // UDP promises nothing
	}
}

// answer passes a backend's datagrams back until it has been quiet for a while.
func answer(ctx context.Context, c net.PacketConn, to net.Addr, b net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = b.Close() })() // ends Read
	buf := make([]byte, datagram)
	for {
		_ = b.SetReadDeadline(time.Now().Add(quietUDP)) // one that is gone says so on the next read
		n, err := b.Read(buf)
		if err != nil {
			_ = b.Close() // nothing more to do with it
			return
		}
		_, _ = c.WriteTo(buf[:n], to) // UDP promises nothing
	}
}
