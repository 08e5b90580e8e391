package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newStatus(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show the lab: its sites, their addresses, and what is not as it should be",
		Example: "  lifeboat-lab status -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := g.open()
			if err != nil {
				return err
			}
			st, err := l.Status(c.Context())
			if err != nil {
				return err
			}
			return g.print(st, func(w io.Writer) error { return describe(w, st) })
		},
	}
}
