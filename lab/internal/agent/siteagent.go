package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/lab/internal/cluster"
	"lifeboat.dev/lifeboat/lab/internal/clusterdns"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/pki"
	"lifeboat.dev/lifeboat/lab/internal/ports"
	"lifeboat.dev/lifeboat/lab/internal/provision"
	"lifeboat.dev/lifeboat/lab/internal/registry"
	"lifeboat.dev/lifeboat/lab/internal/router"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/svcproxy"
	"lifeboat.dev/lifeboat/lab/internal/topology"
	"lifeboat.dev/lifeboat/lab/internal/wan"
)

// Limits of a start.
const (
	apiWithin   = 2 * time.Minute
	worldWithin = 30 * time.Second
	pollPause   = 50 * time.Millisecond
	hostCertTTL = 90 * 24 * time.Hour
)

// Parts of a site that are waited for, as its status names them.
const (
	partEdge     = "API server's public address"
	partAPI      = "API server"
	partRegistry = "registry"
	partImages   = "images in the registry"
	partDNS      = "cluster DNS"
	partRouter   = "router"
	partProxy    = "Services"
	partInstall  = "StorageClass and Route API"
	partNode     = "node"
)

// siteAgent is a site's own services in one process.
type siteAgent struct {
	st    *state.State
	name  string
	dir   layout.Site
	net   topology.Site
	cfg   *rest.Config
	kube  kubernetes.Interface
	board *board
	wan   *wan.Cuts
	log   *slog.Logger
	began time.Time
}

// RunSite serves what a site needs beside its control plane, until ctx is done or a part fails.
func RunSite(ctx context.Context, dir, name string, log *slog.Logger) error {
	a, err := newSiteAgent(dir, name, log)
	if err != nil {
		return err
	}
	err = a.run(ctx)
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, a.board.failed(err))
	}
	return nil
}

func newSiteAgent(dir, name string, log *slog.Logger) (*siteAgent, error) {
	st, err := state.Load(dir)
	if err != nil {
		return nil, err
	}
	t, err := topology.Of(st, name)
	if err != nil {
		return nil, err
	}
	s := layout.Dir(dir).Site(name)
	cfg, err := cluster.RESTConfig(s)
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", name, err)
	}
	parts := []string{partAPI, partRegistry, partDNS, partRouter, partProxy, partInstall, partNode}
	if st.Nodes == state.Pods {
		parts = append(parts, partImages)
	} else {
		parts = append(parts, partEdge)
	}
	return &siteAgent{
		st: st, name: name, dir: s, net: t, cfg: cfg, kube: kube, log: log,
		board: newBoard(s.Status(), parts...),
		wan:   wan.New(st, log),
		began: time.Now(),
	}, nil
}

func (a *siteAgent) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if a.st.Nodes == state.Processes { // where sites have networks of their own, those are cut
		ctx = ports.WithGate(ctx, a.wan.Gate(a.name))
	}
	api := make(chan struct{})
	g.Go(func() error { return wrap("registry", a.registry(ctx)) })
	if a.st.Nodes == state.Processes {
		g.Go(func() error { return wrap(partEdge, a.edge(ctx)) })
		g.Go(func() error { return a.wan.Watch(ctx) })
	}
	g.Go(func() error {
		if err := a.awaitAPI(ctx); err != nil {
			return err
		}
		close(api)
		return a.board.done(partAPI, nil)
	})
	for part, run := range map[string]func(context.Context) error{
		partRouter:  a.router,
		partProxy:   a.services,
		"volumes":   a.volumes,
		partInstall: a.install,
		partNode:    a.node,
	} {
		g.Go(func() error {
			select {
			case <-api:
				return wrap(part, run(ctx))
			case <-ctx.Done():
				return nil
			}
		})
	}
	return g.Wait()
}

// awaitAPI spares the parts the long back-off of clients that start before their server.
func (a *siteAgent) awaitAPI(ctx context.Context) error {
	wait, cancel := context.WithTimeoutCause(ctx, apiWithin, fmt.Errorf("the API server was not ready within %s", apiWithin))
	defer cancel()
	for {
		err := a.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(wait).Error()
		if err == nil {
			return nil
		}
		select {
		case <-wait.Done():
			return errors.Join(context.Cause(wait), err)
		case <-time.After(pollPause):
		}
	}
}

// edge serves the API server's public address; the API server itself listens on an inner one, so that a
// partition can be enforced in between.
func (a *siteAgent) edge(ctx context.Context) error {
	l, _, err := ports.Listen(ctx, a.net.Public.Addr().String(), int(a.net.Public.Port()))
	if err != nil {
		return err
	}
	if err := a.board.done(partEdge, nil); err != nil {
		return errors.Join(err, l.Close())
	}
	inner := net.JoinHostPort(a.net.Inner.String(), fmt.Sprint(layout.APIPort))
	return wan.Forward(ctx, l, inner)
}

func (a *siteAgent) registry(ctx context.Context) error {
	return registry.Run(ctx, registry.Options{
		Dir:     a.dir.Registry(),
		Address: a.net.Registry.Addr().String(),
		Port:    int(a.net.Registry.Port()),
		Log:     logged(a.log, "registry"),
		Ready: func(hostPort string) {
			a.note(partRegistry, func(s *SiteStatus) { s.Registry = hostPort })
			if a.st.Nodes == state.Pods {
				go a.pushAll(ctx, hostPort)
			}
		},
	})
}

func (a *siteAgent) router(ctx context.Context) error {
	ca, err := pki.Load(layout.Dir(a.st.Dir).EdgeCA())
	if err != nil {
		return err
	}
	s, _ := a.st.Site(a.name)
	return router.Run(ctx, router.Options{
		Config:  a.cfg,
		Site:    a.name,
		Domain:  s.IngressDomain,
		Address: a.net.Ingress.String(),
		Certificate: func(host string) (*tls.Certificate, error) {
			pair, err := ca.IssueServer([]string{host}, nil, hostCertTTL)
			if err != nil {
				return nil, err
			}
			cert, err := pair.TLS()
			return &cert, err
		},
		Log: logged(a.log, "router"),
		Ready: func(httpPort, httpsPort int) {
			a.note(partRouter, func(s *SiteStatus) { s.HTTPPort, s.HTTPSPort = httpPort, httpsPort })
		},
	})
}

func (a *siteAgent) services(ctx context.Context) error {
	return svcproxy.Run(ctx, svcproxy.Options{
		Config:       a.cfg,
		NodeAddress:  a.net.Node.String(),
		APIServer:    net.JoinHostPort(a.net.Inner.String(), fmt.Sprint(layout.APIPort)),
		Pool:         a.net.LoadBalancer,
		AllocateOnly: a.st.Nodes == state.Pods,
		Log:          logged(a.log, "svcproxy"),
		Ready:        func() { a.note(partProxy, nil) },
	})
}

func (a *siteAgent) volumes(ctx context.Context) error {
	return provision.Run(ctx, provision.Options{
		Config:   a.cfg,
		NodeName: nodeName(a.name),
		Dir:      a.dir.Volumes(),
		Log:      logged(a.log, "provision"),
	})
}

// clusterDNS serves names inside the site; ready is called with where.
func (a *siteAgent) clusterDNS(ctx context.Context, ready func(server string)) error {
	world, err := a.awaitWorld(ctx)
	if err != nil {
		return err
	}
	return clusterdns.Run(ctx, clusterdns.Options{
		Config:   a.cfg,
		Address:  a.net.ClusterDNS.String(),
		Upstream: []string{world.Resolver},
		Log:      logged(a.log, "clusterdns"),
		Ready: func(server string) {
			a.note(partDNS, nil)
			ready(server)
		},
	})
}

func (a *siteAgent) awaitWorld(ctx context.Context) (WorldStatus, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, worldWithin, fmt.Errorf("the lab's DNS was not ready within %s", worldWithin))
	defer cancel()
	for {
		w, err := ReadWorldStatus(layout.Dir(a.st.Dir).World())
		if err != nil || w.Ready {
			return w, err
		}
		select {
		case <-ctx.Done():
			return w, context.Cause(ctx)
		case <-time.After(pollPause):
		}
	}
}

// note marks a part as done; that the status cannot be written is all that can go wrong, and then the
// lab's directory is gone or full, which its owner sees by waiting in vain.
func (a *siteAgent) note(part string, set func(*SiteStatus)) {
	if err := a.board.done(part, set); err != nil {
		a.log.Error("cannot write the site's status", "err", err)
	}
}
