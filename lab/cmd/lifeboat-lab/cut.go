package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/lab"
)

func newCut(g *global) *cobra.Command {
	var cut lab.Cut
	c := &cobra.Command{
		Use:   "cut A B",
		Short: "Cut two endpoints off from each other",
		Long: `Cuts the link between two endpoints, each a site, "client" (this machine outside the lab), "dns" (the
authoritative server), "resolver" or, on nodes of pods, "vault". Nothing is refused or reset: there is
just no answer. With --one-way only the way from A to B is cut: on nodes of pods what A sends to B is
lost, on nodes of processes what A begins towards B.`,
		Example: `  lifeboat-lab cut east west
  lifeboat-lab cut client east --one-way`,
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: g.sites(2, "client", "dns", "resolver", "vault"),
		RunE: func(c *cobra.Command, a []string) error {
			l, err := g.open()
			if err != nil {
				return err
			}
			cut.A, cut.B = a[0], a[1]
			if err := l.Cut(c.Context(), cut.A, cut.B, cut.OneWay); err != nil {
				return err
			}
			return g.print(cut, func(w io.Writer) error {
				to := "and"
				if cut.OneWay {
					to = "to"
				}
				_, err := fmt.Fprintf(w, "Cut: %s %s %s. lifeboat-lab heal ends all cuts.\n", cut.A, to, cut.B)
				return err
			})
		},
	}
	c.Flags().BoolVar(&cut.OneWay, "one-way", false, "cut only the way from A to B")
	return c
}

func newHeal(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "heal",
		Short:   "End all cuts",
		Example: "  lifeboat-lab heal",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := g.open()
			if err != nil {
				return err
			}
			if err := l.Heal(c.Context()); err != nil {
				return err
			}
			return g.print(outcome{Dir: l.Dir(), Result: "healed"}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "All cuts are healed.")
				return err
			})
		},
	}
}
