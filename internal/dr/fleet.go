package dr

import "time"

// Fleet is everything a fleet file declares. Names are unique within a kind.
type Fleet struct {
	Sites        []Site        `json:"sites"`
	Vaults       []Vault       `json:"vaults"`
	Zones        []Zone        `json:"zones,omitempty"`
	Tiers        []Tier        `json:"tiers,omitempty"`
	Applications []Application `json:"applications"`
}

// Site is one cluster in one region.
type Site struct {
	Name    string  `json:"name"`
	Region  string  `json:"region,omitempty"`
	Cluster Cluster `json:"cluster"`
	Ingress Ingress `json:"ingress"`
	// Registry is the host (and optional path) that images are pulled from at this site.
	Registry string `json:"registry,omitempty"`
	// StorageClasses maps a class of any other site to the class to use here; "*" is the fallback.
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	// IngressClasses, Zones and NodeLabels map what objects ask for at any other site to what there is here;
	// "*" is the fallback of the first two. A node label is "key=value", or a key alone; what it maps to is
	// of the same form, or empty: then the demand is dropped.
	IngressClasses map[string]string `json:"ingressClasses,omitempty"`
	Zones          map[string]string `json:"zones,omitempty"`
	NodeLabels     map[string]string `json:"nodeLabels,omitempty"`
	// Finalizers are those, or the domains before their slash, whose controllers run at this site. Others are
	// not restored to it: nothing would take them off again.
	Finalizers []string `json:"finalizers,omitempty"`
	// MoverImage is the image of Lifeboat's data mover; empty means REGISTRY/lifeboat:latest.
	MoverImage string `json:"moverImage,omitempty"`
}

// Cluster says how to reach a site's API server.
type Cluster struct {
	Kubeconfig string `json:"kubeconfig"`        // absolute path
	Context    string `json:"context,omitempty"` // empty: the file's current context
}

// Ingress is where a site's router answers.
type Ingress struct {
	Domain  string `json:"domain,omitempty"`  // the site's default Route domain
	Address string `json:"address,omitempty"` // IP address that DNS records point at
}

// Vault is the storage that holds everything needed to recover.
type Vault struct {
	Name          string    `json:"name"`
	Location      string    `json:"location"` // file:///absolute/path, s3://… or azblob://…
	EncryptionKey KeySource `json:"encryptionKey"`
	// Retention is what is kept of applications that do not say it themselves; nil: everything.
	Retention *Retention `json:"retention,omitempty"`
	// Credentials of an object storage; without a file, the environment's usual chain.
	Credentials KeySource `json:"credentials,omitzero"`
	CAFile      string    `json:"caFile,omitempty"` // PEM; trusted besides the machine's roots
	// Replicas are further locations that are kept in step. Ownership counts at Location alone.
	Replicas []Replica `json:"replicas,omitempty"`
	// ReadOnly is set while a command reads a replica instead of the vault's own location.
	ReadOnly bool `json:"-"`
}

// Replica is a copy of a vault at another location.
type Replica struct {
	Name        string    `json:"name"`
	Location    string    `json:"location"`
	Credentials KeySource `json:"credentials,omitzero"`
	CAFile      string    `json:"caFile,omitempty"`
}

// Replica returns the replica of that name.
func (v *Vault) Replica(name string) (*Replica, bool) {
	return find(v.Replicas, func(r *Replica) bool { return r.Name == name })
}

// At returns the vault as it is to be read at a replica.
func (v Vault) At(r Replica) Vault {
	v.Location, v.Credentials, v.CAFile, v.ReadOnly = r.Location, r.Credentials, r.CAFile, true
	return v
}

// Retention says which recovery points are kept: those that any of its rules names. Of the calendar's
// rules each keeps the newest complete point of so many hours, days, … (UTC) that have one.
type Retention struct {
	Last    int           `json:"last,omitempty"` // the newest so many
	Hourly  int           `json:"hourly,omitempty"`
	Daily   int           `json:"daily,omitempty"`
	Weekly  int           `json:"weekly,omitempty"` // of the ISO calendar
	Monthly int           `json:"monthly,omitempty"`
	Yearly  int           `json:"yearly,omitempty"`
	Within  time.Duration `json:"within,omitempty"` // everything that is younger
}

// Empty says whether there is no rule at all.
func (r Retention) Empty() bool { return r == Retention{} }

// KeySource names where a secret is read from; the secret itself is never part of a fleet.
type KeySource struct {
	File string `json:"file"` // absolute path
}

// Zone is a DNS zone that Lifeboat may update.
type Zone struct {
	Name    string   `json:"name"` // example.com, no trailing dot
	RFC2136 *RFC2136 `json:"rfc2136,omitempty"`
}

// RFC2136 reaches an authoritative server that takes dynamic updates signed with TSIG.
type RFC2136 struct {
	Server string    `json:"server"` // host:port
	Key    KeySource `json:"key"`    // a file in BIND's key syntax
}

// Tier is a named set of objectives.
type Tier struct {
	Name       string     `json:"name"`
	Objectives Objectives `json:"objectives"`
	Backup     Schedule   `json:"backup,omitzero"` // of its applications that have none of their own
}

// Schedule says when data is backed up by itself. At most one of the two is given; none: never.
type Schedule struct {
	Every time.Duration `json:"every,omitempty"`
	Cron  string        `json:"cron,omitempty"` // five fields, in UTC unless it begins with CRON_TZ=
}

// Objectives are what a user may demand of a recovery.
type Objectives struct {
	RTO time.Duration `json:"rto"` // how long the application may be down
	RPO time.Duration `json:"rpo"` // how much data, as time, may be lost
}

// Strategy is how an application is brought back.
type Strategy string

// The strategies, cheapest first.
const (
	BackupRestore Strategy = "backup-restore"
	WarmStandby   Strategy = "warm-standby"
	ActiveActive  Strategy = "active-active"
)

// Application is what moves together: namespaces, data, hostnames and objectives.
type Application struct {
	Name       string     `json:"name"`
	Namespaces []string   `json:"namespaces"`
	Tier       string     `json:"tier,omitempty"`
	Objectives Objectives `json:"objectives"` // resolved from the tier when the file names one
	Strategy   Strategy   `json:"strategy"`
	Vault      string     `json:"vault"` // resolved to the only vault when left out
	// Retention takes the place of the vault\'s; nil: the vault\'s holds.
	Retention *Retention   `json:"retention,omitempty"`
	Sites     Placement    `json:"sites"`
	Data      []Datastore  `json:"data,omitempty"`
	Backup    Schedule     `json:"backup,omitzero"` // of the data; resolved from the tier when left out
	Traffic   []TrafficRef `json:"traffic,omitempty"`
	Probes    []Probe      `json:"probes,omitempty"`
	Restore   RestoreRules `json:"restore,omitzero"`
}

// Placement says where an application runs and where it recovers.
type Placement struct {
	Preferred string   `json:"preferred"`
	Recovery  []string `json:"recovery"`
}

// Datastore is one piece of an application's data; exactly one kind is set.
type Datastore struct {
	Name     string       `json:"name"`
	Volume   *VolumeRef   `json:"volume,omitempty"`
	Postgres *PostgresRef `json:"postgres,omitempty"`
}

// Namespace is the one that the datastore is in.
func (d *Datastore) Namespace() string {
	switch {
	case d.Volume != nil:
		return d.Volume.Namespace
	case d.Postgres != nil:
		return d.Postgres.Namespace
	}
	return ""
}

// In returns the datastore as it is in another namespace.
func (d Datastore) In(namespace string) Datastore {
	if d.Volume != nil {
		v := *d.Volume
		v.Namespace, d.Volume = namespace, &v
	}
	if d.Postgres != nil {
		p := *d.Postgres
		p.Namespace, d.Postgres = namespace, &p
	}
	return d
}

// PostgresRef names a PostgreSQL server that runs in a pod.
type PostgresRef struct {
	Namespace string `json:"namespace"` // resolved to the only namespace when left out
	Service   string `json:"service"`   // of the primary
	Secret    string `json:"secret"`    // of a role that may replicate: username, password, database, sslmode, ca.crt
	// Claim holds the server's data directory, in Directory; empty: as it was found when it was backed up.
	Claim     string `json:"claim,omitempty"`
	Directory string `json:"directory,omitempty"`
}

// VolumeRef names a PersistentVolumeClaim.
type VolumeRef struct {
	Namespace string `json:"namespace"` // resolved to the only namespace when left out
	Claim     string `json:"claim"`
}

// TrafficRef is one host name whose traffic follows the application.
type TrafficRef struct {
	Host string  `json:"host"`
	DNS  *DNSRef `json:"dns,omitempty"`
	// Service is the one whose load balancer serves the host, at an address that each site gives it anew;
	// nil: the site's router does.
	Service *ServiceRef `json:"service,omitempty"`
}

// ServiceRef names a Service of type LoadBalancer.
type ServiceRef struct {
	Namespace string `json:"namespace"` // resolved to the only namespace when left out
	Name      string `json:"name"`
}

// DNSRef says which record carries a host name.
type DNSRef struct {
	Zone string        `json:"zone"`
	TTL  time.Duration `json:"ttl"`
}

// Probe asks the application for a sign of life from where a user stands.
type Probe struct {
	Name string     `json:"name"`
	HTTP *HTTPProbe `json:"http,omitempty"`
}

// HTTPProbe succeeds on a 2xx answer.
type HTTPProbe struct {
	URL      string        `json:"url"`
	Resolver string        `json:"resolver,omitempty"` // host:port of the resolver to ask; empty: the machine's
	CAFile   string        `json:"caFile,omitempty"`   // PEM; empty: the machine's roots
	Timeout  time.Duration `json:"timeout,omitempty"`  // of one try; default 2 s
	// SiteHeader names a response header whose value is the site that answered; empty when the
	// application does not say.
	SiteHeader string `json:"siteHeader,omitempty"`
}

// Site returns the site of that name.
func (f *Fleet) Site(name string) (*Site, bool) {
	return find(f.Sites, func(s *Site) bool { return s.Name == name })
}

// Vault returns the vault of that name.
func (f *Fleet) Vault(name string) (*Vault, bool) {
	return find(f.Vaults, func(v *Vault) bool { return v.Name == name })
}

// Zone returns the zone of that name.
func (f *Fleet) Zone(name string) (*Zone, bool) {
	return find(f.Zones, func(z *Zone) bool { return z.Name == name })
}

// Application returns the application of that name.
func (f *Fleet) Application(name string) (*Application, bool) {
	return find(f.Applications, func(a *Application) bool { return a.Name == name })
}

// RetentionOf returns what is kept of an application's recovery points; nil means everything.
func (f *Fleet) RetentionOf(a *Application) *Retention {
	if a.Retention != nil {
		return a.Retention
	}
	if v, ok := f.Vault(a.Vault); ok {
		return v.Retention
	}
	return nil
}

func find[T any](items []T, ok func(*T) bool) (*T, bool) {
	for i := range items {
		if ok(&items[i]) {
			return &items[i], true
		}
	}
	return nil, false
}
