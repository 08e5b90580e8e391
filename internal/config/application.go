package config

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
)

func (d *decoder) application(name text, o *object) {
	o.checkLabel(name, "name")
	a := &dr.Application{Name: name.value, Strategy: dr.BackupRestore}
	for _, ns := range o.texts("namespaces", required) {
		o.checkLabel(ns, "namespace")
		if slices.Contains(a.Namespaces, ns.value) {
			o.say(ns.node, "keep it once", "namespace %s is listed twice", ns.value)
			continue
		}
		a.Namespaces = append(a.Namespaces, ns.value)
	}
	d.applicationObjectives(a, o)
	d.applicationStrategy(a, o)
	d.applicationVault(a, o)
	a.Retention = o.retention()
	d.placement(a, o)
	d.data(a, o)
	a.Backup = schedule(o)
	d.traffic(a, o)
	d.probes(a, o)
	restoring(a, o)
	o.later("dependsOn", "external")
	declare(d, &d.applications, "Application", name, a)
}

func (d *decoder) applicationObjectives(a *dr.Application, o *object) {
	tier := o.text("tier", optional)
	if obj, ok := o.object("objectives", optional); ok {
		a.Objectives = objectives(obj)
		if tier.ok() {
			o.say(tier.node, "keep one of the two", "both tier and objectives are given")
		}
		return
	}
	if !tier.ok() {
		if !o.has("tier") && !o.has("objectives") {
			o.say(o.node, "add objectives: {rto: 5m, rpo: 1m}, or name a tier", "neither objectives nor a tier is given")
		}
		return
	}
	a.Tier = tier.value
	d.afterwards = append(d.afterwards, func() {
		if t := d.tiers.get(tier.value); t != nil {
			a.Objectives = t.Objectives
			if a.Backup == (dr.Schedule{}) {
				a.Backup = t.Backup
			}
			return
		}
		o.say(tier.node, known("Tier", tier.value, d.tiers.names), "there is no tier %q", tier.value)
	})
}

func (d *decoder) applicationStrategy(a *dr.Application, o *object) {
	s := o.text("strategy", optional)
	if !s.ok() {
		return
	}
	a.Strategy = dr.Strategy(s.value)
	all := []string{string(dr.BackupRestore), string(dr.WarmStandby), string(dr.ActiveActive)}
	switch {
	case a.Strategy == dr.BackupRestore:
	case slices.Contains(all, s.value):
		o.say(s.node, "use backup-restore", "strategy %s is not in this version", s.value)
	default:
		remedy := "use backup-restore"
		if near := nearest(s.value, all); near == string(dr.BackupRestore) {
			remedy = "did you mean backup-restore?"
		}
		o.say(s.node, remedy, "unknown strategy %q", s.value)
	}
}

func (d *decoder) applicationVault(a *dr.Application, o *object) {
	v := o.text("vault", optional)
	a.Vault = v.value
	d.afterwards = append(d.afterwards, func() {
		switch {
		case v.ok() && d.vaults.get(v.value) == nil:
			o.say(v.node, known("Vault", v.value, d.vaults.names), "there is no vault %q", v.value)
		case v.ok() || o.has("vault"):
		case len(d.vaults.names) == 1:
			a.Vault = d.vaults.names[0]
		case len(d.vaults.names) == 0:
			o.say(o.node, "declare a Vault", "there is no vault to protect it in")
		default:
			o.say(o.node, "add vault: with one of "+strings.Join(d.vaults.names, ", "), "which vault is not said, and there are several")
		}
	})
}

func (d *decoder) placement(a *dr.Application, o *object) {
	sites, ok := o.object("sites", required)
	if !ok {
		return
	}
	preferred := sites.text("preferred", required)
	a.Sites.Preferred = preferred.value
	d.siteExists(sites, preferred, "sites.preferred")
	for _, r := range sites.texts("recovery", required) {
		switch {
		case preferred.ok() && r.value == preferred.value:
			sites.say(r.node, "name another site", "site %s is both preferred and a recovery site", r.value)
		case slices.Contains(a.Sites.Recovery, r.value):
			sites.say(r.node, "keep it once", "recovery site %s is listed twice", r.value)
		default:
			a.Sites.Recovery = append(a.Sites.Recovery, r.value)
		}
		d.siteExists(sites, r, "sites.recovery")
	}
	sites.end()
}

func (d *decoder) siteExists(o *object, site text, field string) {
	if !site.ok() {
		return
	}
	d.afterwards = append(d.afterwards, func() {
		if d.sites.get(site.value) == nil {
			o.say(site.node, known("Site", site.value, d.sites.names), "%s: there is no site %q", field, site.value)
		}
	})
}

func (d *decoder) data(a *dr.Application, o *object) {
	lines := map[string]int{}
	o.objects("data", optional, func(c *object) {
		name := c.unique("datastore", lines)
		ds := dr.Datastore{Name: name.value}
		c.later("redis")
		volume := optional
		if !c.has("postgres") && !c.has("redis") {
			volume = required
		}
		if p, ok := c.object("postgres", optional); ok {
			ds.Postgres = postgres(a, p)
			if c.has("volume") {
				p.say(p.node, "make two datastores of them", "datastore %s is of two kinds", name.value)
			}
		}
		if v, ok := c.object("volume", volume); ok {
			claim := v.text("claim", required)
			ds.Volume = &dr.VolumeRef{Claim: claim.value, Namespace: namespaceIn(a, v)}
			if claim.ok() && !domain.MatchString(claim.value) {
				v.say(claim.node, "write the name of a PersistentVolumeClaim", "claim %q is not a valid name", claim.value)
			}
			v.end()
		}
		a.Data = append(a.Data, ds)
	})
}

// postgres reads a PostgreSQL server.
func postgres(a *dr.Application, p *object) *dr.PostgresRef {
	ref := &dr.PostgresRef{Namespace: namespaceIn(a, p)}
	for _, f := range []struct {
		field, what string
		need        need
		to          *string
	}{{"service", "Service", required, &ref.Service}, {"secret", "Secret", required, &ref.Secret}, {"claim", "PersistentVolumeClaim", optional, &ref.Claim}} {
		t := p.text(f.field, f.need)
		*f.to = t.value
		if t.ok() && !domain.MatchString(t.value) {
			p.say(t.node, "write the name of a "+f.what, "%s %q is not a valid name", f.field, t.value)
		}
	}
	directory := p.text("directory", optional)
	ref.Directory = directory.value
	switch {
	case directory.ok() && ref.Claim == "":
		p.say(directory.node, "name the claim too", "directory is given without the claim that it is in")
	case directory.ok() && !filepath.IsLocal(directory.value):
		p.say(directory.node, "write a path below the claim's root, such as pgdata", "directory %q leads out of the claim", directory.value)
	}
	p.end()
	return ref
}

func namespaceIn(a *dr.Application, v *object) string {
	ns := v.text("namespace", optional)
	switch {
	case ns.ok() && !slices.Contains(a.Namespaces, ns.value):
		v.say(ns.node, known("namespace of the application", ns.value, a.Namespaces), "namespace %q is not one of the application's", ns.value)
	case ns.ok():
	case len(a.Namespaces) == 1:
		return a.Namespaces[0]
	case len(a.Namespaces) > 1:
		v.say(v.node, "add namespace: with one of "+strings.Join(a.Namespaces, ", "), "which namespace it is in is not said, and there are several")
	}
	return ns.value
}

// unique reads a name that may occur once in its list.
func (o *object) unique(what string, lines map[string]int) text {
	name := o.text("name", required)
	o.checkLabel(name, what)
	if !name.ok() {
		return name
	}
	if first, taken := lines[name.value]; taken {
		o.say(name.node, "give one of them another name", "%s %s is declared twice, first at line %d", what, name.value, first)
		return name
	}
	lines[name.value] = name.node.Line
	return name
}

func (d *decoder) traffic(a *dr.Application, o *object) {
	lines := map[string]int{}
	o.objects("traffic", optional, func(c *object) {
		t := c.text("host", required)
		host := c.hostname(t, "host")
		if first, taken := lines[host]; taken && t.ok() {
			c.say(t.node, "keep it once", "host %s is declared twice, first at line %d", host, first)
		} else if t.ok() {
			lines[host] = t.node.Line
		}
		ref := dr.TrafficRef{Host: host}
		c.later("route", "gateway", "azure")
		if dns, ok := c.object("dns", required); ok {
			zone := dns.text("zone", required)
			ref.DNS = &dr.DNSRef{Zone: dns.hostname(zone, "zone"), TTL: dns.duration("ttl", optional, DefaultTTL)}
			if ttl := ref.DNS.TTL; ttl%1e9 != 0 {
				dns.say(dns.value["ttl"], "round it", "dns.ttl %s is not a whole number of seconds", ttl)
			}
			d.zoneHolds(c, t, host, zone, ref.DNS.Zone)
			dns.end()
		}
		if s, ok := c.object("service", optional); ok {
			name := s.text("name", required)
			ref.Service = &dr.ServiceRef{Name: name.value, Namespace: namespaceIn(a, s)}
			if name.ok() && !domain.MatchString(name.value) {
				s.say(name.node, "write the name of a Service", "service %q is not a valid name", name.value)
			}
			s.end()
		}
		a.Traffic = append(a.Traffic, ref)
	})
}

func (d *decoder) zoneHolds(o *object, hostText text, host string, zoneText text, zone string) {
	if !zoneText.ok() {
		return
	}
	if hostText.ok() && host != zone && !strings.HasSuffix(host, "."+zone) {
		o.say(hostText.node, "correct the host, or name the zone that holds it", "host %s is not in zone %s", host, zone)
	}
	d.afterwards = append(d.afterwards, func() {
		if d.zones.get(zone) == nil {
			o.say(zoneText.node, known("Zone", zone, d.zones.names), "there is no zone %q", zone)
		}
	})
}

func (d *decoder) probes(a *dr.Application, o *object) {
	lines := map[string]int{}
	o.objects("probes", optional, func(c *object) {
		p := dr.Probe{Name: c.unique("probe", lines).value}
		c.later("tcp", "exec")
		if h, ok := c.object("http", required); ok {
			p.HTTP = &dr.HTTPProbe{
				URL:        probeURL(h),
				Resolver:   h.hostPort(h.text("resolver", optional), "http.resolver", "53"),
				CAFile:     d.resolve(h.text("caFile", optional).value),
				Timeout:    h.duration("timeout", optional, DefaultProbeTimeout),
				SiteHeader: h.text("siteHeader", optional).value,
			}
			h.end()
		}
		a.Probes = append(a.Probes, p)
	})
}

func probeURL(o *object) string {
	t := o.text("url", required)
	if !t.ok() {
		return ""
	}
	u, err := url.Parse(t.value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		o.say(t.node, "write it like https://shop.example.com/healthz", "http.url %q is not an http or https address", t.value)
	} else if u.User != nil {
		o.say(t.node, "remove them: a fleet file holds no secrets", "http.url has credentials in it")
	}
	return t.value
}
