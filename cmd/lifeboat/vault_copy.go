package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

func newVaultCopy(g *global, name *string) *cobra.Command {
	to := ""
	c := &cobra.Command{
		Use:   "copy",
		Short: "Bring the vault's replicas in step with it",
		Long: `Copy writes to each replica what it lacks, in an order that keeps it a vault at any instant, and checks what is
named by its hash. It goes on where an earlier copy was broken off. Nothing is removed from a replica because it
is missing in the vault, only what a prune of the vault decided.`,
		Example: "  lifeboat vault copy\n  lifeboat vault copy --to far",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runVaultCopy(c.Context(), g, *name, to) },
	}
	c.Flags().StringVar(&to, "to", "", "this replica alone")
	mustComplete(c.RegisterFlagCompletionFunc("to", g.completeReplicas))
	return c
}

func runVaultCopy(ctx context.Context, g *global, name, to string) error {
	v, ref, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	if ref.ReadOnly {
		return dr.Errorf(dr.ClassUsage, nil, "Leave out --replica and --vault-location.", "a replica is copied from the vault's own location alone")
	}
	if _, ok := ref.Replica(to); !ok && to != "" || len(ref.Replicas) == 0 {
		return dr.Errorf(dr.ClassUsage, nil, "Declare it with replicas: of the vault in the fleet file.", "vault %s has no such replica", ref.Name)
	}
	all := vault.ReplicasOf(v, *ref).InStep(ctx, to, g.say)
	err = g.print(all, func(w io.Writer) error {
		for _, c := range all {
			text := fmt.Sprintf("replica %s is in step: %d objects copied (%s), %d removed\n", c.Replica, c.Objects, byteCount(c.Bytes), c.Removed)
			if c.Err != nil {
				text = fmt.Sprintf("replica %s is behind: %v\n", c.Replica, c.Err)
			}
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range all {
		if err == nil {
			err = c.Err
		}
	}
	return err
}
