package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/wire"
)

func newProtect(g *global) *cobra.Command {
	var opts wire.ProtectOptions
	c := &cobra.Command{
		Use:   "protect [APPLICATION...]",
		Short: "Keep recovery points of applications coming, as they change",
		Long: `Protect watches applications (all of the fleet file, unless some are named) at the sites that own them, and
seals a recovery point whenever their cluster state changed; a quiet application makes none. Data is backed
up by the schedule in the fleet file, and a recovery point names the newest copy. It runs until it is stopped,
and waits for sites and vaults that do not answer. With -o json every event is a line of JSON.`,
		Example: `  lifeboat protect
  lifeboat protect shop --interval 10s
  lifeboat protect --once            bring everything up to date, and end`,
		Args:              args(cobra.ArbitraryArgs),
		ValidArgsFunction: g.completeApplications,
		RunE:              func(c *cobra.Command, a []string) error { return runProtect(c.Context(), g, a, opts) },
	}
	c.Flags().DurationVar(&opts.Interval, "interval", 5*time.Second, "the least time between two recovery points of an application")
	c.Flags().BoolVar(&opts.Once, "once", false, "end when the newest state is kept and no backup is overdue")
	return c
}

func runProtect(ctx context.Context, g *global, names []string, opts wire.ProtectOptions) error {
	if opts.Interval < time.Second {
		return dr.Errorf(dr.ClassUsage, nil, "Give a second or more.", "an interval of %s is too short", opts.Interval)
	}
	fleet, err := g.loadFleet()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		for _, a := range fleet.Applications {
			names = append(names, a.Name)
		}
	}
	var ops []*wire.Operation
	for _, name := range names {
		op, err := g.open(ctx, name)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	out := &protectOutput{g: g}
	opts.Event = out.event
	errs := make([]error, len(ops))
	var wg sync.WaitGroup
	for i, op := range ops {
		wg.Go(func() {
			if errs[i] = op.Protect(ctx, opts); errs[i] != nil {
				g.say("%s is not protected: %v", names[i], errs[i])
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if ctx.Err() == nil && out.incomplete > 0 {
		return dr.Errorf(dr.ClassIncomplete, nil, "Mend what they name.", "%d recovery points are incomplete", out.incomplete)
	}
	return nil
}

// protectOutput prints events, which come from several applications at once.
type protectOutput struct {
	g          *global
	mu         sync.Mutex
	incomplete int
}

func (o *protectOutput) event(e wire.ProtectEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.Type == wire.EventPoint && !e.Point.Complete() {
		o.incomplete++
	}
	if o.g.format == formatJSON {
		_ = json.NewEncoder(o.g.stdout).Encode(e) // who reads no more ends the process by its signal
		return
	}
	switch {
	case e.Type == wire.EventPoint:
		line := fmt.Sprintf("%s: recovery point %s: %d objects, %d documents changed, %s stored", e.Application, e.Point.ID, e.Point.Objects, e.Changed, byteCount(e.StoredBytes))
		for _, m := range e.Point.Missing {
			line += "\n           missing: " + m
		}
		o.g.say("%s", line)
	default:
		o.g.say("%s: %s", e.Application, e.Text)
	}
}
