// Package registry is a site's image registry: plain HTTP, on disk, so that images survive a restart.
package registry

import (
	"context"
	"log/slog"
)

// Options say where images are kept and served.
type Options struct {
	Dir     string
	Address string
	Port    int // 5000 if zero
	Log     *slog.Logger
	Ready   func(hostPort string) // called once
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
