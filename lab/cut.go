package lab

import (
	"context"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
	"lifeboat.dev/lifeboat/lab/internal/wan"
)

// Cut parts two endpoints: sites, "client" (this machine outside the lab), "dns" (the authoritative
// server), "resolver" or, on nodes of pods, "vault". With oneWay only what a begins towards b is
// lost, and b still reaches a.
func (l *Lab) Cut(ctx context.Context, a, b string, oneWay bool) error {
	lk, err := acquire(ctx, l.dir)
	if err != nil {
		return err
	}
	defer lk.f.Close()
	st, err := l.State()
	if err != nil {
		return err
	}
	if err := checkCut(st, a, b); err != nil {
		return err
	}
	if st.Nodes == state.Pods {
		if err := podnode.Cut(ctx, topology.PodPlan(st), a, b, oneWay); err != nil {
			return err
		}
	}
	cut := Cut{A: a, B: b, OneWay: oneWay}
	if slices.Contains(st.Cuts, cut) {
		return nil
	}
	return wan.Save(st.Dir, append(st.Cuts, cut))
}

func checkCut(st *State, a, b string) error {
	outside := []string{wan.Client, wan.DNS, wan.Resolver, wan.Vault}
	for _, e := range []string{a, b} {
		if _, ok := st.Site(e); !ok && !slices.Contains(outside, e) {
			var names []string
			for _, s := range st.Sites {
				names = append(names, s.Name)
			}
			return dr.Errorf(dr.ClassUsage, nil, "Name two of "+strings.Join(append(names, outside...), ", ")+".", "%q is neither a site nor one of what stands outside", e)
		}
		if e == wan.Vault && st.Nodes == state.Processes {
			return dr.Errorf(dr.ClassUsage, nil, "Start the lab with --nodes pods, or cut a vault off by its own means.",
				"a vault cannot be cut off where pods are processes: it is a directory, or a server that the lab does not know")
		}
	}
	_, aSite := st.Site(a)
	_, bSite := st.Site(b)
	switch {
	case a == b:
		return dr.Errorf(dr.ClassUsage, nil, "", "%s cannot be cut off from itself", a)
	case !aSite && !bSite && a != wan.Client && b != wan.Client:
		return dr.Errorf(dr.ClassUsage, nil, "Name at least one site, or client.", "%s and %s cannot be cut off from each other", a, b)
	}
	return nil
}

// Heal undoes all cuts.
func (l *Lab) Heal(ctx context.Context) error {
	lk, err := acquire(ctx, l.dir)
	if err != nil {
		return err
	}
	defer lk.f.Close()
	st, err := l.State()
	if err != nil {
		return err
	}
	if st.Nodes == state.Pods {
		if err := podnode.HealAll(ctx, topology.PodPlan(st)); err != nil {
			return err
		}
	}
	return wan.Save(st.Dir, nil)
}
