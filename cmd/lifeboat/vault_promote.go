package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

func newVaultPromote(g *global, name *string) *cobra.Command {
	reason := ""
	c := &cobra.Command{
		Use:   "promote REPLICA --break-glass REASON",
		Short: "Make a replica the vault, when the vault's own location is lost for good",
		Long: `Promote makes a replica the one place where ownership counts: it raises the epoch of every application there, so
that nobody who still goes by the old location can act, and records the reason. Where the old location answers,
it is told first, what runs there loses its lease, and what it knows is copied. Then name the replica's location
as the vault's in the fleet file of everybody who uses it.

What the vault learned after its last copy is not in the replica: look at 'lifeboat status --replica REPLICA' before.`,
		Example:           "  lifeboat vault promote far --break-glass \"region eastus is lost, INC-4711\"",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeReplicas,
		RunE:              func(c *cobra.Command, a []string) error { return runVaultPromote(c.Context(), g, *name, a[0], reason) },
	}
	c.Flags().StringVar(&reason, "break-glass", "", "why; it is recorded (required)")
	return c
}

func runVaultPromote(ctx context.Context, g *global, name, replica, reason string) error {
	if reason == "" {
		return dr.Errorf(dr.ClassBlocked, nil, "Give the reason with --break-glass.", "the vault is not moved without a reason")
	}
	ref, err := g.vault(name)
	if err != nil {
		return err
	}
	r, ok := ref.Replica(replica)
	if !ok || ref.ReadOnly {
		return dr.Errorf(dr.ClassUsage, nil, "Declare it with replicas: of the vault in the fleet file.", "vault %s has no replica %q", ref.Name, replica)
	}
	p, err := vault.Promote(ctx, *ref, *r, reason, person(), g.say)
	if err != nil {
		return err
	}
	return g.print(p, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "replica %s is the vault now: %d epochs raised\n  next: in the fleet file, set location of vault %s to %s\n",
			replica, len(p.Epochs), ref.Name, p.To)
		return err
	})
}

// person says who runs this, for records.
func person() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}
