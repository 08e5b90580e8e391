package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// resource is one kind as the site prefers to serve it.
type resource struct {
	schema.GroupVersionResource
	kindName   string
	namespaced bool
	versions   []string // every served version of it, preferred first
}

// discovered is what a site serves.
type discovered struct {
	served []resource
	failed map[string]bool // groups whose server does not answer
}

// discover asks for everything that the site serves. A group whose server does not answer is named as
// missing; the rest goes on.
func (e *engine) discover(ctx context.Context) (discovered, error) {
	type answer struct {
		groups []*metav1.APIGroup
		lists  []*metav1.APIResourceList
		err    error
	}
	got := make(chan answer, 1)
	go func() { // discovery takes no context; it gives up by itself after 32 s
		groups, lists, err := e.client.Discovery.ServerGroupsAndResources()
		got <- answer{groups, lists, err}
	}()
	select {
	case <-ctx.Done():
		return discovered{}, fmt.Errorf("asking site %s what it serves: %w", e.client.Site, context.Cause(ctx))
	case a := <-got:
		var failed *discovery.ErrGroupDiscoveryFailed
		if a.err != nil && !errors.As(a.err, &failed) {
			return discovered{}, siteError(e.client.Site, "asking what is served", a.err)
		}
		if !slices.ContainsFunc(a.groups, func(g *metav1.APIGroup) bool { return g.Name == "" }) {
			return discovered{}, siteError(e.client.Site, "asking what is served", errors.New("the answer lacks the core of the API"))
		}
		out := discovered{served: preferred(a.groups, a.lists), failed: map[string]bool{}}
		reasons := map[string]string{}
		if failed != nil {
			for gv, err := range failed.Groups {
				out.failed[gv.Group] = true
				if !skipGroup(gv.Group) {
					reasons["group "+gv.String()] = err.Error()
				}
			}
		}
		e.groupsMissing(reasons)
		return out, nil
	}
}

// groupsMissing takes the place of what was said of groups before.
func (e *engine) groupsMissing(reasons map[string]string) {
	for _, what := range e.missing.of("group ") {
		if _, still := reasons[what]; !still && e.missing.clear(what) {
			e.changed()
		}
	}
	for what, reason := range reasons {
		if e.missing.set(what, reason) {
			e.changed()
		}
	}
}

// preferred picks each listable kind in the first version, in its group's order of preference, that
// serves it.
func preferred(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) []resource {
	byVersion := map[string]*metav1.APIResourceList{}
	for _, l := range lists {
		byVersion[l.GroupVersion] = l
	}
	var out []resource
	for _, g := range groups {
		at := map[string]int{}
		for _, version := range versionOrder(g) {
			list := byVersion[schema.GroupVersion{Group: g.Name, Version: version}.String()]
			if list == nil {
				continue
			}
			for _, r := range list.APIResources {
				if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "get") {
					continue
				}
				if i, ok := at[r.Name]; ok {
					out[i].versions = append(out[i].versions, version)
					continue
				}
				at[r.Name] = len(out)
				out = append(out, resource{
					GroupVersionResource: schema.GroupVersionResource{Group: g.Name, Version: version, Resource: r.Name},
					kindName:             r.Kind, namespaced: r.Namespaced, versions: []string{version},
				})
			}
		}
	}
	return out
}

func versionOrder(g *metav1.APIGroup) []string {
	order := []string{g.PreferredVersion.Version}
	for _, v := range g.Versions {
		if v.Version != g.PreferredVersion.Version {
			order = append(order, v.Version)
		}
	}
	return order
}

// skipGroup: views that are computed, and the API's own bookkeeping. Nothing in them can be restored.
func skipGroup(group string) bool {
	switch group {
	case "events.k8s.io", "coordination.k8s.io", "metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io",
		"authentication.k8s.io", "authorization.k8s.io", "authorization.openshift.io", "flowcontrol.apiserver.k8s.io",
		"packages.operators.coreos.com", "project.openshift.io":
		return true
	}
	return false
}

// skipKind: kinds that are never restored and change all the time.
func skipKind(r schema.GroupResource) bool {
	if skipGroup(r.Group) {
		return true
	}
	switch r.String() {
	case "events", "componentstatuses", "bindings",
		"imagestreamtags.image.openshift.io", "imagetags.image.openshift.io", "imagestreamimages.image.openshift.io":
		return true
	}
	return false
}
