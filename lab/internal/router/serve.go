package router

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lifeboat.dev/lifeboat/lab/internal/openshift"
)

const (
	dialTimeout     = 2 * time.Second
	headerTimeout   = 30 * time.Second
	shutdownTimeout = time.Second
)

// errNoBackend says that a Service has no ready pod.
var errNoBackend = errors.New("no ready pod")

// wayKey is where a request carries its way to the transport.
type wayKey struct{}

type way struct {
	entry     entry
	addresses []netip.AddrPort
}

func (r *router) servePlain(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, r.handler(false))
}

func (r *router) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Bounded clean-up: ctx is done already.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.Shutdown(stop); err != nil {
		return s.Close() // long-lived connections, websockets for instance
	}
	return nil
}

func (r *router) handler(secure bool) http.Handler {
	// No connection is kept: a pod that is gone must not be found in a pool.
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { r.rewrite(p, secure) },
		Transport:     schemeTransport{plain: &http.Transport{DialContext: dialWay, DisableKeepAlives: true, ResponseHeaderTimeout: headerTimeout}, secure: &http.Transport{DialTLSContext: dialReencrypt, DisableKeepAlives: true, ResponseHeaderTimeout: headerTimeout}},
		ErrorHandler:  r.failed,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(r.Log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		e, ok := r.table.Load().find(host, req.URL.Path)
		switch {
		case !ok || e.termination == openshift.TerminationPassthrough && (secure || e.insecure != openshift.InsecureRedirect):
			unavailable(w, "no Route or Ingress of this router serves "+host)
		case !secure && !e.plain && e.insecure == openshift.InsecureRedirect && r.HTTPSPort != 0:
			http.Redirect(w, req, r.secureURL(host, req), http.StatusFound)
		case !secure && !e.plain, secure && !e.secure:
			unavailable(w, e.owner+" does not serve "+map[bool]string{true: "HTTPS", false: "plain HTTP"}[secure])
		default:
			addresses := r.addresses(e)
			if len(addresses) == 0 {
				unavailable(w, e.owner+" has no ready pod behind it")
				return
			}
			proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), wayKey{}, way{e, addresses})))
		}
	})
}

func (r *router) secureURL(host string, req *http.Request) string {
	if r.HTTPSPort != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(r.HTTPSPort))
	}
	return "https://" + host + req.URL.RequestURI()
}

func (r *router) rewrite(p *httputil.ProxyRequest, secure bool) {
	to, ok := p.In.Context().Value(wayKey{}).(way)
	if !ok {
		return // every request gets one before
	}
	p.Out.URL.Scheme, p.Out.URL.Host = "http", to.addresses[0].String()
	if to.entry.termination == openshift.TerminationReencrypt {
		p.Out.URL.Scheme = "https"
	}
	p.Out.Host = p.In.Host
	p.SetXForwarded()
	port := r.HTTPPort
	if secure {
		port = r.HTTPSPort
	}
	p.Out.Header.Set("X-Forwarded-Port", strconv.Itoa(port))
}

// schemeTransport picks by the scheme, because a reencrypting dial must not be tried for plain backends.
type schemeTransport struct{ plain, secure http.RoundTripper }

func (t schemeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		return t.secure.RoundTrip(req)
	}
	return t.plain.RoundTrip(req)
}

func dialWay(ctx context.Context, _, _ string) (net.Conn, error) {
	to, ok := ctx.Value(wayKey{}).(way)
	if !ok {
		return nil, errNoBackend
	}
	return dialAny(ctx, to.addresses)
}

func dialReencrypt(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := dialWay(ctx, network, address)
	if err != nil {
		return nil, err
	}
	to, _ := ctx.Value(wayKey{}).(way) // dialWay saw it
	first := to.entry.targets[0]
	// As OpenShift's router does, a backend is verified only against a CA that the Route names.
	tc := &tls.Config{ServerName: first.service + "." + first.namespace + ".svc", InsecureSkipVerify: to.entry.backendCA == ""}
	if to.entry.backendCA != "" {
		tc.RootCAs = x509.NewCertPool()
		tc.RootCAs.AppendCertsFromPEM([]byte(to.entry.backendCA))
	}
	c := tls.Client(raw, tc)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with the backend: %w", err), raw.Close())
	}
	return c, nil
}

// dialAny connects to the first of the addresses that answers.
func dialAny(ctx context.Context, addresses []netip.AddrPort) (net.Conn, error) {
	failed := errNoBackend
	for _, a := range addresses {
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", a.String())
		if err == nil {
			return c, nil
		}
		failed = fmt.Errorf("%w; %w", failed, err)
	}
	return nil, failed
}

func (r *router) failed(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil {
		return // the client has gone
	}
	r.Log.Debug("backend failed", "host", req.Host, "path", req.URL.Path, "error", err)
	var op *net.OpError
	if errors.Is(err, errNoBackend) || errors.As(err, &op) && op.Op == "dial" {
		unavailable(w, "no pod answers")
		return
	}
	http.Error(w, "502 Bad Gateway: the application ended the connection", http.StatusBadGateway)
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "503 Application is not available: "+why, http.StatusServiceUnavailable)
}

// addresses returns the pods to try for one request: those of a Service drawn by weight first, the rest
// behind them.
func (r *router) addresses(e entry) []netip.AddrPort {
	var lists [][]netip.AddrPort
	var weights []int
	total := 0
	for _, t := range e.targets {
		list := r.targetAddresses(t)
		if t.weight <= 0 || len(list) == 0 {
			continue
		}
		lists, weights = append(lists, list), append(weights, t.weight)
		total += t.weight
	}
	if total == 0 {
		return nil
	}
	draw, at := rand.IntN(total), 0
	for draw >= weights[at] {
		draw -= weights[at]
		at++
	}
	var all []netip.AddrPort
	for i := range lists {
		list := lists[(at+i)%len(lists)]
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		all = append(all, list...)
	}
	return all
}

func (r *router) targetAddresses(t target) []netip.AddrPort {
	svc, ok := r.backends.Service(t.namespace, t.service)
	if !ok {
		return nil
	}
	port, ok := servicePort(svc, t.port)
	if !ok {
		return nil
	}
	return r.backends.Backends(svc, port)
}

// servicePort finds the Service's port meant: by name, by the pods' port, by the Service's own port.
func servicePort(svc *corev1.Service, want *intstr.IntOrString) (corev1.ServicePort, bool) {
	if len(svc.Spec.Ports) == 0 {
		return corev1.ServicePort{}, false
	}
	if want == nil {
		return svc.Spec.Ports[0], true
	}
	for _, same := range []func(corev1.ServicePort) bool{
		func(p corev1.ServicePort) bool { return want.Type == intstr.String && p.Name == want.StrVal },
		func(p corev1.ServicePort) bool { return p.TargetPort == *want },
		func(p corev1.ServicePort) bool { return want.Type == intstr.Int && p.Port == want.IntVal },
	} {
		for _, p := range svc.Spec.Ports {
			if same(p) {
				return p, true
			}
		}
	}
	return corev1.ServicePort{}, false
}
