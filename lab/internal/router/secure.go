package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// helloTimeout is how long a client may take to say which host it wants.
const helloTimeout = 5 * time.Second

// certCache remembers certificates that were issued for hosts without one of their own.
type certCache struct {
	issue func(host string) (*tls.Certificate, error)
	mu    sync.Mutex
	known map[string]*tls.Certificate
}

func (c *certCache) get(host string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert, ok := c.known[host]; ok {
		return cert, nil
	}
	cert, err := c.issue(host)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", host, err)
	}
	if c.known == nil {
		c.known = map[string]*tls.Certificate{}
	}
	c.known[host] = cert
	return cert, nil
}

// certificate shows a host's own certificate, or one issued for it; hosts that nobody serves share the
// wildcard of the domain, so that strangers' names do not make certificates.
func (r *router) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := r.table.Load()
	if cert := t.certificate(hello.ServerName); cert != nil {
		return cert, nil
	}
	if _, ok := t.find(hello.ServerName, "/"); ok && hello.ServerName != "" {
		return r.certs.get(hello.ServerName)
	}
	return r.certs.get("*." + r.Domain)
}

// serveSecure looks at each client's first message: TLS of passthrough Routes goes on to the pods as it
// is, the rest ends here.
func (r *router) serveSecure(ctx context.Context, l net.Listener) error {
	ended := &handedOver{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	go func() {
		defer func() { _ = ended.Close() }() // it cannot fail
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(10 * time.Millisecond) // out of descriptors, for instance
				continue
			}
			go r.greet(ctx, c, ended)
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // serve ends below
	defer stop()
	return r.serve(ctx, ended, r.handler(true))
}

func (r *router) greet(ctx context.Context, c net.Conn, ended *handedOver) {
	host, seen, err := readHello(c)
	if err != nil {
		_ = c.Close() // not TLS, or gone: nobody to tell
		return
	}
	again := &replayedConn{Conn: c, first: bytes.NewReader(seen)}
	if e, ok := r.table.Load().passthrough(host); ok {
		r.pass(ctx, again, e)
		return
	}
	ended.hand(tls.Server(again, &tls.Config{GetCertificate: r.certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}))
}

// pass joins a client and a pod until one of them ends.
func (r *router) pass(ctx context.Context, client net.Conn, e entry) {
	defer client.Close()
	pod, err := dialAny(ctx, r.addresses(e))
	if err != nil {
		r.Log.Debug("passthrough", "owner", e.owner, "error", err)
		return
	}
	defer pod.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), pod.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	join := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // a broken connection ends both sides
		done <- struct{}{}
	}
	go join(pod, client)
	go join(client, pod)
	<-done
}

var errHelloSeen = errors.New("the first message was read")

// readHello reads a client's first TLS message and returns the host it names and all bytes read.
func readHello(c net.Conn) (host string, seen []byte, err error) {
	var buf bytes.Buffer
	if err := c.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return "", nil, err
	}
	err = tls.Server(readOnly{io.TeeReader(c, &buf)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			host = h.ServerName
			return nil, errHelloSeen
		},
	}).Handshake()
	if !errors.Is(err, errHelloSeen) {
		return "", nil, fmt.Errorf("no TLS greeting: %w", err)
	}
	return host, buf.Bytes(), c.SetReadDeadline(time.Time{})
}

// readOnly lets TLS read from a client without answering it.
type readOnly struct{ io.Reader }

func (readOnly) Write(b []byte) (int, error)      { return len(b), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }

// replayedConn is a connection whose first bytes were read already.
type replayedConn struct {
	net.Conn
	first *bytes.Reader
}

func (c *replayedConn) Read(b []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(b)
	}
	return c.Conn.Read(b)
}

// handedOver is a listener fed with connections that somebody else accepted.
type handedOver struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (h *handedOver) hand(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close() // nobody takes it any more
	}
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error   { h.once.Do(func() { close(h.closed) }); return nil }
func (h *handedOver) Addr() net.Addr { return h.addr }
