package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/lab"
)

func newMeasure(g *global) *cobra.Command {
	d := 20 * time.Second
	c := &cobra.Command{
		Use:     "measure",
		Short:   "Measure the memory (PSS) and processor time that each site takes",
		Example: "  lifeboat-lab measure --for 1m -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := g.open()
			if err != nil {
				return err
			}
			g.say("measuring for " + d.String())
			all, err := l.Measure(c.Context(), d)
			if err != nil {
				return err
			}
			return g.print(all, func(w io.Writer) error { return table(w, all) })
		},
	}
	c.Flags().DurationVar(&d, "for", d, "how long")
	return c
}

func table(w io.Writer, all []lab.Usage) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SITE\tPROGRAM\tPROCESSES\tPSS MiB\tCORES\t")
	pss, cores := uint64(0), 0.0
	for _, u := range all {
		for _, p := range u.Programs {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.3f\t\n", u.Site, p.Name, p.Processes, p.PSSBytes>>20, p.Cores)
		}
		fmt.Fprintf(t, "%s\tall\t\t%d\t%.3f\t\n", u.Site, u.PSSBytes>>20, u.Cores)
		pss, cores = pss+u.PSSBytes, cores+u.Cores
	}
	fmt.Fprintf(t, "lab\tall\t\t%d\t%.3f\t\n", pss>>20, cores)
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}
