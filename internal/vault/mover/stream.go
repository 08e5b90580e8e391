package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// greeting is the first line that a worker says, so that anything else at the other end of an exec
	// (a shell's complaint, another version) is told apart before a secret is sent.
	greeting = "lifeboat-mover 1\n"
	// frame bounds how much of a body travels in one piece, so that requests in flight take turns.
	frame = 1 << 20
	// silence is how long the other end may say nothing before it counts as dead.
	silence = 30 * time.Second
)

// conn makes a network connection of a reader and a writer, so that HTTP/2 can carry the requests:
// several in flight, each body with its own flow control, pings both ways. Its Close ends pending reads
// and writes, even where those of the stream below cannot be ended.
type conn struct {
	in     *io.PipeReader
	out    *io.PipeWriter
	below  io.Closer // nil: not ours to close
	closed chan struct{}
	once   sync.Once
}

// newConn starts two goroutines that end when r and w do, or at the first transfer after Close.
func newConn(r io.Reader, w io.Writer, below io.Closer) *conn {
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{inWrite}, struct{ io.Reader }{r}, make([]byte, 64<<10))
		inWrite.CloseWithError(err)
	}()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{outRead}, make([]byte, 64<<10))
		outRead.CloseWithError(err)
	}()
	return &conn{in: inRead, out: outWrite, below: below, closed: make(chan struct{})}
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *conn) Close() error {
	c.once.Do(func() {
		c.in.CloseWithError(net.ErrClosed)
		c.out.CloseWithError(net.ErrClosed)
		if c.below != nil {
			_ = c.below.Close()
		}
		close(c.closed)
	})
	return nil
}

// LocalAddr and the rest complete net.Conn. Deadlines are left to HTTP/2's own timers.
func (c *conn) LocalAddr() net.Addr              { return address{} }
func (c *conn) RemoteAddr() net.Addr             { return address{} }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

type address struct{}

func (address) Network() string { return "exec" }
func (address) String() string  { return "mover" }

// awaitGreeting reads the worker's first line; what stands there instead is quoted in the error.
func (c *conn) awaitGreeting(ctx context.Context, patience time.Duration) error {
	type result struct {
		line string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		var line strings.Builder
		for b := make([]byte, 1); line.Len() < 200 && !strings.HasSuffix(line.String(), "\n"); {
			if _, err := io.ReadFull(c, b); err != nil {
				got <- result{line.String(), err}
				return
			}
			line.WriteByte(b[0])
		}
		got <- result{line.String(), nil}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-got:
		switch {
		case r.line == greeting:
			return nil
		case r.line != "":
			return fmt.Errorf("it is no mover of this version; it said %q", strings.TrimSpace(r.line))
		case errors.Is(r.err, io.EOF):
			return errors.New("it ended before it said a word")
		}
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("it said nothing within %s", patience)
	}
}

// oneConn is a listener that gives out one connection.
type oneConn struct {
	first  chan *conn
	closed chan struct{}
	once   sync.Once
}

func listenOn(c *conn) *oneConn {
	l := &oneConn{first: make(chan *conn, 1), closed: make(chan struct{})}
	l.first <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.first:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return address{} }

// protocol is HTTP/2 without TLS: the API server's TLS lies around the stream.
func protocol() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

// http2 tunes both ends alike: pings after a third of the permitted silence, an end after the rest. A
// stream's window is smaller than the connection's, so that a body that nobody reads for a while does
// not hold up the others.
func http2(dead time.Duration) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxReadFrameSize:              frame,
		MaxReceiveBufferPerConnection: 4*frame - 1,
		MaxReceiveBufferPerStream:     frame,
		SendPingTimeout:               dead / 3,
		PingTimeout:                   dead - dead/3,
	}
}
