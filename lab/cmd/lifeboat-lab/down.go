package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// outcome is what a command without other results prints as JSON.
type outcome struct {
	Dir    string `json:"dir"`
	Result string `json:"result"`
}

func newDown(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove all that it made",
		Long: `Ends every process of the lab, whatever crashed before, and removes its network, mounts and directory,
with all data of its sites.`,
		Example: "  lifeboat-lab down",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := g.directory()
			if err != nil {
				return err
			}
			o := outcome{Dir: dir, Result: "removed"}
			l, err := g.open()
			switch {
			case absent(err):
				o.Result = "nothing there"
			case err != nil:
				return err
			default:
				o.Dir = l.Dir()
				if err := l.Down(c.Context()); err != nil {
					return err
				}
			}
			return g.print(o, func(w io.Writer) error {
				var err error
				if o.Result == "removed" {
					_, err = fmt.Fprintf(w, "The lab in %s is removed.\n", o.Dir)
				} else {
					_, err = fmt.Fprintf(w, "There is no lab in %s: nothing to do.\n", o.Dir)
				}
				return err
			})
		},
	}
}
