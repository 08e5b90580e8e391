package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/lab"
)

// onSite builds a command that does one thing to one site.
func onSite(g *global, c *cobra.Command, done string, do func(*cobra.Command, *lab.Lab, string) error) *cobra.Command {
	c.Args = args(cobra.ExactArgs(1))
	c.ValidArgsFunction = g.sites(1)
	c.RunE = func(c *cobra.Command, a []string) error {
		l, err := g.open()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := do(c, l, a[0]); err != nil {
			return err
		}
		result := struct {
			Site    string  `json:"site"`
			Result  string  `json:"result"`
			Seconds float64 `json:"seconds"`
		}{a[0], done, time.Since(began).Seconds()}
		return g.print(result, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "Site %s is %s (%.1f s).\n", a[0], done, result.Seconds)
			return err
		})
	}
	return c
}

func newKill(g *global) *cobra.Command {
	return onSite(g, &cobra.Command{
		Use:   "kill SITE",
		Short: "Kill every process of a site at once, as a region dies",
		Long: `Kills every process of a site with SIGKILL and makes sure that none lives and none of its addresses is
listened on. The site's data stays for start.`,
		Example: "  lifeboat-lab kill east",
	}, "dead", func(c *cobra.Command, l *lab.Lab, site string) error { return l.Kill(c.Context(), site) })
}

func newStart(g *global) *cobra.Command {
	return onSite(g, &cobra.Command{
		Use:     "start SITE",
		Short:   "Start a site that does not run, with the data it had",
		Example: "  lifeboat-lab start east",
	}, "running", func(c *cobra.Command, l *lab.Lab, site string) error { return l.Start(c.Context(), site, g.say) })
}

func newKubeconfig(g *global) *cobra.Command {
	return &cobra.Command{
		Use:               "kubeconfig SITE",
		Short:             "Print the path of a site's kubeconfig",
		Example:           "  export KUBECONFIG=$(lifeboat-lab kubeconfig east)",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.sites(1),
		RunE: func(_ *cobra.Command, a []string) error {
			l, err := g.open()
			if err != nil {
				return err
			}
			path, err := l.Kubeconfig(a[0])
			if err != nil {
				return err
			}
			return g.print(map[string]string{"site": a[0], "kubeconfig": path}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, path)
				return err
			})
		},
	}
}
