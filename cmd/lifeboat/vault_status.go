package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
)

// vaultStatus is what `lifeboat vault status -o json` prints.
type vaultStatus struct {
	Name     string      `json:"name"`
	Location string      `json:"location"`
	ReadOnly bool        `json:"readOnly,omitempty"` // a replica is looked at
	Replicas []vault.Lag `json:"replicas,omitempty"`
}

func newVaultStatus(g *global, name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show where the vault is and how far its replicas are behind",
		Long: `Status opens the vault and compares its replicas with it, by names and sizes. It changes nothing, and ends with
exit code 6 when a replica is behind or cannot be looked at.`,
		Example: "  lifeboat vault status\n  lifeboat vault status --replica far -o json",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runVaultStatus(c.Context(), g, *name) },
	}
}

func runVaultStatus(ctx context.Context, g *global, name string) error {
	v, ref, err := g.openVault(ctx, name)
	if err != nil {
		return err
	}
	st := vaultStatus{Name: ref.Name, Location: v.Location(), ReadOnly: ref.ReadOnly}
	behind := 0
	if !ref.ReadOnly {
		st.Replicas = vault.ReplicasOf(v, *ref).Lags(ctx)
	}
	err = g.print(st, func(w io.Writer) error {
		note := ""
		if st.ReadOnly {
			note = " (a replica, only read)"
		}
		_, err := fmt.Fprintf(w, "vault %s: opens at %s%s\n", st.Name, st.Location, note)
		for _, l := range st.Replicas {
			if _, perr := fmt.Fprintf(w, "  replica %-12s %s\n", l.Replica, lagText(l, "")); err == nil {
				err = perr
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, l := range st.Replicas {
		if l.Error != "" || l.Missing > 0 {
			behind++
		}
	}
	if behind > 0 {
		return dr.Errorf(dr.ClassIncomplete, nil, "Run: lifeboat vault copy", "%d of %d replicas are not in step", behind, len(st.Replicas))
	}
	return nil
}

// lagText says how far a replica is behind: of one application, or of all ("").
func lagText(l vault.Lag, app string) string {
	if l.Error != "" {
		return "cannot be looked at: " + l.Error
	}
	text := "in step"
	if l.Missing > 0 {
		text = fmt.Sprintf("lacks %d objects (%s)", l.Missing, byteCount(l.Bytes))
	}
	var points []string
	for _, name := range slices.Sorted(maps.Keys(l.Newest)) {
		if app == "" {
			points = append(points, fmt.Sprintf("%s of %s ago", name, time.Since(l.Newest[name]).Round(time.Second)))
		} else if name == app {
			points = append(points, fmt.Sprintf("of %s ago", time.Since(l.Newest[name]).Round(time.Second)))
		}
	}
	if len(points) == 0 {
		return text + "; no recovery point there"
	}
	return text + "; newest recovery point there: " + strings.Join(points, ", ")
}
