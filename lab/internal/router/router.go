// Package router serves a site's OpenShift Routes and Kubernetes Ingresses by host name over HTTP and
// TLS on the site's ingress address, as the router of a real cluster does.
package router

import (
	"context"
	"crypto/tls"
	"log/slog"

	"k8s.io/client-go/rest"
)

// Options say what a router serves and where.
type Options struct {
	Config    *rest.Config
	Site      string // becomes the router's name in status
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

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
