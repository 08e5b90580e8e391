package main

import (
	"os"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/lab/internal/agent"
	"lifeboat.dev/lifeboat/lab/internal/procnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
)

// hidden are the commands that the lab itself starts.
func hidden() []*cobra.Command {
	probe := &cobra.Command{
		Use: site.CmdProbe, Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return site.EnterNamespace() },
	}
	first := &cobra.Command{
		Use: site.CmdInit + " SITE", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, a []string) error {
			return agent.RunInit(c.Context(), c.Flag("dir").Value.String(), a[0], os.Args, agent.Log())
		},
	}
	services := &cobra.Command{
		Use: agent.CmdSiteAgent + " SITE", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, a []string) error {
			return agent.RunSite(c.Context(), c.Flag("dir").Value.String(), a[0], agent.Log())
		},
	}
	world := &cobra.Command{
		Use: agent.CmdWorld, Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.RunWorld(c.Context(), c.Flag("dir").Value.String(), agent.Log())
		},
	}
	exec := &cobra.Command{
		Use: "proc-exec", Hidden: true, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, a []string) { os.Exit(procnode.ExecMain(a)) },
	}
	return []*cobra.Command{probe, first, services, world, exec}
}
