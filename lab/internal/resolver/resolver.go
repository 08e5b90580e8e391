// Package resolver is a caching DNS resolver that honours TTLs, standing where a user's would.
package resolver

import (
	"context"
	"log/slog"
)

// Options say what is resolved and where.
type Options struct {
	Address  string
	Port     int               // 53 if zero; port+8000 where it may not be bound
	Zones    map[string]string // zone → ip:port of its authoritative server
	Upstream []string          // ip:port of resolvers for everything else; none: REFUSED (see SystemUpstream)
	Log      *slog.Logger
	Ready    func(server string) // called once with ip:port
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
