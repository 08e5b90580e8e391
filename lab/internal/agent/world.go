package agent

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/nameserver"
	"lifeboat.dev/lifeboat/lab/internal/ports"
	"lifeboat.dev/lifeboat/lab/internal/resolver"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
	"lifeboat.dev/lifeboat/lab/internal/wan"
)

// RunWorld serves what stands outside all sites: the zone's DNS server and a user's resolver, and where
// all share one loopback the service that tells who is at the other end of a connection.
func RunWorld(ctx context.Context, dir string, log *slog.Logger) error {
	st, err := state.Load(dir)
	if err != nil {
		return err
	}
	at := topology.OfWorld(st)
	w := &world{dir: layout.Dir(dir).World()}
	g, ctx := errgroup.WithContext(ctx)
	zone, user := ctx, ctx
	if st.Nodes == state.Processes { // where sites have networks of their own, those are cut
		cuts := wan.New(st, log)
		g.Go(func() error { return cuts.Watch(ctx) })
		zone, user = ports.WithGate(ctx, cuts.Gate(wan.DNS)), ports.WithGate(ctx, cuts.Gate(wan.Resolver))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.Service.String())
		if err != nil {
			return wrap("peer service", err)
		}
		g.Go(func() error { return wrap("peer service", wan.ServePeers(ctx, l)) })
	}
	server := make(chan string, 1)
	g.Go(func() error {
		return wrap("name server", nameserver.Run(zone, nameserver.Options{
			Dir: w.dir.DNS(), Zone: layout.Zone, Address: at.Nameserver.String(), Log: logged(log, "nameserver"),
			Ready: func(i nameserver.Info) {
				w.set(log, func(s *WorldStatus) {
					s.DNS = state.DNS{Zone: i.Zone, Server: i.Server, KeyFile: i.KeyFile, Software: i.Software}
				})
				server <- i.Server
			},
		}))
	})
	g.Go(func() error {
		select {
		case s := <-server:
			return wrap("resolver", resolver.Run(user, resolver.Options{
				Address: at.Resolver.String(), Zones: map[string]string{layout.Zone: s}, Log: logged(log, "resolver"),
				Ready: func(server string) { w.set(log, func(s *WorldStatus) { s.Resolver = server }) },
			}))
		case <-ctx.Done():
			return nil
		}
	})
	err = g.Wait()
	if err != nil && ctx.Err() == nil {
		w.set(log, func(s *WorldStatus) { s.Failed = err.Error() })
	}
	return err
}

type world struct {
	mu     sync.Mutex
	dir    layout.Site
	status WorldStatus
}

func (w *world) set(log *slog.Logger, change func(*WorldStatus)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
	w.status.Ready = w.status.DNS.Server != "" && w.status.Resolver != ""
	if err := state.WriteJSON(w.dir.Status(), w.status); err != nil {
		log.Error("cannot write the world's status", "err", err)
	}
}
