// Package httpprobe asks an application over HTTP for a sign of life, as a user far from every site
// would: through a resolver's cache, over a new connection each time.
package httpprobe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

const (
	defaultTimeout = 2 * time.Second
	// maxBody bounds what is read of an answer; a sign of life is short.
	maxBody = 1 << 20
)

// Prober implements driver.Prober for dr.HTTPProbe. It remembers nothing between tries.
type Prober struct{}

var _ driver.Prober = Prober{}

// Probe makes one GET and succeeds on a 2xx answer that was read to its end. It follows no redirect.
func (Prober) Probe(ctx context.Context, p dr.Probe) driver.ProbeResult {
	var r driver.ProbeResult
	r.Err = try(ctx, p, &r)
	r.Time = time.Now()
	return r
}

func try(ctx context.Context, p dr.Probe, r *driver.ProbeResult) error {
	if p.HTTP == nil {
		return usage(p, errors.New("it has no http settings"))
	}
	u, err := url.Parse(p.HTTP.URL)
	if err != nil {
		return usage(p, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return usage(p, fmt.Errorf("%q is no http or https URL", p.HTTP.URL))
	}
	roots, err := roots(p.HTTP.CAFile)
	if err != nil {
		return usage(p, err)
	}
	timeout := p.HTTP.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no whole answer within %s", timeout))
	defer cancel()
	if err := ask(ctx, u, p.HTTP, roots, r); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return dr.Errorf(dr.ClassUnreachable, err, "", "probe %s of %s failed", p.Name, p.HTTP.URL)
	}
	return nil
}

func usage(p dr.Probe, err error) error {
	return dr.Errorf(dr.ClassUsage, err, "Correct the probe in the fleet file.", "probe %s cannot be used", p.Name)
}

// roots reads the certificates to trust; nil means the machine's.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading its CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("its CA file %s holds no PEM certificate", file)
	}
	return pool, nil
}

func ask(ctx context.Context, u *url.URL, p *dr.HTTPProbe, roots *x509.CertPool, r *driver.ProbeResult) error {
	addrs, err := resolve(ctx, p.Resolver, u.Hostname())
	if err != nil {
		return err
	}
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, hostport string) (net.Conn, error) {
				_, port, err := net.SplitHostPort(hostport)
				if err != nil {
					return nil, err
				}
				return dial(ctx, network, addrs, port, &r.Address)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "lifeboat-probe")
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := client.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err // the URL is in our own words already
		}
		return err
	}
	defer resp.Body.Close()
	if p.SiteHeader != "" {
		r.Site = resp.Header.Get(p.SiteHeader)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return fmt.Errorf("%s broke off its answer: %w", r.Address, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		if to := resp.Header.Get("Location"); to != "" {
			return fmt.Errorf("%s answered %s to %s", r.Address, resp.Status, to)
		}
		return fmt.Errorf("%s answered %s", r.Address, resp.Status)
	}
	return nil
}

// dial tries the addresses in their order, each with its share of the time that is left, and notes the
// one that it asked last.
func dial(ctx context.Context, network string, addrs []netip.Addr, port string, asked *string) (net.Conn, error) {
	var first error
	for i, a := range addrs {
		*asked = net.JoinHostPort(a.String(), port)
		share, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			share, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addrs)-i))
		}
		conn, err := new(net.Dialer).DialContext(share, network, *asked)
		cancel()
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
