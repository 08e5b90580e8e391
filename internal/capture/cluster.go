package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// clusterObjects reads the cluster-scoped objects that the application's own objects need.
func (p *pass) clusterObjects(ctx context.Context, served []resource) error {
	kinds := map[string]resource{}
	for _, r := range served {
		kinds[r.GroupResource().String()] = r
	}
	g, ctx := errgroup.WithContext(ctx)
	byName := func(kind string, names set, keep func(*unstructured.Unstructured) bool) {
		r, ok := kinds[kind]
		if !ok {
			return
		}
		for _, name := range names.sorted() {
			g.Go(func() error { return p.get(ctx, r, name, keep) })
		}
	}
	byName("customresourcedefinitions.apiextensions.k8s.io", p.refs.definitions, nil)
	byName("persistentvolumes", p.refs.volumes, nil)
	byName("priorityclasses.scheduling.k8s.io", p.refs.priorityClasses, func(o *unstructured.Unstructured) bool {
		return !strings.HasPrefix(o.GetName(), "system-")
	})
	for kind, keep := range map[string]func(*unstructured.Unstructured, []string) bool{
		"validatingwebhookconfigurations.admissionregistration.k8s.io": servedFrom,
		"mutatingwebhookconfigurations.admissionregistration.k8s.io":   servedFrom,
		"securitycontextconstraints.security.openshift.io":             constrainsAccounts,
	} {
		if r, ok := kinds[kind]; ok {
			g.Go(func() error {
				return p.list(ctx, r, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) bool { return keep(o, p.result.Namespaces) })
			})
		}
	}
	classes := p.refs.storageClasses.sorted()
	if r, ok := kinds["storageclasses.storage.k8s.io"]; ok {
		g.Go(func() error {
			return p.list(ctx, r, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) bool { return p.usesClass(o, classes) })
		})
	}
	g.Go(func() error { return p.roles(ctx, kinds) })
	return g.Wait()
}

// usesClass keeps the classes that claims name, and remembers the default one.
func (p *pass) usesClass(o *unstructured.Unstructured, named []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	isDefault := o.GetAnnotations()["storageclass.kubernetes.io/is-default-class"] == "true"
	if isDefault {
		p.result.DefaultStorageClass = o.GetName()
	}
	return slices.Contains(named, o.GetName()) || isDefault && p.refs.claimNoClass
}

// roles reads the bindings first: they say which ClusterRoles the application's accounts have.
func (p *pass) roles(ctx context.Context, kinds map[string]resource) error {
	bindings, ok := kinds["clusterrolebindings.rbac.authorization.k8s.io"]
	if !ok {
		return nil // a cluster without RBAC
	}
	names := set{}
	for n := range p.refs.clusterRoles {
		names.add(n)
	}
	err := p.list(ctx, bindings, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) bool {
		if isDefault(o) || !bindsAccounts(o, p.result.Namespaces) {
			return false
		}
		names.add(text(o.Object, "roleRef", "name"))
		return true
	})
	if err != nil || len(names) == 0 {
		return err
	}
	kind := kinds["clusterroles.rbac.authorization.k8s.io"]
	var parts []func(*unstructured.Unstructured) bool
	err = p.list(ctx, kind, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) bool {
		if isDefault(o) || !names[o.GetName()] {
			return false
		}
		for _, sel := range aggregates(o) {
			parts = append(parts, func(part *unstructured.Unstructured) bool { return sel.Matches(labels.Set(part.GetLabels())) })
		}
		return true
	})
	if err != nil || len(parts) == 0 {
		return err
	}
	return p.list(ctx, kind, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) bool {
		return !isDefault(o) && !names[o.GetName()] &&
			slices.ContainsFunc(parts, func(f func(*unstructured.Unstructured) bool) bool { return f(o) })
	})
}

// get reads one object; one that is not there is not missed (the kind was built in, or the reference
// dangles at the site as well).
func (p *pass) get(ctx context.Context, r resource, name string, keep func(*unstructured.Unstructured) bool) error {
	release, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	obj, err := p.client.Dynamic.Resource(r.GroupVersionResource).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return p.cannotList(ctx, fmt.Sprintf("%s %s", r.GroupResource(), name), err)
	}
	if keep != nil && !keep(obj) {
		return nil
	}
	return p.put(ctx, r, obj)
}

func fromUnstructured(m map[string]any, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(m, into)
}
