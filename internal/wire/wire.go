// Package wire puts the parts together for one application: it is the one place that names concrete
// drivers, and holds the handlers that let a run use them.
package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/dns"
	"lifeboat.dev/lifeboat/internal/driver/httpprobe"
	"lifeboat.dev/lifeboat/internal/driver/volume"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/observe"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/mover"
)

// connectDeadline bounds a connection to a site's API in a step; the step's own deadline bounds retries.
const connectDeadline = 5 * time.Second

// Options are what a caller may set.
type Options struct {
	Say func(format string, a ...any) // progress, a line each; nil: none
}

// Operation is everything at hand to work for one application.
type Operation struct {
	fleet *dr.Fleet
	app   *dr.Application
	vault *vault.Vault
	say   func(format string, a ...any)
	token string // names this process in journals and leases
	said  string // the last progress, which is not repeated; a run's events come one at a time

	mu      sync.Mutex
	clients map[string]*kube.Client
}

// Open makes ready to work for an application. It opens the vault and connects to nothing else.
func Open(ctx context.Context, fleet *dr.Fleet, app *dr.Application, o Options) (*Operation, error) {
	ref, ok := fleet.Vault(app.Vault)
	if !ok {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "application %s is kept in vault %q, which is not declared", app.Name, app.Vault)
	}
	v, err := vault.Open(ctx, *ref)
	if err != nil {
		return nil, err
	}
	say := o.Say
	if say == nil {
		say = func(string, ...any) {}
	}
	for _, w := range v.Warnings() {
		say("warning: %s", w)
	}
	return &Operation{fleet: fleet, app: app, vault: v, say: say, token: processToken(), clients: map[string]*kube.Client{}}, nil
}

// processToken names this process for people and for leases: no two processes have the same.
func processToken() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return vault.NewID(time.Now(), fmt.Sprintf("%s@%s/%d", name, host, os.Getpid()))
}

// Prober returns what asks applications for a sign of life.
func Prober() driver.Prober { return httpprobe.Prober{} }

// connect returns the client of a site, made once.
func (o *Operation) connect(ctx context.Context, name string) (*kube.Client, error) {
	o.mu.Lock()
	c := o.clients[name]
	o.mu.Unlock()
	if c != nil {
		return c, nil
	}
	site, ok := o.fleet.Site(name)
	if !ok {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "there is no site %q", name)
	}
	ctx, cancel := context.WithTimeout(ctx, connectDeadline)
	defer cancel()
	c, err := kube.Connect(ctx, *site)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if first := o.clients[name]; first != nil {
		return first, nil
	}
	o.clients[name] = c
	return c, nil
}

// traffic returns the driver that carries a host's traffic.
func (o *Operation) traffic(t dr.TrafficRef) (driver.Traffic, error) {
	if t.DNS == nil {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Add dns: to it in the fleet file.", "host %s says nothing of how its traffic is moved", t.Host)
	}
	zone, ok := o.fleet.Zone(t.DNS.Zone)
	if !ok {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Declare it in the fleet file.", "there is no zone %q", t.DNS.Zone)
	}
	return dns.New(*zone)
}

// datastore returns the driver of a datastore at a site.
func (o *Operation) datastore(ctx context.Context, site string, ds dr.Datastore) (driver.Datastore, error) {
	client, err := o.connect(ctx, site)
	if err != nil {
		return nil, err
	}
	switch {
	case ds.Volume != nil:
		return volumes(o, client), nil
	case ds.Postgres != nil:
		return databases{o}.driver(client), nil
	}
	return nil, dr.Errorf(dr.ClassUsage, nil, "", "datastore %s is of no kind that this version knows", ds.Name)
}

// volumes is the driver of a site's claims.
func volumes(o *Operation, client *kube.Client) *volume.Driver {
	s, _ := o.fleet.Site(client.Site) // connect found it
	image := s.MoverImage
	if image == "" {
		image = s.Registry + "/lifeboat:latest"
	}
	return volume.New(client, image, &mover.Runner{Store: o.vault.RepoStore(), Password: o.password})
}

// password reads the key that opens the vault's repository, for a mover.
func (o *Operation) password(context.Context) ([]byte, error) {
	ref, _ := o.fleet.Vault(o.app.Vault) // Open found it
	return vault.ReadKeyFile(ref.EncryptionKey.File)
}

// journal keeps runs in the vault.
type journal struct{ vault *vault.Vault }

// Append implements run.Journal.
func (j journal) Append(ctx context.Context, e dr.Entry) error { return j.vault.AppendEntry(ctx, e) }

// Load implements run.Journal.
func (j journal) Load(ctx context.Context, run string) ([]dr.Entry, error) {
	return j.vault.Entries(ctx, run)
}

// observed reads the application's state and makes the planner's facts of it.
func (o *Operation) observed(ctx context.Context) (*observe.State, plan.Facts, error) {
	st, err := observe.Application(ctx, o.app, observe.Sources{Vault: o.vault, Connect: o.connect, Traffic: o.traffic})
	if err != nil {
		return nil, plan.Facts{}, err
	}
	f := plan.Facts{Application: *o.app, Ownership: st.Ownership, Hosts: map[string][]string{}}
	for _, s := range st.Sites {
		site, _ := o.fleet.Site(s.Name) // the fleet file was checked
		f.Sites = append(f.Sites, plan.Site{Site: *site, Reachable: s.Reachable, Reason: s.Reason, Class: s.Class, Remedy: s.Remedy, Classes: s.Classes})
	}
	for _, p := range st.Points {
		f.Points = append(f.Points, plan.Point{RecoveryPoint: p, Age: time.Since(p.Time)})
	}
	if err := (databases{o}).follow(ctx, f.Points); err != nil {
		return nil, plan.Facts{}, err
	}
	for _, h := range st.Hosts {
		if h.Err == "" {
			f.Hosts[h.Host] = h.Addresses
		}
	}
	return st, f, nil
}

// Plan builds the plan for a request from what is observed now.
func (o *Operation) Plan(ctx context.Context, r plan.Request) (dr.Plan, error) {
	o.say("looking at the sites of %s, the vault and DNS", o.app.Name)
	_, facts, err := o.observed(ctx)
	if err != nil {
		return dr.Plan{}, err
	}
	p, err := plan.Build(facts, r)
	if err == nil {
		err = databases{o}.recoverable(ctx, p)
	}
	if err != nil {
		return dr.Plan{}, err
	}
	for _, w := range p.Warnings {
		o.say("warning: %s", w)
	}
	return p, nil
}

// datastoreOf finds one of the application's datastores.
func (o *Operation) datastoreOf(name string) (dr.Datastore, error) {
	for _, d := range o.app.Data {
		if d.Name == name {
			return d, nil
		}
	}
	return dr.Datastore{}, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Declare it in the fleet file.", "application %s has no datastore %q", o.app.Name, name)
}

// point reads a recovery point.
func (o *Operation) point(ctx context.Context, id string) (dr.RecoveryPoint, error) {
	p, err := o.vault.Point(ctx, o.app.Name, id)
	if err != nil {
		if errors.Is(err, dr.ErrNotFound) {
			return p, dr.Errorf(dr.ClassUsage, err, "See: lifeboat status "+o.app.Name, "application %s has no recovery point %s", o.app.Name, id)
		}
		return p, err
	}
	return p, nil
}
