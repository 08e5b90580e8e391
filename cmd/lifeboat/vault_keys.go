package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

// lockWait is a flag of all that needs the vault's repository for itself.
func lockWait(c *cobra.Command, d *time.Duration) {
	c.Flags().DurationVar(d, "lock-wait", time.Minute, "how long to wait for others who use the vault's repository")
}

func newVaultKeys(g *global, name *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "List, add, exchange and remove the keys that open the vault",
		Args:  args(cobra.NoArgs),
	}
	list := &cobra.Command{
		Use: "list", Short: "Show the keys that open the vault", Example: "  lifeboat vault keys list -o json", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runKeysList(c.Context(), g, *name) },
	}
	add := &cobra.Command{
		Use: "add KEYFILE", Short: "Let another key open the vault; its file is made when it does not exist",
		Example: "  lifeboat vault keys add ~/.lifeboat/second.key", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error { return runKeysAdd(c.Context(), g, *name, a[0]) },
	}
	inUse := false
	var wait time.Duration
	remove := &cobra.Command{
		Use: "remove ID", Short: "Let a key open the vault no more, by the beginning of its id",
		Long: `Remove takes a key away: never the last one, and the one that the vault was opened with only with --in-use.
Whoever had the key and a copy of the vault's key object can still open that copy: see docs/vault.md.`,
		Example: "  lifeboat vault keys remove 3fa9c1d2", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			return runKeysRemove(c.Context(), g, *name, a[0], inUse, wait)
		},
	}
	remove.Flags().BoolVar(&inUse, "in-use", false, "even the key that the vault was opened with")
	rotate := &cobra.Command{
		Use: "rotate KEYFILE", Short: "Put a new key in the place of the one that the fleet file names",
		Long: `Rotate lets the key in KEYFILE open the vault (the file is made when it does not exist), makes sure that it does,
and takes away the key that the fleet file names now. Then name KEYFILE in the fleet file.`,
		Example: "  lifeboat vault keys rotate ~/.lifeboat/vault-2027.key", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error { return runKeysRotate(c.Context(), g, *name, a[0], wait) },
	}
	lockWait(remove, &wait)
	lockWait(rotate, &wait)
	c.AddCommand(list, add, remove, rotate)
	return c
}

func runKeysList(ctx context.Context, g *global, name string) error {
	v, _, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	keys, err := vault.Keys(ctx, v)
	if err != nil {
		return err
	}
	return g.print(keys, func(w io.Writer) error {
		for _, k := range keys {
			note := ""
			switch {
			case k.Damaged != "":
				note = "  damaged: " + k.Damaged
			case k.InUse:
				note = "  in use"
			}
			if _, err := fmt.Fprintf(w, "%.8s  made %s by %s@%s%s\n", k.ID, k.Created.UTC().Format(time.RFC3339), k.Username, k.Hostname, note); err != nil {
				return err
			}
		}
		return nil
	})
}

// addKey makes the key file where there is none, and lets it open the vault.
func addKey(ctx context.Context, g *global, v *vault.Vault, file string) (string, error) {
	file, err := absolute(file)
	if err != nil {
		return "", err
	}
	switch err := vault.CreateKeyFile(file); {
	case err == nil:
		g.say("made the key file %s: keep a copy of it elsewhere", file)
	case !errors.Is(err, dr.ErrExists):
		return "", err
	}
	return vault.AddKey(ctx, v, file)
}

func runKeysAdd(ctx context.Context, g *global, name, file string) error {
	v, _, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	id, err := addKey(ctx, g, v, file)
	if err != nil {
		return err
	}
	return g.print(map[string]string{"added": id}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "key %.8s opens the vault now too\n", id)
		return err
	})
}

func runKeysRemove(ctx context.Context, g *global, name, id string, inUse bool, wait time.Duration) error {
	v, _, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	k, err := vault.RemoveKey(ctx, v, id, inUse, wait, g.say)
	if err != nil {
		return err
	}
	return g.print(map[string]string{"removed": k.ID.String()}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "key %.8s does not open the vault any more\n", k.ID)
		return err
	})
}

func runKeysRotate(ctx context.Context, g *global, name, file string, wait time.Duration) error {
	v, ref, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	keys, err := vault.Keys(ctx, v)
	if err != nil {
		return err
	}
	added, err := addKey(ctx, g, v, file)
	if err != nil {
		return err
	}
	removed := ""
	for _, k := range keys {
		if k.InUse {
			removed = k.ID.String()
		}
	}
	if _, err := vault.RemoveKey(ctx, v, removed, true, wait, g.say); err != nil {
		return dr.Errorf(dr.ClassIncomplete, err, fmt.Sprintf("Both open the vault: name %s in the fleet file, then run 'lifeboat vault keys remove %.8s'.", file, removed),
			"key %.8s was added, and the old one is still there", added)
	}
	return g.print(map[string]string{"added": added, "removed": removed}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "key %.8s took the place of %.8s\n  next: name %s as encryptionKey.file of vault %s in the fleet file\n", added, removed, file, ref.Name)
		return err
	})
}
