package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

func newVaultCheck(g *global, name *string) *cobra.Command {
	readData := false
	c := &cobra.Command{
		Use:   "check",
		Short: "Make sure that the vault is whole: records, recovery points and data",
		Long: `Check opens every record, looks for the snapshots of every recovery point, reads every tree, and compares the
index with the data that is there. With --read-data it reads all of the data too and compares each piece with its
hash. It changes nothing, and ends with exit code 6 when something is damaged or missing.`,
		Example: "  lifeboat vault check\n  lifeboat vault check --read-data -o json",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runVaultCheck(c.Context(), g, *name, readData) },
	}
	c.Flags().BoolVar(&readData, "read-data", false, "read all of the data as well")
	return c
}

func runVaultCheck(ctx context.Context, g *global, name string, readData bool) error {
	v, ref, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	report, err := vault.Check(ctx, v, readData, g.say)
	if err != nil {
		return err
	}
	if err := g.print(report, func(w io.Writer) error { return printCheck(w, ref.Name, report) }); err != nil {
		return err
	}
	if n := len(report.Problems); n > 0 {
		return dr.Errorf(dr.ClassIncomplete, nil, "Restore from recovery points that it does not name; bring damaged objects back from a copy of the vault.",
			"vault %s has %d problems", ref.Name, n)
	}
	return nil
}

func printCheck(w io.Writer, name string, c *vault.CheckReport) error {
	var b strings.Builder
	r := c.Repository
	fmt.Fprintf(&b, "vault %s: %d records, %d recovery points, %d snapshots, %d blobs in %d packs (%s), %d keys\n",
		name, c.Records, c.Points, r.Snapshots, r.Blobs, r.Packs, byteCount(r.Bytes), r.Keys)
	if r.Unused > 0 {
		fmt.Fprintf(&b, "  %d packs are in no index: a backup is under way, or was broken off; prune removes what was\n", r.Unused)
	}
	for _, p := range c.Problems {
		fmt.Fprintf(&b, "  problem: %s\n", p)
	}
	if len(c.Problems) == 0 {
		b.WriteString("  nothing is damaged or missing\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newVaultUnlock(g *global, name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "unlock",
		Short: "Remove locks of processes that are gone",
		Long: `Unlock removes locks that are older than 30 minutes, or whose process ran on this machine and is gone. A lock that
may still be in use is left; the command names its holder.`,
		Example: "  lifeboat vault unlock",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runVaultUnlock(c.Context(), g, *name) },
	}
}

func runVaultUnlock(ctx context.Context, g *global, name string) error {
	v, _, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	removed, held, err := vault.Unlock(ctx, v)
	if err != nil {
		return err
	}
	return g.print(map[string]any{"removed": removed, "held": held}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "removed %d stale locks, %d are in use\n", removed, len(held))
		for _, h := range held {
			if _, perr := fmt.Fprintf(w, "  %s\n", h); err == nil {
				err = perr
			}
		}
		return err
	})
}
