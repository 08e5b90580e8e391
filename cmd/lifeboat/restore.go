package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
)

// restoreOptions are the flags of restore, and of `plan restore`.
type restoreOptions struct {
	moveOptions
	restoring    dr.Restoring
	namespaceMap []string
	needs        bool
	existing     string
	status       string
	hosts        string
	noHooks      bool
}

func newRestore(g *global) *cobra.Command {
	o := restoreOptions{}
	c := &cobra.Command{
		Use:   "restore APPLICATION",
		Short: "Bring a recovery point back, whole or in part, where the application is or beside it",
		Long: `Restore brings a recovery point's objects and data back at the site that owns the application. It moves no
traffic and no ownership: use failover to move an application to another site. Data that is there already is
never written over; remove or rename the claim first.

Choose the moment with --at: a time, the id of a recovery point, or latest. The newest complete recovery point
that is not after that time is taken; an incomplete one only when it is named.

Choose objects with --namespace, --kind, --name and --selector; everything given has to fit. What they need
comes along (their ServiceAccount, ConfigMaps, claims, CRD …) unless --include-needs=false. A choice of single
objects brings no data along, unless --data names it.

With --namespace-map the application is copied into other namespaces, at its own site or at another (--to).
The copy claims nothing and disturbs nothing: whatever is there already and is not namespaced is left alone.

--dry-run changes nothing and shows exactly what would change: the plan, with the recovery point and data that
were chosen, and then each object that would be created, changed (field by field), replaced, kept or refused. The
site itself is asked, by server-side dry runs, except where an object's namespace or kind is yet to come. Values
of Secrets are never shown. It ends like the restore: with an error if that would stop, or leave objects behind.`,
		Example: `  lifeboat restore shop --dry-run
  lifeboat restore shop --at "2026-11-25 10:30"
  lifeboat restore shop --at "10m ago" --kind configmap --name 'web-*'
  lifeboat restore shop --at 20261125T1030 --namespace-map shop=shop-copy --yes
  lifeboat restore shop --selector tier=front --no-data --existing replace`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeApplications,
		RunE:              func(c *cobra.Command, a []string) error { return runRestore(c.Context(), g, a[0], o) },
	}
	o.moveOptions.flags(g, c)
	c.Flags().Lookup("dry-run").Usage = "show the plan and what would become of each object, and change nothing"
	c.Flags().Lookup("to").Usage = "the site to restore at: the owner (default), or of a copy any of the application's"
	o.flags(g, c)
	return c
}

func (o *restoreOptions) flags(g *global, c *cobra.Command) {
	f := c.Flags()
	s := &o.restoring.Select
	f.StringSliceVarP(&s.Namespaces, "namespace", "n", nil, "only objects of this namespace (may be repeated)")
	f.StringSliceVar(&s.Kinds, "kind", nil, "only objects of this kind: deployment, deployments.apps, deploy (may be repeated)")
	f.StringSliceVar(&s.Names, "name", nil, "only objects of this name, with * and ? (may be repeated)")
	f.StringVarP(&s.Labels, "selector", "l", "", "only objects with these labels: tier=front,!legacy")
	f.BoolVar(&o.needs, "include-needs", true, "bring along what the chosen objects need")
	f.StringSliceVar(&o.restoring.Data, "data", nil, "only this datastore's data (may be repeated)")
	f.BoolVar(&o.restoring.NoData, "no-data", false, "objects only: no data is brought back")
	f.StringSliceVar(&o.namespaceMap, "namespace-map", nil, "copy into another namespace: OLD=NEW (may be repeated)")
	f.StringVar(&o.existing, "existing", "", "objects that are there already and differ: keep, patch or replace (default patch)")
	f.StringVar(&o.status, "status", "", "the status of custom resources: restore or skip (default restore)")
	f.StringVar(&o.hosts, "hosts", "", "host names that somebody else has: rename, skip, keep or refuse (default rename in a copy, else keep)")
	f.BoolVar(&o.noHooks, "no-hooks", false, "leave out the hooks that the fleet file declares")
	for flag, words := range map[string][]string{"existing": {"keep", "patch", "replace"}, "status": {"restore", "skip"}, "hosts": {"rename", "skip", "keep", "refuse"}} {
		mustComplete(c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	}
	mustComplete(c.RegisterFlagCompletionFunc("data", g.completeData))
	mustComplete(c.RegisterFlagCompletionFunc("namespace", g.completeNamespaces))
}

// atFlag declares the choice of a recovery point.
func atFlag(g *global, c *cobra.Command, at *string) {
	c.Flags().StringVar(at, "at", "", `the recovery point: a time ("2026-11-25 10:30", "10m ago"), an id or its beginning, latest`)
	mustComplete(c.RegisterFlagCompletionFunc("at", g.completePoints))
}

// request turns the flags into what the planner is asked for.
func (o *restoreOptions) request(now time.Time) (plan.Request, error) {
	r := plan.Request{Goal: dr.GoalRestore, To: o.to, Restoring: o.restoring, NoHooks: o.noHooks}
	var err error
	if r.Point, err = plan.ParsePoint(o.at, now); err != nil {
		return r, err
	}
	r.Restoring.WithoutNeeds = !o.needs
	for _, pair := range o.namespaceMap {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || from == "" || to == "" {
			return r, dr.Errorf(dr.ClassUsage, nil, "Write it like --namespace-map shop=shop-copy.", "--namespace-map %q is not OLD=NEW", pair)
		}
		if r.Restoring.Namespaces == nil {
			r.Restoring.Namespaces = map[string]string{}
			r.Goal = dr.GoalClone
		}
		r.Restoring.Namespaces[from] = to
	}
	for _, choice := range []struct {
		flag, value string
		words       []string
	}{{"existing", o.existing, []string{"keep", "patch", "replace"}}, {"status", o.status, []string{"restore", "skip"}}, {"hosts", o.hosts, []string{"rename", "skip", "keep", "refuse"}}} {
		if choice.value != "" && !slices.Contains(choice.words, choice.value) {
			return r, dr.Errorf(dr.ClassUsage, nil, "Use "+strings.Join(choice.words, ", ")+".", "--%s %q is not known", choice.flag, choice.value)
		}
	}
	r.Restoring.Existing, r.Restoring.Status, r.Restoring.Hosts = dr.ExistingPolicy(o.existing), dr.StatusPolicy(o.status), dr.HostPolicy(o.hosts)
	return r, nil
}

func runRestore(ctx context.Context, g *global, name string, o restoreOptions) error {
	req, err := o.request(time.Now())
	if err != nil {
		return err
	}
	op, err := g.open(ctx, name)
	if err != nil {
		return err
	}
	return g.move(ctx, op, req, o.yes, o.dryRun)
}

// completeData offers an application's datastores.
func (g *global) completeData(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if app := g.givenApplication(given); app != nil {
		for _, d := range app.Data {
			names = append(names, d.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (g *global) completeNamespaces(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	if app := g.givenApplication(given); app != nil {
		return app.Namespaces, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// givenApplication is the application that was typed already; nil where there is none.
func (g *global) givenApplication(given []string) *dr.Application {
	fleet, err := g.loadFleet()
	if err != nil || len(given) == 0 {
		return nil
	}
	app, _ := fleet.Application(given[0])
	return app
}
