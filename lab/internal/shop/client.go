package shop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ClientOptions say how a user reaches the shop.
type ClientOptions struct {
	URL      string
	Resolver string // ip:port of the user's resolver; empty: the machine's
	CAFile   string // trusted besides the system's
	HTTPPort int    // where ports 80 and 443 of URL really are; 0: there
	Timeout  time.Duration
}

// client behaves as a user's program does: it asks its resolver when the last answer's TTL has ended,
// and opens a new connection for each request.
type client struct {
	base *url.URL
	http *http.Client
}

func newClient(o ClientOptions) (*client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("--url must be like http://shop.lab.test, not %q", o.URL)
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading CA certificates: %w", err)
		}
		if tc.RootCAs, err = x509.SystemCertPool(); err != nil {
			tc.RootCAs = x509.NewCertPool()
		}
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no CA certificate in %s", o.CAFile)
		}
	}
	d := &dialer{resolver: o.Resolver, port: o.HTTPPort, now: time.Now, answers: map[string]dnsAnswer{}}
	return &client{base: base, http: &http.Client{
		Timeout:   o.Timeout,
		Transport: &http.Transport{DialContext: d.dial, DisableKeepAlives: true, TLSClientConfig: tc, TLSHandshakeTimeout: o.Timeout},
	}}, nil
}

type dnsAnswer struct {
	addresses []net.IP
	until     time.Time
}

type dialer struct {
	resolver string
	port     int
	now      func() time.Time

	mu      sync.Mutex
	answers map[string]dnsAnswer
}

func (d *dialer) dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	if d.port != 0 {
		port = strconv.Itoa(d.port)
	}
	if d.resolver == "" || net.ParseIP(host) != nil {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(host, port))
	}
	addresses, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, a := range addresses {
		c, err := (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// lookup keeps an answer for as long as its TTL says: as long as the user's machine would go on with a
// site that is gone.
func (d *dialer) lookup(ctx context.Context, host string) ([]net.IP, error) {
	d.mu.Lock()
	known, ok := d.answers[host]
	d.mu.Unlock()
	if ok && d.now().Before(known.until) {
		return known.addresses, nil
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(host), dns.TypeA)
	c := &dns.Client{Timeout: 2 * time.Second}
	r, _, err := c.ExchangeContext(ctx, m, d.resolver)
	if err != nil {
		return nil, fmt.Errorf("asking resolver %s for %s: %w", d.resolver, host, err)
	}
	a := dnsAnswer{}
	ttl := uint32(0)
	for _, rr := range r.Answer {
		if rec, ok := rr.(*dns.A); ok {
			if len(a.addresses) == 0 || rec.Hdr.Ttl < ttl {
				ttl = rec.Hdr.Ttl
			}
			a.addresses = append(a.addresses, rec.A)
		}
	}
	if len(a.addresses) == 0 {
		return nil, fmt.Errorf("resolver %s has no address for %s (%s)", d.resolver, host, dns.RcodeToString[r.Rcode])
	}
	a.until = d.now().Add(time.Duration(ttl) * time.Second)
	d.mu.Lock()
	d.answers[host] = a
	d.mu.Unlock()
	return a.addresses, nil
}
