// Package router serves a site's OpenShift Routes and Kubernetes Ingresses by host name over HTTP and
// TLS on the site's ingress address, as the router of a real cluster does.
package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"lifeboat.dev/lifeboat/lab/internal/backends"
	"lifeboat.dev/lifeboat/lab/internal/openshift"
	"lifeboat.dev/lifeboat/lab/internal/ports"
)

const (
	syncTimeout = time.Minute
	settle      = 20 * time.Millisecond // changes that come together are taken in together
	retryStatus = time.Second
)

// Options say what a router serves and where.
type Options struct {
	Config    *rest.Config
	Site      string // for messages
	Domain    string // ingress domain: hosts left empty become NAME-NAMESPACE.Domain
	Address   string // ingress address
	HTTPPort  int    // 80 if zero; port+8000 where it may not be bound
	HTTPSPort int    // 443 if zero
	// Certificate returns the certificate to show for a host name that brings none of its own. It is
	// called once per name and remembered. Nil: no TLS.
	Certificate func(host string) (*tls.Certificate, error)
	Log         *slog.Logger
	Ready       func(httpPort, httpsPort int) // called once, when both ports are open; httpsPort 0: no TLS
}

type router struct {
	Options
	client   kubernetes.Interface
	dynamic  dynamic.Interface
	backends *backends.Set
	table    atomic.Pointer[table]
	certs    certCache
	changed  chan struct{} // holds at most one

	routes, ingresses, secrets cache.SharedIndexInformer
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.HTTPPort == 0 {
		o.HTTPPort = 80
	}
	if o.HTTPSPort == 0 {
		o.HTTPSPort = 443
	}
	r := &router{Options: o, changed: make(chan struct{}, 1), certs: certCache{issue: o.Certificate}}
	r.table.Store(&table{})
	if err := r.watch(ctx); err != nil {
		return fmt.Errorf("router of site %s: %w", o.Site, err)
	}
	plain, httpPort, err := ports.Listen(ctx, o.Address, o.HTTPPort)
	if err != nil {
		return fmt.Errorf("router of site %s: %w", o.Site, err)
	}
	r.HTTPPort = httpPort
	var secure net.Listener
	r.HTTPSPort = 0
	if o.Certificate != nil {
		if secure, r.HTTPSPort, err = ports.Listen(ctx, o.Address, o.HTTPSPort); err != nil {
			return errors.Join(fmt.Errorf("router of site %s: %w", o.Site, err), plain.Close())
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.sync(ctx) })
	g.Go(func() error { return r.servePlain(ctx, plain) })
	if secure != nil {
		g.Go(func() error { return r.serveSecure(ctx, secure) })
	}
	if o.Ready != nil {
		o.Ready(r.HTTPPort, r.HTTPSPort)
	}
	return g.Wait()
}

func (r *router) watch(ctx context.Context) error {
	var err error
	if r.client, err = kubernetes.NewForConfig(r.Config); err != nil {
		return err
	}
	if r.dynamic, err = dynamic.NewForConfig(r.Config); err != nil {
		return err
	}
	if r.backends, err = backends.Start(ctx, r.client, nil); err != nil {
		return err
	}
	dyn := dynamicinformer.NewDynamicSharedInformerFactory(r.dynamic, 0)
	r.routes = dyn.ForResource(openshift.RouteResource()).Informer()
	core := informers.NewSharedInformerFactoryWithOptions(r.client, 0, informers.WithTransform(backends.Slim))
	r.ingresses = core.Networking().V1().Ingresses().Informer()
	tlsOnly := informers.NewSharedInformerFactoryWithOptions(r.client, 0, informers.WithTransform(backends.Slim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "type=" + string(corev1.SecretTypeTLS) }))
	r.secrets = tlsOnly.Core().V1().Secrets().Informer()
	for _, i := range []cache.SharedIndexInformer{r.routes, r.ingresses, r.secrets} {
		if _, err := i.AddEventHandler(backends.OnChange(r.poke)); err != nil {
			return fmt.Errorf("watching Routes, Ingresses and their certificates: %w", err)
		}
	}
	dyn.Start(ctx.Done())
	core.Start(ctx.Done())
	tlsOnly.Start(ctx.Done())
	wait, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(wait.Done(), r.routes.HasSynced, r.ingresses.HasSynced, r.secrets.HasSynced) {
		return fmt.Errorf("waiting for the first list of Routes, Ingresses and their certificates: %w", context.Cause(wait))
	}
	r.rebuild()
	return nil
}

func (r *router) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
