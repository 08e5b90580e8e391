// Package agent is what runs inside a lab: the first process of a site, the site's own services in one
// process, and what stands outside all sites in another.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"lifeboat.dev/lifeboat/lab/internal/cluster"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
)

// Hidden commands of lifeboat-lab that run what is in this package.
const (
	CmdSiteAgent = "site-agent"
	CmdWorld     = "world"
)

// nodeName is the name of a site's one node. Mode pods takes the site's name for it too.
func nodeName(site string) string { return site }

// ClusterConfig is the control plane of a site of the lab.
func ClusterConfig(st *state.State, name string) (cluster.Config, error) {
	t, err := topology.Of(st, name)
	if err != nil {
		return cluster.Config{}, err
	}
	s, _ := st.Site(name)
	return cluster.Config{
		Site:      layout.Dir(st.Dir).Site(name),
		Context:   s.Context,
		Kube:      st.Binaries.Kube,
		Bind:      t.Inner,
		Public:    t.Public.String(),
		Services:  t.Services,
		Node:      t.Node,
		Endpoints: st.Nodes == state.Pods,
	}, nil
}

// RunInit is the first process of a site: it prepares the site's namespaces and keeps its daemons until
// ctx is done. argv is this process's own command line.
func RunInit(ctx context.Context, dir, name string, argv []string, log *slog.Logger) error {
	st, err := state.Load(dir)
	if err != nil {
		return err
	}
	if name == state.World {
		return runWorldInit(ctx, st, log)
	}
	cfg, err := ClusterConfig(st, name)
	if err != nil {
		return err
	}
	var node []site.Daemon
	if st.Nodes == state.Pods {
		n, err := podNode(st, name)
		if err != nil {
			return err
		}
		if err := podnode.Prepare(n); err != nil {
			return err
		}
		if node, err = podnode.Daemons(n); err != nil {
			return err
		}
	} else {
		if err := site.EnterNamespace(); err != nil {
			return err
		}
		if err := site.DropAmbient(argv); err != nil {
			return err
		}
	}
	daemons, err := order(cfg, st, name, node)
	if err != nil {
		return err
	}
	s := site.Supervisor{LogDir: cfg.Site.Logs(), Log: log}
	return s.Run(ctx, daemons)
}

// runWorldInit keeps the world's one daemon. It has no namespaces: it must see the processes of all sites.
func runWorldInit(ctx context.Context, st *state.State, log *slog.Logger) error {
	if err := site.EnterNamespace(); err != nil {
		return err
	}
	s := site.Supervisor{LogDir: layout.Dir(st.Dir).World().Logs(), Log: log}
	return s.Run(ctx, []site.Daemon{{
		Name: CmdWorld,
		Argv: []string{st.Binaries.Self, CmdWorld, "--dir", st.Dir},
		Env:  []string{"GOGC=60"},
	}})
}

// order is the order in which a site's daemons start. The agent opens its listeners while the API server
// starts; containerd, too, has no need to wait.
func order(cfg cluster.Config, st *state.State, name string, node []site.Daemon) ([]site.Daemon, error) {
	control, err := cfg.Daemons()
	if err != nil {
		return nil, err
	}
	agent := site.Daemon{
		Name: CmdSiteAgent,
		Argv: []string{st.Binaries.Self, CmdSiteAgent, name, "--dir", st.Dir},
		Env:  []string{"GOGC=60"},
	}
	var daemons []site.Daemon
	for _, d := range control {
		if d.Name == cluster.APIServer {
			if len(node) > 0 { // containerd
				first := node[0]
				first.Ready = nil
				daemons = append(daemons, first)
			}
			daemons = append(daemons, agent)
		}
		daemons = append(daemons, d)
	}
	if len(node) > 0 {
		daemons = append(daemons, node[1:]...)
	}
	return daemons, nil
}

// podNode describes the node of a site whose pods are containers.
func podNode(st *state.State, name string) (podnode.Node, error) {
	t, err := topology.Of(st, name)
	if err != nil {
		return podnode.Node{}, err
	}
	s := layout.Dir(st.Dir).Site(name)
	own, _ := st.Site(name)
	cert, clientCA := cluster.KubeletTLS(s)
	keep := []string{}
	for _, p := range []string{st.Binaries.Lifeboat, st.Binaries.Shop, st.Binaries.Pause} {
		if p != "" {
			keep = append(keep, p)
		}
	}
	return podnode.Node{
		Plan:              topology.PodPlan(st),
		Site:              name,
		Region:            own.Region,
		Dir:               s.Node(),
		Kube:              st.Binaries.Kube,
		KubeletKubeconfig: s.InnerKubeconfig(),
		ProxyKubeconfig:   s.InnerKubeconfig(),
		ClientCA:          clientCA,
		ServingCert:       cert + ".crt",
		ServingKey:        cert + ".key",
		Registry:          t.Registry.String(),
		PauseImage:        PauseImage,
		Keep:              keep,
	}, nil
}

// Log writes what a process of the lab says to its standard error, which its starter sends to a file.
func Log() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func logged(log *slog.Logger, part string) *slog.Logger { return log.With("part", part) }

func wrap(part string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}
