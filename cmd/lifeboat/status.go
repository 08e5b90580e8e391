package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/wire"
)

func newStatus(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "status [APPLICATION]",
		Short: "Show where applications live and whether they could be recovered now",
		Long: `Status asks every site, the vault and DNS, changes nothing, and ends with exit code 6 when an application
could not be recovered now.`,
		Example:           "  lifeboat status\n  lifeboat status shop -o json",
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: g.completeApplications,
		RunE: func(c *cobra.Command, a []string) error {
			name := ""
			if len(a) == 1 {
				name = a[0]
			}
			return runStatus(c.Context(), g, name)
		},
	}
}

func runStatus(ctx context.Context, g *global, name string) error {
	fleet, err := g.loadFleet()
	if err != nil {
		return err
	}
	apps := fleet.Applications
	if name != "" {
		app, err := application(fleet, name)
		if err != nil {
			return err
		}
		apps = []dr.Application{*app}
	}
	var all []wire.Status
	bad := 0
	for i := range apps {
		op, err := wire.Open(ctx, fleet, &apps[i], wire.Options{Say: g.say})
		if err != nil {
			return err
		}
		st, err := op.Status(ctx)
		if err != nil {
			return err
		}
		if st.Hindered() {
			bad++
		}
		all = append(all, *st)
	}
	if err := g.print(all, func(w io.Writer) error { return printStatus(w, all) }); err != nil {
		return err
	}
	if bad > 0 {
		return dr.Errorf(dr.ClassIncomplete, nil, "", "%d of %d applications could not be recovered now", bad, len(all))
	}
	return nil
}

func printStatus(w io.Writer, all []wire.Status) error {
	var b strings.Builder
	for _, s := range all {
		owner := s.Ownership.Site
		if owner == "" {
			owner = "nobody yet (never backed up)"
		}
		fmt.Fprintf(&b, "%s: owned by %s, epoch %d; objectives RTO %s, RPO %s\n", s.Application, owner, s.Ownership.Epoch, s.Objectives.RTO, s.Objectives.RPO)
		for _, site := range s.Sites {
			state := "answers"
			if !site.Reachable {
				state = "does not answer: " + site.Reason
			}
			fmt.Fprintf(&b, "  site %-16s %s\n", site.Name, state)
		}
		if p := s.Newest; p != nil {
			fmt.Fprintf(&b, "  newest recovery point %s: data of %s ago\n", p.ID, s.Age.Round(time.Second))
		}
		for _, h := range s.Hosts {
			fmt.Fprintf(&b, "  host %-24s answers %s, TTL %s\n", h.Host, strings.Join(h.Addresses, " "), h.TTL)
		}
		for _, l := range s.Replicas {
			fmt.Fprintf(&b, "  replica %-13s %s\n", l.Replica, lagText(l, s.Application))
		}
		for _, r := range s.Runs {
			fmt.Fprintf(&b, "  last %s: run %s %s %s\n", r.Plan.Goal, r.ID, r.Stage, r.Outcome)
		}
		for _, f := range s.Findings {
			fmt.Fprintf(&b, "  %s: %s", f.Severity, f.What)
			if f.Remedy != "" {
				fmt.Fprintf(&b, " (%s)", f.Remedy)
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
