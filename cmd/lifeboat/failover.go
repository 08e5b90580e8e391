package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/report"
	"lifeboat.dev/lifeboat/internal/wire"
)

type moveOptions struct {
	to, at, breakGlass string
	yes, dryRun        bool
}

func (o *moveOptions) flags(g *global, c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.to, "to", "", "the site to bring the application to (default: its only recovery site)")
	atFlag(g, c, &o.at)
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the plan and do nothing")
	mustComplete(c.RegisterFlagCompletionFunc("to", g.completeSites))
}

func newFailover(g *global) *cobra.Command {
	o := moveOptions{}
	c := &cobra.Command{
		Use:   "failover APPLICATION --to SITE",
		Short: "Bring an application back at another site, because its own is lost",
		Long: `Failover fences the application at its old site, makes the new site its owner, restores a recovery point
there, waits until it serves, switches its DNS records, and probes it from outside.

Where the old site does not answer, nobody can be sure that it is not still serving. Failover then stops and
asks for --break-glass with a reason, which is recorded.

Ctrl-C, or the loss of this machine, leaves a run that the same command goes on with.`,
		Example: `  lifeboat failover shop --to westus --dry-run
  lifeboat failover shop --to westus
  lifeboat failover shop --to westus --break-glass "Azure says that eastus is lost, incident 4711"`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeApplications,
		RunE: func(c *cobra.Command, a []string) error {
			return runMove(c.Context(), g, a[0], dr.GoalFailover, o)
		},
	}
	o.flags(g, c)
	c.Flags().StringVar(&o.breakGlass, "break-glass", "", "go on although the old site cannot be fenced; the reason is recorded")
	return c
}

func newPlan(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:     "plan",
		Short:   "Show what a command would do, without doing it",
		Example: "  lifeboat plan failover shop --to westus\n  lifeboat plan backup shop -o json",
	}
	for _, goal := range []dr.Goal{dr.GoalBackup, dr.GoalRestore, dr.GoalFailover} {
		o := restoreOptions{moveOptions: moveOptions{dryRun: true}, needs: true}
		sub := &cobra.Command{
			Use:               string(goal) + " APPLICATION",
			Short:             fmt.Sprintf("Show what `lifeboat %s` would do", goal),
			Example:           fmt.Sprintf("  lifeboat plan %s shop", goal),
			Args:              args(cobra.ExactArgs(1)),
			ValidArgsFunction: g.completeApplications,
			RunE: func(c *cobra.Command, a []string) error {
				if goal == dr.GoalRestore {
					return runRestore(c.Context(), g, a[0], o)
				}
				return runMove(c.Context(), g, a[0], goal, o.moveOptions)
			},
		}
		if goal != dr.GoalBackup {
			sub.Flags().StringVar(&o.to, "to", "", "the site to bring the application to (default: of a failover its only recovery site, else its owner)")
			atFlag(g, sub, &o.at)
			mustComplete(sub.RegisterFlagCompletionFunc("to", g.completeSites))
		}
		if goal == dr.GoalRestore {
			o.flags(g, sub)
		}
		if goal == dr.GoalFailover {
			sub.Flags().StringVar(&o.breakGlass, "break-glass", "", "plan for an old site that cannot be fenced")
		}
		c.AddCommand(sub)
	}
	return c
}

// failoverResult is what `lifeboat failover -o json` (and restore, resume) prints.
type failoverResult struct {
	Run              dr.Run             `json:"run"`
	RecoveryPoint    dr.RecoveryPoint   `json:"recoveryPoint"`
	Ready            *dr.ReadyOutput    `json:"ready,omitempty"`
	Traffic          []dr.TrafficOutput `json:"traffic,omitempty"`
	Probes           []dr.ProbeOutput   `json:"probes,omitempty"`
	LeaseWaitSeconds float64            `json:"leaseWaitSeconds"`
}

func runMove(ctx context.Context, g *global, name string, goal dr.Goal, o moveOptions) error {
	req := plan.Request{Goal: goal, To: o.to, BreakGlass: o.breakGlass}
	var err error
	if req.Point, err = plan.ParsePoint(o.at, time.Now()); err != nil {
		return err
	}
	op, err := g.open(ctx, name)
	if err != nil {
		return err
	}
	return g.move(ctx, op, req, o.yes, o.dryRun)
}

// move plans what is asked for, has it confirmed and carries it out, or goes on with the run that does so.
func (g *global) move(ctx context.Context, op *wire.Operation, req plan.Request, yes, dryRun bool) error {
	if !dryRun {
		run, err := op.Unfinished(ctx, req)
		if err != nil {
			return err
		}
		if run != "" {
			g.say("going on with run %s", run)
			return g.finish(op.Resume(ctx, run))
		}
	}
	p, err := op.Plan(ctx, req)
	if err != nil {
		return err
	}
	if dryRun {
		return g.dryRun(ctx, op, p)
	}
	if !yes {
		if err := g.confirm(p); err != nil {
			return err
		}
	}
	return g.finish(op.Execute(ctx, p))
}

// confirm shows a plan and asks for the application's name; without a person there to ask, it refuses.
func (g *global) confirm(p dr.Plan) error {
	if !g.interactive() {
		return dr.Errorf(dr.ClassBlocked, nil, "Look at it with --dry-run, then add --yes.", "%s changes things and nobody is there to confirm it", p.Goal)
	}
	if err := report.Plan(g.stderr, p); err != nil {
		return err
	}
	fmt.Fprintf(g.stderr, "\nType %s to go on: ", p.Application)
	answer, err := bufio.NewReader(g.stdin).ReadString('\n')
	if err != nil && answer == "" {
		return dr.Errorf(dr.ClassBlocked, err, "", "no answer")
	}
	if strings.TrimSpace(answer) != p.Application {
		return dr.Errorf(dr.ClassBlocked, nil, "", "not confirmed; nothing was changed")
	}
	return nil
}

// finish prints what a run came to.
func (g *global) finish(res *wire.Result, err error) error {
	if err != nil {
		return err
	}
	out := failoverResult{Run: res.Run, Ready: res.Ready, Traffic: res.Traffic, Probes: res.Probes, LeaseWaitSeconds: res.LeaseWait.Seconds()}
	if res.Point != nil {
		out.RecoveryPoint = *res.Point
	}
	if err := g.print(out, func(w io.Writer) error { return report.Text(w, report.FromRun(res.Run, out.RecoveryPoint)) }); err != nil {
		return err
	}
	if res.Run.Outcome != dr.OutcomeVerified {
		return dr.Errorf(dr.ClassIncomplete, nil, "See: lifeboat report "+res.Run.ID, "run %s ended %s: %s", res.Run.ID, res.Run.Outcome, res.Run.Reason)
	}
	return nil
}

func newResume(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "resume RUN",
		Short: "Go on with a run that was interrupted or failed",
		Long: `Resume reads the run's plan and journal from the vault and does what is left, on any machine. Steps that
ended are not done again; a step that was under way is first looked at, then finished.`,
		Example: "  lifeboat resume 20261122T231542Z-shop-9c1e",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			fleet, err := g.loadFleet()
			if err != nil {
				return err
			}
			op, err := wire.OpenRun(c.Context(), fleet, a[0], wire.Options{Say: g.say})
			if err != nil {
				return err
			}
			return g.finish(op.Resume(c.Context(), a[0]))
		},
	}
}

// open loads the fleet and makes ready to work for one application of it.
func (g *global) open(ctx context.Context, name string) (*wire.Operation, error) {
	fleet, err := g.loadFleet()
	if err != nil {
		return nil, err
	}
	app, err := application(fleet, name)
	if err != nil {
		return nil, err
	}
	return wire.Open(ctx, fleet, app, wire.Options{Say: g.say})
}
