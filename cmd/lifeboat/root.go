package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lifeboat.dev/lifeboat/internal/config"
	"lifeboat.dev/lifeboat/internal/dr"
)

type outputFormat string

const (
	formatText outputFormat = "text"
	formatJSON outputFormat = "json"
)

// global is what every verb shares: the streams and the flags of the root command.
type global struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	format         outputFormat
	fleetFile      string
	replica        string // read this replica instead of the vault
	vaultLocation  string // read this place instead of the vault
	quiet          bool
	started        time.Time
}

func newRoot(g *global) *cobra.Command {
	g.started = time.Now()
	var format string
	root := &cobra.Command{
		Use:   "lifeboat",
		Short: "Brings applications on Kubernetes clusters through the loss of a site",
		Long: `Lifeboat brings applications on OpenShift and Kubernetes clusters through the loss of a site:
it backs up their state and data into a vault, plans and carries out a failover to another site,
moves their traffic there, and reports the RTO and RPO that it measured.`,
		Example: `  lifeboat demo                                   see it happen, on two real clusters on this machine
  lifeboat init --context aro-east --context aro-central --namespace shop --vault /mnt/vault
  lifeboat backup shop
  lifeboat plan failover shop --to centralus
  lifeboat failover shop --to centralus`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch outputFormat(format) {
			case formatText, formatJSON:
				g.format = outputFormat(format)
				return nil
			}
			return dr.Errorf(dr.ClassUsage, nil, "Use -o text or -o json.", "unknown output format %q", format)
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return dr.Errorf(dr.ClassUsage, err, fmt.Sprintf("Run %q for its flags.", c.CommandPath()+" --help"), "wrong flags")
	})
	pf := root.PersistentFlags()
	pf.StringVarP(&format, "output", "o", string(formatText), "output format: text or json")
	pf.StringVarP(&g.fleetFile, "fleet", "f", "", "fleet file (default $LIFEBOAT_FLEET, else ./fleet.yaml, else ~/.lifeboat/fleet.yaml)")
	pf.StringVar(&g.replica, "replica", "", "read this replica of the vault instead of the vault, which may be gone")
	pf.StringVar(&g.vaultLocation, "vault-location", "", "read the vault at this place instead of the one in the fleet file")
	pf.BoolVarP(&g.quiet, "quiet", "q", false, "no progress on standard error")
	mustComplete(root.RegisterFlagCompletionFunc("replica", g.completeReplicas))
	mustComplete(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(newDemo(g), newInit(g), newStatus(g), newBackup(g), newProtect(g), newPoints(g), newRestore(g), newPlan(g), newFailover(g),
		newResume(g), newVault(g), newReport(g), newVersion(g), newMover(g))
	return root
}

// mustComplete is for a completion registered on a flag that was declared a line earlier.
func mustComplete(err error) {
	if err != nil {
		panic(err)
	}
}

// args wraps cobra's checks of the number of arguments in a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return dr.Errorf(dr.ClassUsage, err, fmt.Sprintf("Run %q.", c.CommandPath()+" --help"), "wrong arguments")
		}
		return nil
	}
}

// fleetPath finds the fleet file; it does not read it.
func (g *global) fleetPath() (string, error) {
	if g.fleetFile != "" {
		return g.fleetFile, nil
	}
	if p := os.Getenv("LIFEBOAT_FLEET"); p != "" {
		return p, nil
	}
	candidates := []string{"fleet.yaml"}
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, ".lifeboat", "fleet.yaml"))
	}
	for _, p := range candidates {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", dr.Errorf(dr.ClassUsage, nil, "Write one with: lifeboat init --help, or name it with --fleet.", "no fleet file: looked for %v", candidates)
}

func (g *global) loadFleet() (*dr.Fleet, error) {
	p, err := g.fleetPath()
	if err != nil {
		return nil, err
	}
	fleet, err := config.Load(p)
	if err != nil {
		return nil, err
	}
	return fleet, g.elsewhere(fleet)
}

// elsewhere lets the fleet's vaults be read at another place, as the flags say.
func (g *global) elsewhere(fleet *dr.Fleet) error {
	switch {
	case g.replica != "" && g.vaultLocation != "":
		return dr.Errorf(dr.ClassUsage, nil, "Give one of them.", "--replica and --vault-location exclude each other")
	case g.vaultLocation != "":
		if len(fleet.Vaults) > 1 {
			return dr.Errorf(dr.ClassUsage, nil, "Name a replica with --replica.", "--vault-location does not say which of the fleet's %d vaults is there", len(fleet.Vaults))
		}
		location, err := placeOf(g.vaultLocation)
		if err != nil {
			return err
		}
		for i, v := range fleet.Vaults {
			fleet.Vaults[i] = v.At(dr.Replica{Location: location, Credentials: v.Credentials, CAFile: v.CAFile})
		}
	case g.replica != "":
		var known []string
		found := false
		for i, v := range fleet.Vaults {
			for _, r := range v.Replicas {
				known = append(known, r.Name)
			}
			if r, ok := v.Replica(g.replica); ok {
				fleet.Vaults[i], found = v.At(*r), true
			}
		}
		if !found {
			return dr.Errorf(dr.ClassUsage, nil, fmt.Sprintf("The fleet file has: %v.", known), "no vault has a replica %q", g.replica)
		}
	}
	return nil
}

// completeReplicas offers the replicas of the fleet's vaults.
func (g *global) completeReplicas(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	fleet, err := g.loadFleet()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, v := range fleet.Vaults {
		for _, r := range v.Replicas {
			names = append(names, r.Name+"\t"+r.Location)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// print writes the result of a command: v as JSON, or what text writes.
func (g *global) print(v any, text func(io.Writer) error) error {
	if g.format == formatJSON {
		enc := json.NewEncoder(g.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return text(g.stdout)
}

// say writes a line of progress, stamped with the time since the command began.
func (g *global) say(format string, a ...any) {
	if g.quiet {
		return
	}
	fmt.Fprintf(g.stderr, "%7.2fs  %s\n", time.Since(g.started).Seconds(), fmt.Sprintf(format, a...))
}

// interactive says whether a person can be asked.
func (g *global) interactive() bool {
	in, ok := g.stdin.(*os.File)
	return ok && term.IsTerminal(int(in.Fd())) && g.format == formatText
}

// completeApplications offers the fleet file's applications as the first argument.
func (g *global) completeApplications(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	fleet, err := g.loadFleet()
	if err != nil || len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, a := range fleet.Applications {
		names = append(names, a.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeSites offers the fleet file's sites for a flag.
func (g *global) completeSites(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	fleet, err := g.loadFleet()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range fleet.Sites {
		names = append(names, s.Name+"\t"+s.Region)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// application finds an application of the fleet, or says which there are.
func application(fleet *dr.Fleet, name string) (*dr.Application, error) {
	if a, ok := fleet.Application(name); ok {
		return a, nil
	}
	var known []string
	for _, a := range fleet.Applications {
		known = append(known, a.Name)
	}
	return nil, dr.Errorf(dr.ClassUsage, nil, fmt.Sprintf("The fleet file has: %v.", known), "no application %q", name)
}
