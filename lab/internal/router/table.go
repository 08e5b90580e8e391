package router

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lifeboat.dev/lifeboat/lab/internal/openshift"
)

// target is a Service's port with its share of requests.
type target struct {
	namespace, service string
	port               *intstr.IntOrString // nil: the first
	weight             int
}

// entry is one host and path that is served.
type entry struct {
	owner       string // "Route shop/shop"
	host        string // lower case; "" is any host; "*.x" any one label before x
	path        string // prefix by whole segments; "" is every path
	exact       bool   // path is not a prefix
	termination string // "" for none
	insecure    string // what becomes of plain HTTP where termination is set
	plain       bool   // plain HTTP is served
	secure      bool   // HTTPS is served
	targets     []target
	cert        *tls.Certificate // its own, or nil
	backendCA   string           // reencrypt: PEM
}

// table is all that is served, made anew at every change and never changed.
type table struct {
	hosts map[string][]entry // longest path first
}

// claim is the outcome for a Route.
type claim struct {
	route   openshift.Route
	host    string
	refused string // message; empty: admitted
	reason  string
}

// buildTable decides who gets which host: the oldest object that claims a host owns it for its namespace,
// and of two with the same host and path in one namespace the older is served.
func buildTable(routes []openshift.Route, ingresses []*networkingv1.Ingress, secrets map[string]*corev1.Secret) (table, []claim) {
	slices.SortFunc(routes, func(a, b openshift.Route) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	t := table{hosts: map[string][]entry{}}
	owners := map[string]openshift.Route{}
	taken := map[string]openshift.Route{}
	var claims []claim
	for _, r := range routes {
		c := claim{route: r, host: strings.ToLower(r.Spec.Host)}
		if c.host == "" {
			continue // it gets one first
		}
		older, claimed := taken[c.host+r.Spec.Path]
		if owner, owned := owners[c.host]; owned && owner.Namespace != r.Namespace {
			older, claimed = owner, true
		}
		e, err := routeEntry(r, c.host)
		switch {
		case claimed:
			c.reason, c.refused = "HostAlreadyClaimed", fmt.Sprintf("route %s/%s already exposes %s and is older", older.Namespace, older.Name, c.host+older.Spec.Path)
		case err != nil:
			c.reason, c.refused = "ExtendedValidationFailed", err.Error()
		default:
			owners[c.host], taken[c.host+r.Spec.Path] = r, r
			t.hosts[c.host] = append(t.hosts[c.host], e)
		}
		claims = append(claims, c)
	}
	slices.SortFunc(ingresses, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, i := range ingresses {
		for _, e := range ingressEntries(i, secrets) {
			if owner, owned := owners[e.host]; owned && owner.Namespace != i.Namespace {
				continue
			}
			t.hosts[e.host] = append(t.hosts[e.host], e)
		}
	}
	for _, list := range t.hosts {
		slices.SortStableFunc(list, func(a, b entry) int {
			if a.exact != b.exact && a.path == b.path {
				return map[bool]int{true: -1, false: 1}[a.exact]
			}
			return cmp.Compare(len(b.path), len(a.path))
		})
	}
	return t, claims
}

func routeEntry(r openshift.Route, host string) (entry, error) {
	e := entry{owner: "Route " + r.Namespace + "/" + r.Name, host: host, path: strings.TrimSuffix(r.Spec.Path, "/"), plain: true}
	if r.Spec.WildcardPolicy == "Subdomain" {
		if _, parent, ok := strings.Cut(host, "."); ok {
			e.host = "*." + parent
		}
	}
	var port *intstr.IntOrString
	if r.Spec.Port != nil {
		port = &r.Spec.Port.TargetPort
	}
	for _, to := range append([]openshift.RouteTarget{r.Spec.To}, r.Spec.AlternateBackends...) {
		weight := 100
		if to.Weight != nil {
			weight = int(*to.Weight)
		}
		e.targets = append(e.targets, target{namespace: r.Namespace, service: to.Name, port: port, weight: weight})
	}
	s := r.Spec.TLS
	if s == nil {
		return e, nil
	}
	e.termination, e.insecure, e.secure = s.Termination, s.InsecureEdgeTerminationPolicy, true
	e.plain = s.InsecureEdgeTerminationPolicy == openshift.InsecureAllow
	e.backendCA = s.DestinationCACertificate
	if s.Termination == openshift.TerminationPassthrough && e.path != "" {
		return e, fmt.Errorf("passthrough termination does not support paths, and this Route has path %s", r.Spec.Path)
	}
	if s.Certificate != "" {
		cert, err := tls.X509KeyPair([]byte(s.Certificate+"\n"+s.CACertificate), []byte(s.Key))
		if err != nil {
			return e, fmt.Errorf("spec.tls.certificate and spec.tls.key do not fit together: %w", err)
		}
		e.cert = &cert
	}
	return e, nil
}

func ingressEntries(i *networkingv1.Ingress, secrets map[string]*corev1.Secret) []entry {
	base := entry{owner: "Ingress " + i.Namespace + "/" + i.Name, plain: true, secure: true}
	var list []entry
	add := func(host, path string, kind *networkingv1.PathType, b *networkingv1.IngressBackend) {
		if b == nil || b.Service == nil {
			return
		}
		e := base
		e.host, e.path = strings.ToLower(host), strings.TrimSuffix(path, "/")
		e.exact = kind != nil && *kind == networkingv1.PathTypeExact
		if e.exact {
			e.path = path
		}
		port := intstr.FromString(b.Service.Port.Name)
		if b.Service.Port.Name == "" {
			port = intstr.FromInt32(b.Service.Port.Number)
		}
		e.targets = []target{{namespace: i.Namespace, service: b.Service.Name, port: &port, weight: 1}}
		e.cert = ingressCert(i, e.host, secrets)
		list = append(list, e)
	}
	for _, rule := range i.Spec.Rules {
		if rule.HTTP == nil {
			add(rule.Host, "", nil, i.Spec.DefaultBackend)
			continue
		}
		for _, p := range rule.HTTP.Paths {
			add(rule.Host, p.Path, p.PathType, &p.Backend)
		}
	}
	if len(i.Spec.Rules) == 0 {
		add("", "", nil, i.Spec.DefaultBackend)
	}
	return list
}

func ingressCert(i *networkingv1.Ingress, host string, secrets map[string]*corev1.Secret) *tls.Certificate {
	for _, t := range i.Spec.TLS {
		if len(t.Hosts) > 0 && !slices.Contains(t.Hosts, host) {
			continue
		}
		s := secrets[i.Namespace+"/"+t.SecretName]
		if s == nil {
			continue
		}
		// A pair that does not fit is as good as none: the router's own certificate is shown.
		if cert, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err == nil {
			return &cert
		}
	}
	return nil
}

// find returns what serves a host and path.
func (t table) find(host, path string) (entry, bool) {
	for _, list := range t.candidates(host) {
		for _, e := range list {
			if e.exact && path == e.path || !e.exact && (path == e.path || strings.HasPrefix(path, e.path+"/")) {
				return e, true
			}
		}
	}
	return entry{}, false
}

func (t table) candidates(host string) [][]entry {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	return [][]entry{t.hosts[host], t.hosts["*."+parent], t.hosts[""]}
}

// certificate returns the certificate that a host brings itself.
func (t table) certificate(host string) *tls.Certificate {
	for _, list := range t.candidates(host) {
		for _, e := range list {
			if e.cert != nil && e.host != "" {
				return e.cert
			}
		}
	}
	return nil
}

// passthrough returns the entry whose TLS ends in the pods.
func (t table) passthrough(host string) (entry, bool) {
	for _, list := range t.candidates(host) {
		for _, e := range list {
			if e.termination == openshift.TerminationPassthrough {
				return e, true
			}
		}
	}
	return entry{}, false
}

// admission is the status entry that a claim leads to, keeping the time of a condition that holds on.
func admission(c claim, canonical string, now time.Time) openshift.RouteIngress {
	cond := openshift.RouteCondition{Type: openshift.Admitted, Status: "True"}
	if c.refused != "" {
		cond.Status, cond.Reason, cond.Message = "False", c.reason, c.refused
	}
	t := timeOf(c, cond, now)
	cond.LastTransitionTime = &t
	return openshift.RouteIngress{
		Host: c.host, RouterName: routerName, RouterCanonicalHostname: canonical,
		WildcardPolicy: cmp.Or(c.route.Spec.WildcardPolicy, "None"), Conditions: []openshift.RouteCondition{cond},
	}
}
