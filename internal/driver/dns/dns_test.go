package dns

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/drivertest"
)

func TestBIND(t *testing.T) {
	t.Parallel()
	b := startBind(t)
	t.Run("contract", func(t *testing.T) { drivertest.Traffic(t, b) })
	t.Run("a CNAME in the way", func(t *testing.T) { testAlias(t, b) })
	t.Run("a wildcard", func(t *testing.T) { testWildcard(t, b) })
	t.Run("absence is remembered as long as the zone says", func(t *testing.T) {
		if r, err := b.driver(t).Inspect(t.Context(), "nobody.example.com"); err != nil || r.TTL != 7*time.Second {
			t.Errorf("got %v, %v; want a TTL of 7s", r, err)
		}
	})
	t.Run("more addresses than fit into a datagram", func(t *testing.T) { testTruncated(t, b) })
	t.Run("wrong keys", func(t *testing.T) { testWrongKeys(t, b) })
	t.Run("wrong zones", func(t *testing.T) { testWrongZones(t, b) })
}

func testAlias(t *testing.T, b *bind) {
	d := b.driver(t)
	_, inspect := d.Inspect(t.Context(), "alias.example.com")
	_, swap := d.Switch(t.Context(), "alias.example.com", driver.Record{}, driver.Record{Addresses: []string{"192.0.2.1"}, TTL: time.Minute})
	for what, err := range map[string]error{"inspect": inspect, "switch": swap} {
		if dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "alias (CNAME) of elsewhere.example.net") {
			t.Errorf("%s: got error %v, want one of class blocked that names the target", what, err)
		}
	}
}

func testWildcard(t *testing.T, b *bind) {
	d, host := b.driver(t), "shop.wild.example.com"
	from, err := d.Inspect(t.Context(), host)
	if err != nil || !slices.Equal(from.Addresses, []string{"192.0.2.77"}) {
		t.Fatalf("got %v, %v; want the wildcard's address", from, err)
	}
	to := driver.Record{Addresses: []string{"192.0.2.78"}, TTL: time.Minute}
	if _, err := d.Switch(t.Context(), host, driver.Record{Addresses: []string{"192.0.2.1"}}, to); !errors.Is(err, dr.ErrStale) {
		t.Errorf("got error %v, want dr.ErrStale", err)
	}
	if _, err := d.Switch(t.Context(), host, from, to); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Inspect(t.Context(), host); err != nil || !slices.Equal(got.Addresses, to.Addresses) {
		t.Errorf("got %v, %v; want %v", got, err, to)
	}
	if got, err := d.Inspect(t.Context(), "other.wild.example.com"); err != nil || !slices.Equal(got.Addresses, from.Addresses) {
		t.Errorf("the wildcard answers %v, %v; want %v", got, err, from)
	}
}

func testTruncated(t *testing.T, b *bind) {
	var many driver.Record
	many.TTL = time.Minute
	for i := range 95 { // 1.5 kB; BIND takes 100 of a kind
		many.Addresses = append(many.Addresses, net.IPv4(192, 0, 2, byte(i+1)).String())
	}
	host := b.Host(t)
	b.Set(t, host, many)
	if got, err := b.driver(t).Inspect(t.Context(), host); err != nil || !slices.Equal(got.Addresses, many.Addresses) {
		t.Errorf("got %v, %v; want 95 addresses", got, err)
	}
}

func testWrongKeys(t *testing.T, b *bind) {
	host := b.Host(t)
	for _, c := range []struct{ name, file, says string }{
		{"unknown key", strings.Replace(goodKey, "lifeboat-key", "another-key", 1), "does not know key another-key"},
		{"other secret", strings.Replace(goodKey, "bGlm", "AAAA", 1), "has another secret for key lifeboat-key"},
		{"other algorithm", strings.Replace(goodKey, "sha256", "sha512", 1), "key lifeboat-key"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		write(t, path, c.file)
		d, err := New(dr.Zone{Name: "example.com", RFC2136: &dr.RFC2136{Server: b.address, Key: dr.KeySource{File: path}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Switch(t.Context(), host, driver.Record{}, driver.Record{Addresses: []string{"192.0.2.1"}})
		denied(t, c.name, err, c.says)
	}
	d := b.driver(t)
	d.now = func() time.Time { return time.Now().Add(time.Hour) }
	_, err := d.Switch(t.Context(), host, driver.Record{}, driver.Record{Addresses: []string{"192.0.2.1"}})
	denied(t, "other clock", err, "differ too much")
	if got, err := b.driver(t).Inspect(t.Context(), host); err != nil || len(got.Addresses) != 0 {
		t.Errorf("it answers %v, %v; want nothing", got, err)
	}
}

func testWrongZones(t *testing.T, b *bind) {
	zone := func(name string) *Driver {
		d, err := New(dr.Zone{Name: name, RFC2136: &dr.RFC2136{Server: b.address, Key: dr.KeySource{File: b.key}}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	to := driver.Record{Addresses: []string{"192.0.2.1"}}
	_, err := zone("example.org").Inspect(t.Context(), "shop.example.org")
	denied(t, "lookup in a zone not served", err, "refuses: lookup of shop.example.org")
	_, err = zone("example.org").Switch(t.Context(), "shop.example.org", driver.Record{}, to)
	denied(t, "update of a zone not served", err, "is no authority for zone example.org")
	_, err = zone("static.test").Switch(t.Context(), "shop.static.test", driver.Record{}, to)
	denied(t, "update of a static zone", err, "refuses: update of shop.static.test")
	_, err = zone("example.com").Switch(t.Context(), "shop.example.org", driver.Record{}, to)
	if dr.ClassOf(err) != dr.ClassUsage {
		t.Errorf("a host outside the zone: got error %v, want one of class usage", err)
	}
}

func denied(t *testing.T, what string, err error, says string) {
	t.Helper()
	var e *dr.Error
	if !errors.As(err, &e) || e.Class != dr.ClassDenied || e.Next == "" || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got error %v, want one of class denied with a remedy that says %q", what, err, says)
	}
	if err != nil && strings.Contains(err.Error(), "bGlmZWJvYXQ") {
		t.Errorf("%s: the error holds the secret", what)
	}
}

func TestServerDown(t *testing.T) {
	t.Parallel()
	b := &bind{address: freeAddress(t), key: filepath.Join(t.TempDir(), "key")}
	write(t, b.key, goodKey)
	d := b.driver(t)
	_, err := d.Inspect(t.Context(), "shop.example.com")
	if dr.ClassOf(err) != dr.ClassUnreachable || !strings.Contains(err.Error(), b.address) {
		t.Errorf("nobody listens: got error %v, want one of class unreachable that names the server", err)
	}
	silent, err := net.Listen("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = d.Switch(ctx, "shop.example.com", driver.Record{}, driver.Record{Addresses: []string{"192.0.2.1"}})
	if dr.ClassOf(err) != dr.ClassUnreachable || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "is not known") {
		t.Errorf("a silent server: got error %v, want one of class unreachable that leaves the outcome open", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %s in spite of a deadline of 300ms", d)
	}
}

// TestServerFailures: what BIND does not do on demand.
func TestServerFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer func(*mdns.Msg)
		class  dr.Class
		says   string
	}{
		{"SERVFAIL is no absence", func(m *mdns.Msg) { m.Rcode = mdns.RcodeServerFailure }, dr.ClassUnreachable, "SERVFAIL"},
		{"a cache is no authority", func(m *mdns.Msg) { m.Authoritative = false }, dr.ClassDenied, "is no authority for shop.example.com"},
		{"an answer to another question", func(m *mdns.Msg) { m.Question[0].Name = "evil.example.com." }, dr.ClassUnreachable, "another question"},
		{"an unsigned success", func(m *mdns.Msg) {}, dr.ClassDenied, "did not sign"},
	} {
		b := &bind{address: serve(t, c.answer), key: filepath.Join(t.TempDir(), "key")}
		write(t, b.key, goodKey)
		var err error
		if strings.Contains(c.name, "unsigned") {
			_, err = b.driver(t).Switch(t.Context(), "shop.example.com", driver.Record{}, driver.Record{Addresses: []string{"192.0.2.1"}})
		} else {
			_, err = b.driver(t).Inspect(t.Context(), "shop.example.com")
		}
		if dr.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want one of class %s that says %q", c.name, err, c.class, c.says)
		}
	}
}

// serve answers every message with an empty authoritative reply after change.
func serve(t *testing.T, change func(*mdns.Msg)) string {
	t.Helper()
	address := freeAddress(t)
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(r)
		m.Authoritative = true
		change(m)
		_ = w.WriteMsg(m)
	})
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &mdns.Server{Addr: address, Net: network, Handler: handler, NotifyStartedFunc: func() { close(started) },
			MsgAcceptFunc: func(mdns.Header) mdns.MsgAcceptAction { return mdns.MsgAccept }}
		failed := make(chan error, 1)
		go func() { failed <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return address
}
