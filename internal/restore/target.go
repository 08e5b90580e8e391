package restore

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"lifeboat.dev/lifeboat/internal/kube"
)

// target is what was found out about the site to restore to, before anything is changed there.
type target struct {
	site    string
	coming  map[gk]bool      // kinds whose CRDs are yet to be restored
	awaited map[string]bool  // groups whose API servers are yet to be restored
	failed  map[string]error // groups whose server does not answer
	classes map[string]class
	// defaultClass is what claims get that name none.
	defaultClass string
	namespaces   map[string]labels.Set                 // that are there, with their labels
	terminating  map[string]*unstructured.Unstructured // of them
	guards       []guard

	mu    sync.RWMutex // of what is found out while it changes
	kinds map[gk]served
	asked time.Time // when it was asked for its kinds again
}

// served is how a kind is served.
type served struct {
	resource   string // plural
	namespaced bool
	versions   []servedVersion // preferred first
}

type servedVersion struct {
	name   string
	status bool // has a status subresource
}

// class is a StorageClass.
type class struct {
	waits bool // binds a claim only when a pod uses it
}

// inspect asks the site what it serves and has. namespaces are those of the checkpoint.
func inspect(ctx context.Context, c *kube.Client, namespaces []string) (*target, error) {
	t := &target{site: c.Site, kinds: map[gk]served{}, coming: map[gk]bool{}, awaited: map[string]bool{}, failed: map[string]error{}, classes: map[string]class{},
		namespaces: map[string]labels.Set{}, terminating: map[string]*unstructured.Unstructured{}}
	if err := t.discover(ctx, c); err != nil {
		return nil, err
	}
	classes, err := c.Typed.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the storage classes of site %s: %w", c.Site, err)
	}
	for i := range classes.Items {
		sc := &classes.Items[i]
		t.classes[sc.Name] = class{waits: sc.VolumeBindingMode != nil && *sc.VolumeBindingMode == "WaitForFirstConsumer"}
		if sc.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			t.defaultClass = sc.Name
		}
	}
	list, err := c.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the namespaces of site %s: %w", c.Site, err)
	}
	for i := range list.Items {
		ns := &list.Items[i]
		t.namespaces[ns.GetName()] = ns.GetLabels()
		if slices.Contains(namespaces, ns.GetName()) && str(ns.Object, "status", "phase") == "Terminating" {
			t.terminating[ns.GetName()] = ns
		}
	}
	if err := t.readGuards(ctx, c); err != nil {
		return nil, fmt.Errorf("listing the webhooks of site %s: %w", c.Site, err)
	}
	return t, nil
}

func (t *target) discover(ctx context.Context, c *kube.Client) error {
	type answer struct {
		groups []*metav1.APIGroup
		lists  []*metav1.APIResourceList
		err    error
	}
	got := make(chan answer, 1)
	go func() { // discovery takes no context; it gives up by itself after 32 s
		groups, lists, err := c.Discovery.ServerGroupsAndResources()
		got <- answer{groups, lists, err}
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("asking site %s what it serves: %w", c.Site, context.Cause(ctx))
	case a := <-got:
		var failed *discovery.ErrGroupDiscoveryFailed
		if errors.As(a.err, &failed) {
			t.fails(failed)
		} else if a.err != nil {
			return fmt.Errorf("asking site %s what it serves: %w", c.Site, a.err)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.learn(a.groups, a.lists)
		return nil
	}
}

// fails notes the groups that did not answer, at the first time.
func (t *target) fails(failed *discovery.ErrGroupDiscoveryFailed) {
	if t.asked.IsZero() {
		for gv, err := range failed.Groups {
			t.failed[gv.Group] = err
		}
	}
}

// learn notes every kind with its versions in their group's order of preference.
func (t *target) learn(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) {
	rank := map[string]int{}
	for _, g := range groups {
		for i, v := range g.Versions {
			rank[v.GroupVersion] = i + 1
		}
		rank[g.PreferredVersion.GroupVersion] = 0
	}
	fresh := map[gk]served{}
	lists = slices.Clone(lists)
	slices.SortStableFunc(lists, func(a, b *metav1.APIResourceList) int { return rank[a.GroupVersion] - rank[b.GroupVersion] })
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue // a group whose name cannot be written cannot be applied to either
		}
		withStatus := map[string]bool{}
		for _, r := range list.APIResources {
			if plural, ok := strings.CutSuffix(r.Name, "/status"); ok && slices.Contains(r.Verbs, "patch") {
				withStatus[plural] = true
			}
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "patch") {
				continue
			}
			kind := gk{Group: gv.Group, Kind: r.Kind}
			k := fresh[kind]
			k.resource, k.namespaced = r.Name, r.Namespaced
			k.versions = append(k.versions, servedVersion{gv.Version, withStatus[r.Name]})
			fresh[kind] = k
		}
	}
	gomaps.Copy(t.kinds, fresh)
}

// askAgain looks, now and then, whether the target serves a kind meanwhile whose group's API server did not
// answer, or is itself restored.
func (t *target) askAgain(ctx context.Context, c *kube.Client, kind gk) error {
	const every = time.Second
	why := "its API server is restored as well"
	if err := t.failed[kind.Group]; err != nil {
		why = err.Error()
	}
	waits := &notReady{key{GroupKind: gk{Kind: "API group"}, Name: kind.Group}, "not served: " + why}
	t.mu.Lock()
	soon := time.Since(t.asked) < every
	if !soon {
		t.asked = time.Now()
	}
	t.mu.Unlock()
	if soon {
		return waits
	}
	if err := t.discover(ctx, c); err != nil {
		return err
	}
	if _, ok := t.kind(kind); !ok {
		return waits
	}
	return nil
}

func (t *target) kind(kind gk) (served, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	k, ok := t.kinds[kind]
	return k, ok
}

// willServe adds the kinds whose CRDs are in the set and not at the target yet.
func (t *target) willServe(p *Prepared) {
	for _, it := range p.items {
		if it.key.GroupKind == apiServiceKind {
			t.awaited[it.facts.serves] = true
		}
	}
	for kind, d := range p.set.definitions {
		if _, there := t.kind(kind); there || t.failed[kind.Group] != nil || p.item(d.key) == nil {
			continue
		}
		t.kinds[kind], t.coming[kind] = d.served, true
	}
	t.defers(p)
}

// absent says that nothing of a kind can be in a namespace: this, or the kind, was not there.
func (t *target) absent(kind gk, namespace string) bool {
	_, there := t.namespaces[namespace]
	return t.coming[kind] || namespace != "" && !there
}

// version picks the version to apply an object in: its own, or else the target's preferred one.
func (t *target) version(kind gk, own string) (servedVersion, bool) {
	k, ok := t.kind(kind)
	if !ok || len(k.versions) == 0 {
		return servedVersion{}, false
	}
	for _, v := range k.versions {
		if v.name == own {
			return v, true
		}
	}
	return k.versions[0], true
}

func (t *target) gvr(kind gk, version string) schema.GroupVersionResource {
	k, _ := t.kind(kind)
	return schema.GroupVersionResource{Group: kind.Group, Version: version, Resource: k.resource}
}
