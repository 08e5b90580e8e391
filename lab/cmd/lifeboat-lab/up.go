package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/lab"
)

func newUp(g *global) *cobra.Command {
	var o lab.Options
	var nodes string
	c := &cobra.Command{
		Use:   "up",
		Short: "Start the lab, or what of it does not run",
		Long: `Starts the lab and returns when all of it is ready. A lab that runs is left alone; sites of it that do
not run are started, with the data they had. If it fails nothing of the lab runs, and its logs are kept.`,
		Example: `  lifeboat-lab up
  lifeboat-lab up --sites north,south,spare --name three
  sudo lifeboat-lab up --nodes pods`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			o.Name, o.Dir, o.Nodes, o.Progress = g.name, g.dir, lab.Nodes(nodes), g.say
			l, err := lab.Up(c.Context(), o)
			if err != nil {
				return err
			}
			st, err := l.State()
			if err != nil {
				return err
			}
			return g.print(st, func(w io.Writer) error { return describe(w, st) })
		},
	}
	f := c.Flags()
	f.StringVar(&nodes, "nodes", string(lab.Processes), "kind of nodes: processes or pods")
	f.StringSliceVar(&o.Sites, "sites", []string{"east", "west"}, "names of the sites")
	f.StringVar(&o.KubeBinary, "lab-kube", "", "the program with Kubernetes in it (default: beside lifeboat-lab)")
	f.StringVar(&o.LifeboatBinary, "lifeboat", "", "the program lifeboat, for pods that run it (default: beside lifeboat-lab)")
	f.StringVar(&o.ShopBinary, "shop", "", "the sample application (default: beside lifeboat-lab)")
	f.StringVar(&o.PauseBinary, "pause", "", "the program that holds a pod's namespaces (default: beside lifeboat-lab)")
	mustComplete(c.RegisterFlagCompletionFunc("nodes", cobra.FixedCompletions([]string{"processes", "pods"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

func describe(w io.Writer, st *lab.State) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Lab %s, nodes of %s, in %s\n\n", st.Name, st.Nodes, st.Dir)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SITE\tSTATE\tAPI SERVER\tINGRESS\tREGISTRY\tSTORAGE CLASS")
	for _, s := range st.Sites {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s:%d,%d\t%s\t%s\n", s.Name, s.State, s.APIServer, s.IngressAddress, s.HTTPPort, s.HTTPSPort, s.Registry, s.StorageClass)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nDNS       %s, zone %s (%s); resolver %s\n", st.DNS.Server, st.DNS.Zone, st.DNS.Software, st.Resolver)
	for _, s := range st.Sites {
		fmt.Fprintf(&b, "kubectl   export KUBECONFIG=%s\n", s.Kubeconfig)
	}
	for _, c := range st.Cuts {
		arrow := "and"
		if c.OneWay {
			arrow = "to"
		}
		fmt.Fprintf(&b, "Cut       %s %s %s\n", c.A, arrow, c.B)
	}
	for _, n := range st.Notes {
		fmt.Fprintf(&b, "Note      %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
