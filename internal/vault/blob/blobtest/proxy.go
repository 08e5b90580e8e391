package blobtest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Fault is what a Proxy does with one request instead of passing it on quietly.
type Fault struct {
	// Lose passes the request on and breaks the connection before its answer.
	Lose bool
	// Before is done, if set, after the request was passed on and before its answer is lost or sent.
	Before func()
	// Status is answered without passing the request on, with Header and Body.
	Status int
	Header http.Header
	Body   string
	// Delay is waited first.
	Delay time.Duration
	// Half sends half of the answer's body and breaks the connection.
	Half bool
}

// Proxy stands before a real server and makes happen what the server cannot be made to show.
type Proxy struct {
	Endpoint string
	target   string

	mu       sync.Mutex
	decide   func(r *http.Request) *Fault
	requests int
}

// NewProxy starts a proxy in front of an endpoint. It keeps the Host header, so that signatures hold.
func NewProxy(t testing.TB, endpoint string) *Proxy {
	t.Helper()
	p := &Proxy{target: endpoint}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	p.Endpoint = s.URL
	return p
}

// Decide sets what is done with each request from now on; it returns nil to pass one on.
func (p *Proxy) Decide(decide func(r *http.Request) *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide, p.requests = decide, 0
}

// Requests counts the requests since the last Decide.
func (p *Proxy) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// Times makes a fault of the first n requests that match.
func Times(n int, match func(*http.Request) bool, f Fault) func(*http.Request) *Fault {
	return func(r *http.Request) *Fault {
		if n <= 0 || !match(r) {
			return nil
		}
		n--
		return &f
	}
}

// Method matches requests of a method.
func Method(m string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m }
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests++
	var f Fault
	if p.decide != nil {
		if decided := p.decide(r); decided != nil {
			f = *decided
		}
	}
	p.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	select {
	case <-time.After(f.Delay):
	case <-r.Context().Done():
		return
	}
	if f.Status != 0 {
		for k, v := range f.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	resp, answer, err := p.pass(r, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if f.Before != nil {
		f.Before()
	}
	if f.Lose {
		panic(http.ErrAbortHandler)
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	if f.Half {
		_, _ = w.Write(answer[:len(answer)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(answer)
}

func (p *Proxy) pass(r *http.Request, body []byte) (*http.Response, []byte, error) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	out.Header, out.Host = r.Header.Clone(), r.Host
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

// Closed returns an endpoint at which nobody listens.
func Closed(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// PEM writes a certificate as CA files have it.
func PEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
