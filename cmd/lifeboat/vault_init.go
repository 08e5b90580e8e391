package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

func newVaultInit(g *global, vaultName *string) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the vault that the fleet file declares, and its key, where they do not exist",
		Long: `Init makes the vault of the fleet file at its location, and its key file, where they do not exist. A bucket
or container has to exist. It makes sure that the storage honours conditional writes, on which single ownership
rests, and refuses one that does not.`,
		Example: "  lifeboat vault init",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := g.vault(*vaultName)
			if err != nil {
				return err
			}
			if v.ReadOnly {
				return dr.Errorf(dr.ClassUsage, nil, "Leave out --replica and --vault-location.", "a vault is made at its own location alone")
			}
			if err := makeVault(c.Context(), g, *v); err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "vault %s is at %s, its key in %s\n", v.Name, v.Location, v.EncryptionKey.File)
				return err
			})
		},
	}
}

// makeVault makes key and vault where they do not exist, and opens the vault where it does.
func makeVault(ctx context.Context, g *global, v dr.Vault) error {
	file := v.EncryptionKey.File
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make the directory of the vault's key: %w", err)
	}
	switch err := vault.CreateKeyFile(file); {
	case err == nil:
		g.say("made the vault's key %s: keep a copy of it elsewhere; without it nothing can be recovered", file)
	case !errors.Is(err, dr.ErrExists):
		return err
	}
	key, err := vault.ReadKeyFile(file)
	if err != nil {
		return err
	}
	switch err := vault.Init(ctx, v, key, func(f string, a ...any) { g.say("warning: "+f, a...) }); {
	case err == nil:
		g.say("made the vault %s", v.Location)
	case !errors.Is(err, dr.ErrExists):
		return err
	}
	_, err = vault.Open(ctx, v)
	return err
}
