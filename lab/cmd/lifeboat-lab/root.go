package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab"
)

// global is what every command shares: the streams and the flags of the root command.
type global struct {
	stdout, stderr io.Writer
	format         string
	name, dir      string
	quiet          bool
	started        time.Time
}

func newRoot(g *global) *cobra.Command {
	g.started = time.Now()
	root := &cobra.Command{
		Use:   "lifeboat-lab",
		Short: "Runs real Kubernetes sites on one machine, to be killed and cut off",
		Long: `lifeboat-lab runs real Kubernetes control planes on one machine, without a container engine: sites
that can be killed as a region dies, links that can be cut, and around them a DNS zone, a resolver,
and per site a router, a registry, a volume provisioner and addresses for Services.

Nodes are of one of two kinds. On nodes of "processes" (the default) a pod's command runs as a process
of this machine; that needs no root, and is no container. On nodes of "pods" the real kubelet and
containerd run; that needs root and Debian's containerd, runc, iproute2, containernetworking-plugins,
nftables and conntrack.`,
		Example: `  lifeboat-lab up                                 two sites, east and west
  export KUBECONFIG=$(lifeboat-lab kubeconfig east)
  lifeboat-lab sample east                        the sample application shop, on east
  lifeboat-lab kill east                          every process of it, at once
  lifeboat-lab start east                         it comes back with its data
  lifeboat-lab cut client west                    a partition; lifeboat-lab heal ends it
  lifeboat-lab down`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.format != "text" && g.format != "json" {
				return dr.Errorf(dr.ClassUsage, nil, "Use -o text or -o json.", "unknown output format %q", g.format)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return dr.Errorf(dr.ClassUsage, err, fmt.Sprintf("Run %q for its flags.", c.CommandPath()+" --help"), "wrong flags")
	})
	pf := root.PersistentFlags()
	pf.StringVarP(&g.format, "output", "o", "text", "output format: text or json")
	pf.StringVar(&g.name, "name", lab.DefaultName, "name of the lab")
	pf.StringVar(&g.dir, "dir", "", "directory of the lab (default ${XDG_STATE_HOME:-~/.local/state}/lifeboat-lab/NAME)")
	pf.BoolVarP(&g.quiet, "quiet", "q", false, "no progress on standard error")
	mustComplete(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(newUp(g), newDown(g), newStatus(g), newKill(g), newStart(g), newCut(g), newHeal(g),
		newKubeconfig(g), newSample(g), newMeasure(g), newVersion(g))
	root.AddCommand(hidden()...)
	return root
}

// mustComplete is for a completion registered on a flag that was declared a line earlier.
func mustComplete(err error) {
	if err != nil {
		panic(err)
	}
}

func (g *global) json() bool { return g.format == "json" }

// say prints a line of progress, with the time since the command began.
func (g *global) say(line string) {
	if !g.quiet {
		fmt.Fprintf(g.stderr, "%6.1fs  %s\n", time.Since(g.started).Seconds(), line)
	}
}

// print writes a result: v as JSON, or what text writes.
func (g *global) print(v any, text func(io.Writer) error) error {
	if !g.json() {
		return text(g.stdout)
	}
	enc := json.NewEncoder(g.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// args wraps cobra's checks of arguments in a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return dr.Errorf(dr.ClassUsage, err, "Usage: "+c.UseLine(), "wrong arguments")
		}
		return nil
	}
}

// directory is the lab's, named or by default.
func (g *global) directory() (string, error) {
	if g.dir != "" {
		return g.dir, nil
	}
	return lab.DefaultDir(g.name)
}

// open opens the lab that the flags name.
func (g *global) open() (*lab.Lab, error) {
	dir, err := g.directory()
	if err != nil {
		return nil, err
	}
	return lab.Open(dir)
}

// sites completes the names of the lab's sites; extra are other names allowed there.
func (g *global) sites(n int, extra ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		l, err := g.open()
		if err != nil || len(given) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := l.State()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := append([]string{}, extra...)
		for _, s := range st.Sites {
			names = append(names, s.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
