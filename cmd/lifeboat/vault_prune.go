package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

type pruneOptions struct {
	dryRun      bool
	application string
	keep        dr.Retention
	wait        time.Duration
	maxUnused   float64
}

func newVaultPrune(g *global, name *string) *cobra.Command {
	o := pruneOptions{}
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove the recovery points that the retention does not keep, and the data that nothing needs",
		Long: `Prune keeps of each application what its retention in the fleet file says, or what the --keep flags say instead.
The newest complete recovery point stays in any case, and so do the newest copy of each datastore, points that a
run which has not ended needs, and everything of applications without a retention. It also removes what backups
that did not end left behind, once that is a day old.

It waits for others who use the vault's repository. What the storage keeps by its own retention stays until it may
go, which is no failure.`,
		Example: `  lifeboat vault prune --dry-run              show what would go, and why the rest stays
  lifeboat vault prune
  lifeboat vault prune --application shop --keep-last 3 --keep-daily 7`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runVaultPrune(c.Context(), g, *name, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would go and remove nothing")
	f.StringVar(&o.application, "application", "", "remove recovery points of this application alone")
	f.IntVar(&o.keep.Last, "keep-last", 0, "keep the newest N")
	f.IntVar(&o.keep.Hourly, "keep-hourly", 0, "keep the newest of each of the last N hours that have one")
	f.IntVar(&o.keep.Daily, "keep-daily", 0, "the same for days")
	f.IntVar(&o.keep.Weekly, "keep-weekly", 0, "the same for weeks")
	f.IntVar(&o.keep.Monthly, "keep-monthly", 0, "the same for months")
	f.IntVar(&o.keep.Yearly, "keep-yearly", 0, "the same for years")
	f.DurationVar(&o.keep.Within, "keep-within", 0, "keep everything that is younger")
	f.Float64Var(&o.maxUnused, "max-unused", 5, "percentage of what is used that may be wasted, so that less has to be rewritten")
	lockWait(c, &o.wait)
	mustComplete(c.RegisterFlagCompletionFunc("application", func(c *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
		return g.completeApplications(c, nil, text)
	}))
	return c
}

func (o *pruneOptions) check() error {
	k := o.keep
	for _, n := range []int{k.Last, k.Hourly, k.Daily, k.Weekly, k.Monthly, k.Yearly, int(k.Within)} {
		if n < 0 {
			return dr.Errorf(dr.ClassUsage, nil, "Give numbers from 1 on.", "a --keep flag is less than nothing")
		}
	}
	if o.maxUnused < 0 || o.maxUnused > 1000 {
		return dr.Errorf(dr.ClassUsage, nil, "Use --max-unused 5.", "--max-unused %v is out of range", o.maxUnused)
	}
	return nil
}

// policies says what is kept of the applications in a vault.
func (o *pruneOptions) policies(fleet *dr.Fleet, vaultName string) (map[string]dr.Retention, error) {
	policies := map[string]dr.Retention{}
	if o.application != "" {
		a, err := application(fleet, o.application)
		if err != nil {
			return nil, err
		}
		if a.Vault != vaultName {
			return nil, dr.Errorf(dr.ClassUsage, nil, "Add --vault "+a.Vault+".", "application %s is kept in vault %s, not in %s", a.Name, a.Vault, vaultName)
		}
	}
	for i := range fleet.Applications {
		a := &fleet.Applications[i]
		if a.Vault != vaultName || o.application != "" && a.Name != o.application {
			continue
		}
		if !o.keep.Empty() {
			policies[a.Name] = o.keep
		} else if r := fleet.RetentionOf(a); r != nil {
			policies[a.Name] = *r
		}
	}
	return policies, nil
}

func runVaultPrune(ctx context.Context, g *global, name string, o pruneOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	fleet, err := g.loadFleet()
	if err != nil {
		return err
	}
	v, ref, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	policies, err := o.policies(fleet, ref.Name)
	if err != nil {
		return err
	}
	if len(policies) == 0 {
		g.say("no retention is declared: no recovery point goes, only what unfinished backups left")
	}
	how := vault.PruneOptions{Retention: policies, Now: time.Now(), MaxUnused: o.maxUnused / 100, Patience: o.wait, Say: g.say}
	do := vault.Prune
	if o.dryRun {
		do = vault.PlanPrune
	}
	report, err := do(ctx, v, how)
	if err != nil {
		return err
	}
	return g.print(report, func(w io.Writer) error { return printPrune(w, report) })
}

func printPrune(w io.Writer, r *vault.PruneReport) error {
	var b strings.Builder
	goes := "goes "
	if r.Done {
		goes = "gone "
	}
	kept := 0
	for _, f := range r.Points {
		word, why := goes, "no rule keeps it"
		if f.Keep {
			kept++
			word, why = "stays", strings.Join(f.Why, ", ")
		}
		fmt.Fprintf(&b, "%s  %s of %s, %s: %s\n", word, f.Point.ID, f.Point.Application, f.Point.Time.UTC().Format(time.RFC3339), why)
	}
	for _, l := range r.Leftovers {
		word := goes
		if l.Keep {
			word = "stays"
		}
		fmt.Fprintf(&b, "%s  snapshot %.8s of a backup of %s that sealed no recovery point: %s\n", word, l.Snapshot, l.Application, l.Why)
	}
	p := r.Repository
	verb := "would remove"
	if r.Done {
		verb = "removed"
	}
	fmt.Fprintf(&b, "%d of %d recovery points stay; %s %d packs (%s), %d of them rewritten to %s; %s are in use\n",
		kept, len(r.Points), verb, p.RemovedPacks, byteCount(p.RemovedBytes), p.RewrittenPacks, byteCount(p.AddedBytes), byteCount(p.UsedBytes))
	if r.LogParts > 0 {
		fmt.Fprintf(&b, "%s %d parts of logs that no recovery point needs\n", verb, r.LogParts)
	}
	if n := r.Retained + p.Retained; n > 0 {
		fmt.Fprintf(&b, "the storage keeps %d objects (%s) until they may go; the next prune after that removes them\n", n, byteCount(p.RetainedBytes))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
