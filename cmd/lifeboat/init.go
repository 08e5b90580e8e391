package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"lifeboat.dev/lifeboat/internal/config"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/observe"
)

type initOptions struct {
	out, namespace, application, preferred string
	contexts, sites                        []string
	ingress, registry                      []string
	vault, vaultKey                        string
	zone, dnsServer, dnsKey                string
	ttl, rto, rpo                          time.Duration
	probe, probeResolver, probeCA, header  string
	dryRun                                 bool
}

func newInit(g *global) *cobra.Command {
	o := initOptions{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Look at clusters, write a fleet file and make the vault",
		Long: `Init connects to each site, reads what one application there consists of (its claims, the hosts of its
Routes and Ingresses, its storage classes and registries), and writes a fleet file that says so. It makes the
vault and its key where they do not exist. It never overwrites a file and changes nothing in a cluster.`,
		Example: `  lifeboat init --context aro-east --context aro-central --namespace shop --vault /mnt/vault
  lifeboat init --site east=~/.kube/east --site west=~/.kube/west --preferred east --namespace shop \
      --vault /mnt/vault --zone example.com --dns-server 10.0.0.53:53 --dns-key ~/.lifeboat/example.key
  lifeboat init … --dry-run       print the fleet file, write nothing`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runInit(c.Context(), g, o) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.contexts, "context", nil, "a site: a context of your kubeconfig, which also names the site (repeat)")
	f.StringSliceVar(&o.sites, "site", nil, "a site: NAME=KUBECONFIG or NAME=KUBECONFIG#CONTEXT (repeat)")
	f.StringVar(&o.namespace, "namespace", "", "the application's namespace")
	f.StringVar(&o.application, "application", "", "the application's name (default: the namespace)")
	f.StringVar(&o.preferred, "preferred", "", "the site where the application runs (default: the first)")
	f.StringSliceVar(&o.ingress, "ingress", nil, "SITE=ADDRESS of a site's router, where the cluster does not tell (repeat)")
	f.StringSliceVar(&o.registry, "registry", nil, "SITE=HOST[:PORT][/PATH] that a site pulls images from (repeat)")
	f.StringVar(&o.vault, "vault", "", "where the vault is or shall be, best outside of every site: a directory, s3://BUCKET/PREFIX or azblob://ACCOUNT/CONTAINER/PREFIX")
	f.StringVar(&o.vaultKey, "vault-key", "~/.lifeboat/vault.key", "the vault's key file; made when it does not exist")
	f.StringVar(&o.zone, "zone", "", "DNS zone of the application's hosts")
	f.StringVar(&o.dnsServer, "dns-server", "", "HOST:PORT of the zone's authoritative server, which takes RFC 2136 updates")
	f.StringVar(&o.dnsKey, "dns-key", "", "TSIG key file (BIND's syntax) that may update the zone")
	f.DurationVar(&o.ttl, "ttl", 30*time.Second, "TTL of the hosts' records")
	f.DurationVar(&o.rto, "rto", 15*time.Minute, "objective: how long the application may be down")
	f.DurationVar(&o.rpo, "rpo", time.Hour, "objective: how much data, as time, may be lost")
	f.StringVar(&o.probe, "probe", "", "URL that shows the application's health (default: https://HOST/ of its first host)")
	f.StringVar(&o.probeResolver, "probe-resolver", "", "HOST:PORT of the resolver that the probe asks (default: this machine's)")
	f.StringVar(&o.probeCA, "probe-ca", "", "PEM file with the CA that the probe trusts (default: this machine's)")
	f.StringVar(&o.header, "probe-site-header", "", "response header in which the application names the site that answers")
	f.StringVar(&o.out, "out", "fleet.yaml", "the fleet file to write")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the fleet file and write nothing")
	return c
}

func runInit(ctx context.Context, g *global, o initOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if _, err := os.Stat(o.out); err == nil && !o.dryRun {
		return dr.Errorf(dr.ClassConflict, fs.ErrExist, "Name another with --out, or move this one away.", "%s is already there", o.out)
	}
	fleet, err := o.fleet(ctx, g)
	if err != nil {
		return err
	}
	text, err := config.Encode(fleet)
	if err != nil {
		return fmt.Errorf("write the fleet file's text: %w", err)
	}
	if _, err := config.Parse(o.out, text); err != nil {
		return fmt.Errorf("what the clusters say does not make a complete fleet file; add flags, or use --dry-run and edit what it prints: %w", err)
	}
	if o.dryRun {
		_, err := g.stdout.Write(text)
		return err
	}
	if err := makeVault(ctx, g, fleet.Vaults[0]); err != nil {
		return err
	}
	if err := os.WriteFile(o.out, text, 0o600); err != nil {
		return fmt.Errorf("write the fleet file: %w", err)
	}
	app := fleet.Applications[0]
	return g.print(map[string]any{"fleetFile": o.out, "fleet": fleet}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "wrote %s: application %s, %d sites, %d datastores, %d hosts\n  next: lifeboat backup %s\n",
			o.out, app.Name, len(fleet.Sites), len(app.Data), len(app.Traffic), app.Name)
		return err
	})
}

func (o *initOptions) check() error {
	for _, need := range []struct{ value, flag, what string }{
		{o.namespace, "--namespace", "the application's namespace"},
		{o.vault, "--vault", "where the vault shall be"},
	} {
		if need.value == "" {
			return dr.Errorf(dr.ClassUsage, nil, "See: lifeboat init --help", "%s is missing: %s", need.flag, need.what)
		}
	}
	if len(o.contexts)+len(o.sites) < 2 {
		return dr.Errorf(dr.ClassUsage, nil, "Name each with --context or --site.", "a fleet needs two sites or more, not %d", len(o.contexts)+len(o.sites))
	}
	if (o.zone == "") != (o.dnsServer == "") || (o.zone == "") != (o.dnsKey == "") {
		return dr.Errorf(dr.ClassUsage, nil, "Give all three, or none.", "--zone, --dns-server and --dns-key belong together")
	}
	return nil
}

// pairs reads NAME=VALUE flags.
func pairs(flag string, given []string) (map[string]string, []string, error) {
	m, order := map[string]string{}, []string(nil)
	for _, g := range given {
		name, value, ok := strings.Cut(g, "=")
		if !ok || name == "" || value == "" {
			return nil, nil, dr.Errorf(dr.ClassUsage, nil, "Write "+flag+" NAME=VALUE.", "%s %q is not NAME=VALUE", flag, g)
		}
		if _, twice := m[name]; twice {
			return nil, nil, dr.Errorf(dr.ClassUsage, nil, "", "%s names %s twice", flag, name)
		}
		m[name] = value
		order = append(order, name)
	}
	return m, order, nil
}

// siteList makes a site of each --context and --site.
func (o *initOptions) siteList() ([]dr.Site, error) {
	var out []dr.Site
	for _, c := range o.contexts {
		out = append(out, dr.Site{Name: c, Cluster: dr.Cluster{Kubeconfig: clientcmd.NewDefaultClientConfigLoadingRules().GetDefaultFilename(), Context: c}})
	}
	named, order, err := pairs("--site", o.sites)
	if err != nil {
		return nil, err
	}
	for _, n := range order {
		path, kubeContext, _ := strings.Cut(named[n], "#")
		abs, err := absolute(path)
		if err != nil {
			return nil, err
		}
		out = append(out, dr.Site{Name: n, Cluster: dr.Cluster{Kubeconfig: abs, Context: kubeContext}})
	}
	addresses, _, err := pairs("--ingress", o.ingress)
	if err != nil {
		return nil, err
	}
	registries, _, err := pairs("--registry", o.registry)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Ingress.Address, out[i].Registry = addresses[out[i].Name], registries[out[i].Name]
		delete(addresses, out[i].Name)
		delete(registries, out[i].Name)
	}
	for flag, left := range map[string]map[string]string{"--ingress": addresses, "--registry": registries} {
		for n := range left {
			return nil, dr.Errorf(dr.ClassUsage, nil, "", "%s names %s, which is no site", flag, n)
		}
	}
	return out, nil
}

// placeOf makes a location of what a person writes: of a directory's path, file:///absolute/path.
func placeOf(p string) (string, error) {
	if scheme, _, isURL := strings.Cut(p, "://"); isURL && scheme != "file" {
		return p, nil
	}
	dir, err := absolute(strings.TrimPrefix(p, "file://"))
	return "file://" + dir, err
}

// absolute resolves ~ and relative paths.
func absolute(p string) (string, error) {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home directory: %w", err)
		}
		p = filepath.Join(home, rest)
	}
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", p, err)
	}
	return abs, nil
}

// fleet looks at every site and writes down what it found.
func (o *initOptions) fleet(ctx context.Context, g *global) (*dr.Fleet, error) {
	sites, err := o.siteList()
	if err != nil {
		return nil, err
	}
	if o.preferred == "" {
		o.preferred = sites[0].Name
	}
	if !slices.ContainsFunc(sites, func(s dr.Site) bool { return s.Name == o.preferred }) {
		return nil, dr.Errorf(dr.ClassUsage, nil, "", "--preferred names %s, which is no site", o.preferred)
	}
	var app observe.AppFacts
	classes := map[string]observe.SiteFacts{}
	for i := range sites {
		s := &sites[i]
		g.say("looking at site %s", s.Name)
		client, err := kube.Connect(ctx, *s)
		if err != nil {
			return nil, err
		}
		facts, err := observe.Site(ctx, client)
		if err != nil {
			return nil, err
		}
		classes[s.Name] = facts
		s.Region, s.Ingress.Domain = facts.Region, facts.IngressDomain
		if s.Ingress.Address == "" {
			s.Ingress.Address = facts.IngressAddress
		}
		if s.Name != o.preferred {
			continue
		}
		if app, err = observe.Namespace(ctx, client, o.namespace); err != nil {
			return nil, err
		}
		if s.Registry == "" && len(app.Registries) > 0 {
			s.Registry = app.Registries[0]
		}
	}
	mapClasses(sites, classes, app.Claims)
	return o.describe(sites, app)
}

// mapClasses maps each class in use that a site lacks to that site's default, or to its only class.
func mapClasses(sites []dr.Site, facts map[string]observe.SiteFacts, claims []observe.Claim) {
	for i := range sites {
		f := facts[sites[i].Name]
		to := f.DefaultClass
		if to == "" && len(f.StorageClasses) == 1 {
			to = f.StorageClasses[0]
		}
		for _, c := range claims {
			if to == "" || c.Class == "" || slices.Contains(f.StorageClasses, c.Class) {
				continue
			}
			if sites[i].StorageClasses == nil {
				sites[i].StorageClasses = map[string]string{}
			}
			sites[i].StorageClasses[c.Class] = to
		}
	}
}

// describe makes the fleet of what was found and what the flags say.
func (o *initOptions) describe(sites []dr.Site, found observe.AppFacts) (*dr.Fleet, error) {
	location, err := placeOf(o.vault)
	if err != nil {
		return nil, err
	}
	keyFile, err := absolute(o.vaultKey)
	if err != nil {
		return nil, err
	}
	app := dr.Application{Name: o.application, Namespaces: []string{o.namespace}, Objectives: dr.Objectives{RTO: o.rto, RPO: o.rpo},
		Strategy: dr.BackupRestore, Vault: "main", Sites: dr.Placement{Preferred: o.preferred}}
	if app.Name == "" {
		app.Name = o.namespace
	}
	for _, s := range sites {
		if s.Name != o.preferred {
			app.Sites.Recovery = append(app.Sites.Recovery, s.Name)
		}
	}
	for _, c := range found.Claims {
		app.Data = append(app.Data, dr.Datastore{Name: c.Name, Volume: &dr.VolumeRef{Namespace: o.namespace, Claim: c.Name}})
	}
	fleet := &dr.Fleet{Sites: sites, Vaults: []dr.Vault{{Name: "main", Location: location, EncryptionKey: dr.KeySource{File: keyFile}}}}
	if o.zone != "" {
		key, err := absolute(o.dnsKey)
		if err != nil {
			return nil, err
		}
		fleet.Zones = []dr.Zone{{Name: o.zone, RFC2136: &dr.RFC2136{Server: o.dnsServer, Key: dr.KeySource{File: key}}}}
	}
	for _, h := range found.Hosts {
		t := dr.TrafficRef{Host: h}
		if o.zone != "" && (h == o.zone || strings.HasSuffix(h, "."+o.zone)) {
			t.DNS = &dr.DNSRef{Zone: o.zone, TTL: o.ttl}
			app.Traffic = append(app.Traffic, t)
		}
	}
	if err := o.addProbe(&app, found.Hosts); err != nil {
		return nil, err
	}
	fleet.Applications = []dr.Application{app}
	return fleet, nil
}

func (o *initOptions) addProbe(app *dr.Application, hosts []string) error {
	url := o.probe
	if url == "" {
		if len(hosts) == 0 {
			return nil
		}
		url = "https://" + hosts[0] + "/"
	}
	p := &dr.HTTPProbe{URL: url, Resolver: o.probeResolver, Timeout: 2 * time.Second, SiteHeader: o.header}
	if o.probeCA != "" {
		ca, err := absolute(o.probeCA)
		if err != nil {
			return err
		}
		p.CAFile = ca
	}
	app.Probes = []dr.Probe{{Name: "front", HTTP: p}}
	return nil
}
