package config

import (
	"fmt"
	"net"

	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// named keeps what was declared of one kind, in the file's order.
type named[T any] struct {
	items []*T
	names []string
	at    map[string]*yaml.Node
}

func (l *named[T]) values() []T {
	if len(l.items) == 0 {
		return nil
	}
	out := make([]T, len(l.items))
	for i, item := range l.items {
		out[i] = *item
	}
	return out
}

// declare notes an item under its name; a name that is taken is a problem with both lines in it.
func declare[T any](d *decoder, l *named[T], kind string, name text, item *T) {
	if !name.ok() {
		return
	}
	if first, taken := l.at[name.value]; taken {
		what := fmt.Sprintf("%s %s is declared twice, first at line %d", kind, name.value, first.Line)
		d.add(name.node, what, "give one of them another name")
		return
	}
	if l.at == nil {
		l.at = map[string]*yaml.Node{}
	}
	l.at[name.value] = name.node
	l.names = append(l.names, name.value)
	l.items = append(l.items, item)
}

func (l *named[T]) get(name string) *T {
	for i, n := range l.names {
		if n == name {
			return l.items[i]
		}
	}
	return nil
}

var (
	label  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	domain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
)

// checkLabel reports a name that Kubernetes would refuse.
func (o *object) checkLabel(t text, what string) {
	if t.ok() && !label.MatchString(t.value) {
		o.say(t.node, "use at most 63 lower-case letters, digits and hyphens, with none of these at an end", "%s %q is not a valid name", what, t.value)
	}
}

// hostname returns t in the form that DNS drivers compare: lower case, no final dot.
func (o *object) hostname(t text, what string) string {
	host := strings.ToLower(strings.TrimSuffix(t.value, "."))
	if t.ok() && (len(host) > 253 || !domain.MatchString(host)) {
		o.say(t.node, "write it like shop.example.com", "%s %q is not a domain name", what, t.value)
	}
	return host
}

// hostPort reads "host:port"; where only a host is given the port is the fallback.
func (o *object) hostPort(t text, what, fallback string) string {
	if !t.ok() {
		return ""
	}
	host, port, err := net.SplitHostPort(t.value)
	if err != nil && fallback != "" && (net.ParseIP(t.value) != nil || domain.MatchString(strings.ToLower(t.value))) {
		return net.JoinHostPort(t.value, fallback)
	}
	if err != nil || host == "" || port == "" {
		o.say(t.node, "write it like 10.0.0.53:53", "%s: %q is not a host and port", what, t.value)
	}
	return t.value
}

// resolve makes a path absolute.
func (d *decoder) resolve(path string) string {
	switch {
	case path == "":
		return ""
	case path == "~" || strings.HasPrefix(path, "~/"):
		return filepath.Join(d.home, path[1:])
	case filepath.IsAbs(path):
		return filepath.Clean(path)
	}
	return filepath.Join(d.dir, path)
}

func (d *decoder) site(name text, o *object) {
	o.checkLabel(name, "name")
	s := &dr.Site{Name: name.value, Region: o.text("region", optional).value}
	if c, ok := o.object("cluster", required); ok {
		c.later("secretRef")
		if !c.has("secretRef") {
			s.Cluster.Kubeconfig = d.resolve(c.text("kubeconfig", required).value)
		}
		s.Cluster.Context = c.text("context", optional).value
		c.end()
	}
	if in, ok := o.object("ingress", optional); ok {
		s.Ingress.Domain = in.hostname(in.text("domain", optional), "ingress.domain")
		address := in.text("address", optional)
		s.Ingress.Address = address.value
		if address.ok() && net.ParseIP(address.value) == nil {
			in.say(address.node, "write the address that DNS records point at, such as 10.10.0.7", "ingress.address %q is not an IP address", address.value)
		}
		in.end()
	}
	s.Registry = o.text("registry", optional).value
	s.StorageClasses = o.textMap("storageClasses")
	s.IngressClasses = o.textMap("ingressClasses")
	s.Zones = o.textMap("zones")
	s.NodeLabels = o.nodeLabels("nodeLabels")
	for _, t := range o.texts("finalizers", optional) {
		s.Finalizers = append(s.Finalizers, t.value)
	}
	s.MoverImage = o.text("moverImage", optional).value
	declare(d, &d.sites, "Site", name, s)
}

func (d *decoder) zone(name text, o *object) {
	z := &dr.Zone{Name: o.hostname(name, "name")}
	name.value = z.Name
	if r, ok := o.object("rfc2136", required); ok {
		z.RFC2136 = &dr.RFC2136{Server: r.hostPort(r.text("server", required), "rfc2136.server", "53")}
		z.RFC2136.Key.File = d.resolve(r.text("keyFile", required).value)
		r.end()
	}
	declare(d, &d.zones, "Zone", name, z)
}

func (d *decoder) tier(name text, o *object) {
	o.checkLabel(name, "name")
	t := &dr.Tier{Name: name.value}
	if obj, ok := o.object("objectives", required); ok {
		t.Objectives = objectives(obj)
	}
	t.Backup = schedule(o)
	declare(d, &d.tiers, "Tier", name, t)
}

func objectives(o *object) dr.Objectives {
	out := dr.Objectives{RTO: o.duration("rto", required, 0), RPO: o.duration("rpo", required, 0)}
	o.end()
	return out
}
