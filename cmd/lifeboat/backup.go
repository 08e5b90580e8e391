package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/report"
)

func newBackup(g *global) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "backup APPLICATION",
		Short: "Take a recovery point of an application: its cluster state and its data",
		Long: `Backup reads the application's objects and copies its datastores from the site that owns it into the vault,
encrypted, and seals a recovery point that names both. Whatever could not be read makes the point incomplete,
by name, and the command ends with exit code 6.`,
		Example: `  lifeboat backup shop
  lifeboat backup shop --dry-run     show the steps
  lifeboat backup shop -o json`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeApplications,
		RunE:              func(c *cobra.Command, a []string) error { return runBackup(c.Context(), g, a[0], dryRun) },
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan and do nothing")
	return c
}

// backupResult is what `lifeboat backup -o json` prints.
type backupResult struct {
	Run           string           `json:"run"`
	RecoveryPoint dr.RecoveryPoint `json:"recoveryPoint"`
}

func runBackup(ctx context.Context, g *global, name string, dryRun bool) error {
	op, err := g.open(ctx, name)
	if err != nil {
		return err
	}
	p, err := op.Plan(ctx, plan.Request{Goal: dr.GoalBackup})
	if err != nil {
		return err
	}
	if dryRun {
		return g.print(p, func(w io.Writer) error { return report.Plan(w, p) })
	}
	res, err := op.Execute(ctx, p)
	if err != nil {
		return err
	}
	pt := res.Point
	if pt == nil {
		return dr.Errorf(dr.ClassInternal, nil, "", "run %s sealed no recovery point", res.Run.ID)
	}
	if err := g.print(backupResult{Run: res.Run.ID, RecoveryPoint: *pt}, func(w io.Writer) error { return printPoint(w, pt) }); err != nil {
		return err
	}
	if !pt.Complete() {
		return dr.Errorf(dr.ClassIncomplete, nil, "Mend what it names, then back up again.", "recovery point %s is incomplete: %v", pt.ID, pt.Missing)
	}
	return nil
}

func printPoint(w io.Writer, p *dr.RecoveryPoint) error {
	if _, err := fmt.Fprintf(w, "recovery point %s of %s at %s: %d objects\n", p.ID, p.Application, p.Site, p.Objects); err != nil {
		return err
	}
	for _, d := range p.Data {
		if _, err := fmt.Fprintf(w, "  %-20s %10s in %d files, %s added to the vault, %s copy, beacon %d at %s\n", d.Datastore, byteCount(d.Bytes), d.Files,
			byteCount(d.StoredBytes), d.Consistency, d.Beacon.Sequence, d.Beacon.Time.UTC().Format(time.RFC3339)); err != nil {
			return err
		}
	}
	return nil
}

// byteCount writes a size for people, in powers of 1024.
func byteCount(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}
