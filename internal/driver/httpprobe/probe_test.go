package httpprobe

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
)

// resolver answers A questions with what records holds, an alias where it is a name, and SERVFAIL for
// names that begin with "broken".
type resolver struct {
	address string
	records atomic.Pointer[map[string][]string]
	asked   atomic.Int32
}

func startResolver(t *testing.T) *resolver {
	t.Helper()
	r := &resolver{}
	r.set(nil)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = conn.LocalAddr().String()
	s := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(r.serve)}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { conn.Close() })
	return r
}

func (r *resolver) set(records map[string][]string) { r.records.Store(&records) }

func (r *resolver) serve(w mdns.ResponseWriter, q *mdns.Msg) {
	r.asked.Add(1)
	m := new(mdns.Msg)
	m.SetReply(q)
	name := strings.TrimSuffix(q.Question[0].Name, ".")
	values, ok := (*r.records.Load())[name]
	switch {
	case strings.HasPrefix(name, "broken"):
		m.Rcode = mdns.RcodeServerFailure
	case !ok:
		m.Rcode = mdns.RcodeNameError
	case q.Question[0].Qtype == mdns.TypeA:
		for _, v := range values {
			m.Answer = append(m.Answer, &mdns.CNAME{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeCNAME, Class: mdns.ClassINET}, Target: "alias.example.com."},
				&mdns.A{Hdr: mdns.RR_Header{Name: "alias.example.com.", Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 3600}, A: net.ParseIP(v)})
		}
	}
	_ = w.WriteMsg(m)
}

// site is an application behind TLS that says its name; its certificate is for example.com.
func site(t *testing.T, name, address string) (s *httptest.Server, port, ca string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Site", name) })
	mux.HandleFunc("/sick", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Site", name)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
	})
	s = httptest.NewUnstartedServer(mux)
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return s, u.Port(), ca
}

func TestProbe(t *testing.T) {
	t.Parallel()
	r := startResolver(t)
	_, port, ca := site(t, "east", "")
	r.set(map[string][]string{"example.com": {"127.0.0.1"}, "wrong.test": {"127.0.0.1"}, "dead.example.com": {"127.0.0.2"},
		"half.example.com": {"127.0.0.2", "127.0.0.1"}, "empty.example.com": {}})
	for _, c := range []struct {
		name, url, ca, says, site string // says: part of the error; empty: ok
	}{
		{"ok", "https://example.com:PORT/ok", ca, "", "east"},
		{"first address dead", "https://half.example.com:PORT/ok", ca, "", "east"},
		{"503", "https://example.com:PORT/sick", ca, "127.0.0.1:PORT answered 503 Service Unavailable", "east"},
		{"redirect", "https://example.com:PORT/moved", ca, "answered 302 Found to /ok", ""},
		{"slow", "https://example.com:PORT/slow", ca, "no whole answer within 400ms", ""},
		{"cut", "https://example.com:PORT/cut", ca, "broke off its answer", ""},
		{"unknown authority", "https://example.com:PORT/ok", "", "certificate signed by unknown authority", ""},
		{"certificate of another name", "https://wrong.test:PORT/ok", ca, "not wrong.test", ""},
		{"nobody listens", "https://dead.example.com:PORT/ok", ca, "127.0.0.2:PORT: connect: connection refused", ""},
		{"no such name", "https://gone.example.com:PORT/ok", ca, "resolving gone.example.com at RESOLVER: there is no such name (NXDOMAIN)", ""},
		{"no address", "https://empty.example.com:PORT/ok", ca, "it has no address", ""},
		{"resolver fails", "https://broken.example.com:PORT/ok", ca, "the resolver answers SERVFAIL", ""},
	} {
		put := strings.NewReplacer("PORT", port, "RESOLVER", r.address)
		start := time.Now()
		got := Prober{}.Probe(t.Context(), dr.Probe{Name: "front", HTTP: &dr.HTTPProbe{URL: put.Replace(c.url), Resolver: r.address,
			CAFile: c.ca, Timeout: 400 * time.Millisecond, SiteHeader: "X-Site"}})
		switch says := put.Replace(c.says); {
		case c.says == "" && got.Err != nil:
			t.Errorf("%s: %v", c.name, got.Err)
		case c.says != "" && (got.Err == nil || dr.ClassOf(got.Err) != dr.ClassUnreachable || !strings.Contains(got.Err.Error(), says)):
			t.Errorf("%s: got error %v, want one of class unreachable that says %q", c.name, got.Err, says)
		}
		if got.Site != c.site || c.site != "" && got.Address != "127.0.0.1:"+port {
			t.Errorf("%s: got site %q at %q, want %q at 127.0.0.1:%s", c.name, got.Site, got.Address, c.site, port)
		}
		if got.Time.Before(start) || time.Since(start) > 3*time.Second {
			t.Errorf("%s: it took %s and is dated %s", c.name, time.Since(start), got.Time)
		}
	}
}

func TestProbeFollowsTheResolverAtOnce(t *testing.T) {
	t.Parallel()
	r := startResolver(t)
	_, port, ca := site(t, "east", "127.0.0.1:0")
	site(t, "west", net.JoinHostPort("127.0.0.3", port))
	p := dr.Probe{Name: "front", HTTP: &dr.HTTPProbe{URL: "https://example.com:" + port + "/ok", Resolver: r.address, CAFile: ca, SiteHeader: "X-Site"}}
	for _, c := range []struct{ address, site string }{{"127.0.0.1", "east"}, {"127.0.0.3", "west"}, {"127.0.0.1", "east"}} {
		r.set(map[string][]string{"example.com": {c.address}})
		before := r.asked.Load()
		if got := (Prober{}).Probe(t.Context(), p); got.Err != nil || got.Site != c.site {
			t.Errorf("at %s: got site %q and error %v, want %s", c.address, got.Site, got.Err, c.site)
		}
		if r.asked.Load() == before {
			t.Error("the resolver was not asked")
		}
	}
}

func TestSilentResolver(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	got := Prober{}.Probe(t.Context(), dr.Probe{Name: "front", HTTP: &dr.HTTPProbe{URL: "http://example.com/", Resolver: conn.LocalAddr().String(), Timeout: 300 * time.Millisecond}})
	if got.Err == nil || !strings.Contains(got.Err.Error(), "the resolver does not answer") || time.Since(start) > 2*time.Second {
		t.Errorf("got error %v after %s", got.Err, time.Since(start))
	}
}

func TestCancelledProbe(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := (Prober{}).Probe(ctx, dr.Probe{Name: "front", HTTP: &dr.HTTPProbe{URL: "http://127.0.0.1:1/"}}); !errors.Is(got.Err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", got.Err)
	}
}

func TestProbesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for _, p := range []*dr.HTTPProbe{nil, {URL: "ftp://example.com/"}, {URL: "https:///x"}, {URL: "http://a b/"}, {URL: "https://example.com/", CAFile: "/nonexistent/ca.pem"}} {
		if got := (Prober{}).Probe(t.Context(), dr.Probe{Name: "front", HTTP: p}); dr.ClassOf(got.Err) != dr.ClassUsage || !strings.Contains(got.Err.Error(), "probe front") {
			t.Errorf("%+v: got error %v, want one of class usage", p, got.Err)
		}
	}
}
