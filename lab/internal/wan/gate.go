package wan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/ports"
)

// whoisWithin bounds one look for the process at the other end, which takes milliseconds.
const whoisWithin = 3 * time.Second

// Gate is the way into target, a site or one of what stands outside: what comes in by it, and the
// answers, wait while their peer is cut off from target.
func (c *Cuts) Gate(target string) ports.Gate { return way{c, target} }

type way struct {
	cuts   *Cuts
	target string
}

func (w way) Listener(l net.Listener) net.Listener {
	return &listener{Listener: l, cuts: w.cuts, target: w.target}
}

func (w way) PacketConn(p net.PacketConn) net.PacketConn {
	return &packets{PacketConn: p, cuts: w.cuts, target: w.target}
}

type listener struct {
	net.Listener
	cuts   *Cuts
	target string
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, gate: gate{cuts: l.cuts, target: l.target}, closed: make(chan struct{})}, nil
}

// gate knows who is at the other end, once it had to find out.
type gate struct {
	cuts   *Cuts
	target string

	mu   sync.Mutex
	peer string // empty: not asked yet
}

// shut says whether nothing may pass at the moment, and what tells of the next change.
func (g *gate) shut(network string, peer, here net.Addr) (bool, <-chan struct{}) {
	concerned, changed := g.cuts.look(g.target)
	if !concerned {
		return false, changed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.peer == "" {
		g.peer = g.cuts.identify(network, peer, here)
	}
	return g.cuts.Blocked(g.peer, g.target), changed
}

// identify names the site of a peer. One that cannot be found has closed its socket already, or is not
// of this machine: a client in either case.
func (c *Cuts) identify(network string, peer, here net.Addr) string {
	p, err1 := netip.ParseAddrPort(peer.String())
	h, err2 := netip.ParseAddrPort(here.String())
	if err1 != nil || err2 != nil {
		return Client
	}
	// A look-up for a connection, which has no context of its own.
	ctx, cancel := context.WithTimeout(context.Background(), whoisWithin)
	defer cancel()
	site, err := c.whois(ctx, network, p, h)
	if err != nil {
		c.log.Warn("cannot tell who connects; taken for a client", "peer", p, "to", h, "err", err)
		return Client
	}
	return site
}

// conn is a connection whose bytes wait while its gate is shut.
type conn struct {
	net.Conn
	gate   gate
	once   sync.Once
	closed chan struct{}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return n, err // this side's own doing, nothing that came over the wire
	}
	if passErr := c.pass(); passErr != nil {
		return 0, passErr
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// pass returns once the gate is open, or with an error once the connection is closed on this side.
func (c *conn) pass() error {
	for {
		shut, changed := c.gate.shut("tcp", c.RemoteAddr(), c.LocalAddr())
		if !shut {
			return nil
		}
		select {
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// SetLinger says what becomes of unsent bytes on Close.
func (c *conn) SetLinger(seconds int) error {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		return t.SetLinger(seconds)
	}
	return nil
}

// CloseWrite ends one direction, as a proxy passes it on.
func (c *conn) CloseWrite() error {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		return t.CloseWrite()
	}
	return nil
}

// packets drops what comes from those who are cut off.
type packets struct {
	net.PacketConn
	cuts   *Cuts
	target string
}

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := p.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		g := gate{cuts: p.cuts, target: p.target}
		if shut, _ := g.shut("udp", from, p.LocalAddr()); !shut {
			return n, from, nil
		}
	}
}

// Forward joins each connection that l accepts with one to address, until ctx is done.
func Forward(ctx context.Context, l net.Listener, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		in, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("forward to %s: %w", address, err)
			}
			select { // out of descriptors, or the peer was gone already
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		all.Go(func() { join(ctx, in, address) })
	}
}

// join copies both ways until both directions have ended or ctx is done. Errors are the peers' to see:
// each learns of the other's end by the end of its own connection.
func join(ctx context.Context, in net.Conn, address string) {
	defer in.Close()
	out, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { half(out, in) })
	both.Go(func() { half(in, out) })
	both.Wait()
}

func half(to, from net.Conn) {
	_, err := io.Copy(onlyWriter{to}, onlyReader{from})
	if err != nil { // the connection is broken, not ended: nothing more comes either way
		_, _ = to.Close(), from.Close()
		return
	}
	if w, ok := to.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}

// onlyReader and onlyWriter keep io.Copy from going around a gate through the socket's own methods.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
