package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/agent"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/pki"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
)

// firstOctet is where the search for free loopback addresses begins.
const firstOctet = 66

// Up starts a lab, or what of it does not run, and returns when all of it is ready. A lab whose start
// was interrupted is started over. If it fails, nothing of the lab runs, and its logs are kept in Dir.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	dir, err := claimDir(o.Dir)
	if err != nil {
		return nil, err
	}
	lk, err := acquire(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer lk.f.Close() // what it guards is done; closing cannot fail in a way that matters
	l := &Lab{dir: dir}
	st, err := state.Load(string(dir))
	switch {
	case err == nil && st.Complete:
		return l, l.resume(ctx, o, st)
	case err == nil:
		o.Progress("an earlier start was not finished: starting over")
	case !errors.Is(err, fs.ErrNotExist):
		o.Progress("the lab's state cannot be read: starting over")
	}
	if err := l.clear(ctx, st); err != nil {
		return nil, err
	}
	return l, l.fresh(ctx, o)
}

// resume starts what does not run of a lab that was up.
func (l *Lab) resume(ctx context.Context, o Options, st *State) error {
	var have []string
	for _, s := range st.Sites {
		have = append(have, s.Name)
	}
	if st.Nodes != string(o.Nodes) || !slices.Equal(have, o.Sites) {
		return dr.Errorf(dr.ClassConflict, nil, "Remove it first (lifeboat-lab down), or give this one another --name.",
			"the lab %s exists with sites %s on nodes of %s", st.Name, strings.Join(have, ", "), st.Nodes)
	}
	var start []string
	for _, s := range st.Sites {
		if !l.running(s.Name) {
			start = append(start, s.Name)
		}
	}
	world := l.running(state.World)
	if len(start) == 0 && world {
		o.Progress("the lab " + st.Name + " is already running")
		return nil
	}
	st.Binaries = o.binaries() // those of today, which may have moved
	return l.bring(ctx, o, st, start)
}

func (l *Lab) fresh(ctx context.Context, o Options) error {
	st := &State{Name: o.Name, Dir: string(l.dir), Nodes: string(o.Nodes), Binaries: o.binaries(), CAFile: l.dir.EdgeCA() + ".crt"}
	for i, name := range o.Sites {
		class := "standard-" + name
		if i == 0 {
			class = "premium-" + name
		}
		st.Sites = append(st.Sites, Site{
			Name: name, Region: name, Context: name, Kubeconfig: l.dir.Site(name).Kubeconfig(),
			IngressDomain: "apps." + name + "." + layout.Zone, StorageClass: class, State: state.Stopped,
		})
	}
	release, err := chooseAddresses(ctx, st)
	if err != nil {
		return err
	}
	defer release()
	if err := os.MkdirAll(l.dir.World().Logs(), 0o700); err != nil {
		return fmt.Errorf("make the lab's directories: %w", err)
	}
	if err := os.MkdirAll(l.dir.World().DNS(), 0o700); err != nil {
		return fmt.Errorf("make the lab's directories: %w", err)
	}
	ca, err := pki.NewCA("lifeboat-lab "+o.Name+" routers", 365*24*time.Hour)
	if err != nil {
		return err
	}
	if err := ca.Save(l.dir.EdgeCA()); err != nil {
		return err
	}
	return l.bring(ctx, o, st, o.Sites)
}

// chooseAddresses finds an octet whose addresses nobody uses, and fills in the addresses that follow. It
// keeps other labs from choosing the same until release is called, which is when this one's own
// listeners are there to be seen.
func chooseAddresses(ctx context.Context, st *State) (release func(), err error) {
	release = func() {}
	if st.Nodes == state.Pods {
		st.Octet, err = podnode.FreeOctet(ctx)
	} else {
		var claim net.Listener
		if st.Octet, claim, err = freeLoopback(ctx); err == nil {
			release = func() { _ = claim.Close() } // nobody ever connected to it
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range st.Sites {
		s := &st.Sites[i]
		t, err := topology.Of(st, s.Name)
		if err != nil {
			release()
			return nil, err
		}
		s.APIServer = "https://" + t.Public.String()
		s.IngressAddress = t.Ingress.String()
		s.Registry = t.Registry.String()
	}
	return release, nil
}

// freeLoopback returns a free octet, and a listener among its addresses that makes it look taken.
func freeLoopback(ctx context.Context) (int, net.Listener, error) {
	for i := range 250 {
		octet := firstOctet + i
		if octet > 254 {
			octet -= 253
		}
		used, err := site.Listeners(layout.Whole(octet))
		if err != nil {
			return 0, nil, err
		}
		if len(used) > 0 {
			continue
		}
		at := net.JoinHostPort(layout.Guard(octet).String(), strconv.Itoa(layout.ClaimPort))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
		if errors.Is(err, syscall.EADDRINUSE) { // another lab was a moment quicker
			continue
		}
		if err != nil { // a sandbox may not give all of 127.0.0.0/8
			return 0, nil, dr.Errorf(dr.ClassUsage, err, "The lab needs a Linux machine whose whole 127.0.0.0/8 is local.", "cannot listen on the loopback address %s", at)
		}
		return octet, l, nil
	}
	return 0, nil, dr.Errorf(dr.ClassConflict, nil, "Take a lab down: lifeboat-lab down --name NAME", "no free loopback addresses are left for another lab")
}

// bring starts the world if it does not run and the sites named, and waits until all are ready.
func (l *Lab) bring(ctx context.Context, o Options, st *State, sites []string) (err error) {
	began := time.Now()
	wasComplete := st.Complete
	if err := state.Save(st); err != nil {
		return err
	}
	defer func() {
		if err != nil && !wasComplete {
			err = errors.Join(err, l.abandon(ctx, st))
		}
	}()
	if st.Nodes == state.Pods {
		o.Progress("making the network of " + strings.Join(sites, ", "))
		if err := podnode.NetUp(ctx, topology.PodPlan(st)); err != nil {
			return err
		}
	}
	var isolation site.Isolation
	if st.Nodes == state.Processes {
		isolation = site.DetectIsolation(ctx, o.SelfBinary)
	}
	o.Progress(fmt.Sprintf("starting %s on nodes of %s", strings.Join(append([]string{"DNS", "the resolver"}, sites...), ", "), st.Nodes))
	g, gctx := errgroup.WithContext(ctx)
	var world agent.WorldStatus
	g.Go(func() (err error) {
		world, err = l.startWorld(gctx, st)
		return err
	})
	statuses := make([]agent.SiteStatus, len(sites))
	for i, name := range sites {
		g.Go(func() (err error) {
			statuses[i], err = l.startSite(gctx, st, name, isolation, o.Progress)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	st.DNS, st.Resolver = world.DNS, world.Resolver
	for i, name := range sites {
		s, _ := st.Site(name)
		fill(s, statuses[i])
	}
	st.Notes = notes(st, isolation)
	st.Complete = true
	if err := state.Save(st); err != nil {
		return err
	}
	o.Progress(fmt.Sprintf("the lab %s is ready after %s", st.Name, time.Since(began).Round(100*time.Millisecond)))
	return nil
}

func fill(s *Site, status agent.SiteStatus) {
	s.HTTPPort, s.HTTPSPort, s.State = status.HTTPPort, status.HTTPSPort, state.Running
	if status.Registry != "" {
		s.Registry = status.Registry
	}
}

// abandon ends what a failed start began. Its own bound, because the caller's context may be what ended
// the start.
func (l *Lab) abandon(ctx context.Context, st *State) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	return l.endAll(ctx, st)
}

// notes are what a person should know of this lab, as plain sentences.
func notes(st *State, isolation site.Isolation) []string {
	var out []string
	if st.Nodes == state.Processes {
		out = append(out, "Pods are processes of this machine, not containers: they share its files and its network, and have no limits.")
		if isolation == site.ProcessGroups {
			out = append(out, "This machine allows no PID namespaces: the processes of a site are held together by parent-death signals and found by a mark in their environment.")
		}
	}
	if s := st.Sites[0]; s.HTTPPort != 0 && s.HTTPPort != 80 {
		out = append(out, fmt.Sprintf("Ports below 1024 need root: routers serve on ports %d and %d, DNS on 8053, and a Service's port below 1024 is 8000 higher.", s.HTTPPort, s.HTTPSPort))
	}
	if st.DNS.Software == "embedded" {
		out = append(out, "BIND is not installed (Debian: bind9): the zone is served by the lab's own small DNS server.")
	}
	return out
}
