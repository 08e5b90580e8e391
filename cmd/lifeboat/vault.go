package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

// newVault is the parent of what is done with a vault itself.
func newVault(g *global) *cobra.Command {
	name := ""
	c := &cobra.Command{
		Use:   "vault",
		Short: "Make, look after and copy the vault itself",
		Args:  args(cobra.NoArgs),
	}
	c.PersistentFlags().StringVar(&name, "vault", "", "which vault of the fleet file (default: the only one)")
	c.AddCommand(newVaultInit(g, &name), newVaultStatus(g, &name), newVaultCheck(g, &name), newVaultPrune(g, &name), newVaultCopy(g, &name),
		newVaultPromote(g, &name), newVaultKeys(g, &name), newVaultUnlock(g, &name))
	return c
}

// vault finds a vault of the fleet file; "" is the only one.
func (g *global) vault(name string) (*dr.Vault, error) {
	fleet, err := g.loadFleet()
	if err != nil {
		return nil, err
	}
	if v, ok := fleet.Vault(name); ok {
		return v, nil
	}
	var known []string
	for _, v := range fleet.Vaults {
		known = append(known, v.Name)
	}
	switch {
	case name != "":
		return nil, dr.Errorf(dr.ClassUsage, nil, fmt.Sprintf("The fleet file has: %v.", known), "no vault %q", name)
	case len(known) != 1:
		return nil, dr.Errorf(dr.ClassUsage, nil, fmt.Sprintf("Name one with --vault; the fleet file has: %v.", known), "which vault is not said")
	}
	return &fleet.Vaults[0], nil
}

// openVault opens a vault of the fleet file and tells what it warns of.
func (g *global) openVault(ctx context.Context, name string) (*vault.Vault, *dr.Vault, error) {
	ref, err := g.vault(name)
	if err != nil {
		return nil, nil, err
	}
	v, err := vault.Open(ctx, *ref)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range v.Warnings() {
		g.say("warning: %s", w)
	}
	return v, ref, nil
}
