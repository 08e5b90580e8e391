package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Forward connects to a port of a pod through the API server. The connection is ended by its Close.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	type made struct {
		conn net.Conn
		err  error
	}
	done := make(chan made, 1)
	go func() {
		conn, err := c.forward(namespace, pod, port)
		done <- made{conn, err}
	}()
	select {
	case m := <-done:
		return m.conn, m.err
	case <-ctx.Done():
		go func() { // the dialer takes no context; what it makes too late is closed
			if m := <-done; m.err == nil {
				_ = m.conn.Close()
			}
		}()
		return nil, fmt.Errorf("connect to port %d of pod %s/%s: %w", port, namespace, pod, context.Cause(ctx))
	}
}

func (c *Client) forward(namespace, pod string, port int) (net.Conn, error) {
	what := fmt.Sprintf("connect to port %d of pod %s/%s", port, namespace, pod)
	url := c.Typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, c.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	// API servers before 1.31 speak SPDY alone.
	plain := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	dialer := portforward.NewFallbackDialerForStreaming(tunnel, plain, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	streams, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	conn, err := forwarded(streams, port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), streams.Close())
	}
	return conn, nil
}

// forwarded makes a connection of a pair of streams. A pipe stands before them: they know no deadlines.
func forwarded(streams httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, fmt.Sprint(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	complaints, err := streams.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	if err := complaints.Close(); err != nil { // we only listen
		return nil, err
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := streams.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	f := &forwardedConn{Conn: near}
	go func() {
		said, _ := io.ReadAll(io.LimitReader(complaints, 4096))
		if len(said) > 0 {
			f.fail(errors.New(strings.TrimSpace(string(said))))
			_ = streams.Close()
		}
	}()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{data}, struct{ io.Reader }{far}, make([]byte, 64<<10))
		_, _ = data.Close(), streams.Close() // the near end is closed: nobody reads any more
	}()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{data}, make([]byte, 64<<10))
		_, _ = far.Close(), streams.Close()
	}()
	return f, nil
}

// forwardedConn is a forwarded connection, which knows why it broke.
type forwardedConn struct {
	net.Conn
	mu  sync.Mutex
	why error
}

func (f *forwardedConn) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = err
}

// Read implements net.Conn.
func (f *forwardedConn) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.why != nil {
			err = f.why
		}
	}
	return n, err
}
