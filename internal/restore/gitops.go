package restore

import (
	"context"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// gitOps names the controller that keeps an object as Git has it.
func gitOps(o *unstructured.Unstructured) string {
	annotations, labels := o.GetAnnotations(), o.GetLabels()
	switch {
	case annotations["argocd.argoproj.io/tracking-id"] != "", labels["argocd.argoproj.io/instance"] != "":
		return "Argo CD"
	case labels["kustomize.toolkit.fluxcd.io/name"] != "", labels["helm.toolkit.fluxcd.io/name"] != "":
		return "Flux"
	}
	return ""
}

// manager is the object from which a Git controller makes another. The namespace of one of Argo CD is not
// said: any has to do.
func manager(o *unstructured.Unstructured) key {
	labels := o.GetLabels()
	app, _, _ := strings.Cut(o.GetAnnotations()["argocd.argoproj.io/tracking-id"], ":")
	if app = orElse(app, labels["argocd.argoproj.io/instance"]); app != "" {
		if _, name, namespaced := strings.Cut(app, "_"); namespaced { // an Application outside of Argo CD's own namespace
			app = name
		}
		return key{GroupKind: argoApplication, Name: app}
	}
	for _, f := range []struct{ group, kind string }{{"kustomize.toolkit.fluxcd.io", "Kustomization"}, {"helm.toolkit.fluxcd.io", "HelmRelease"}} {
		if name := labels[f.group+"/name"]; name != "" {
			return key{GroupKind: gk{Group: f.group, Kind: f.kind}, Namespace: labels[f.group+"/namespace"], Name: name}
		}
	}
	return key{}
}

// leftToGit names who makes an object that is not there: a Git controller that is at work for it at the
// target. What it would not make it would delete again. Claims and namespaces are made all the same: data
// comes into them.
func (t *attempt) leftToGit(ctx context.Context, want *unstructured.Unstructured) (string, error) {
	switch t.item.key.GroupKind {
	case namespaceKind, claimKind, crdKind:
		return "", nil
	}
	k := manager(want)
	if k.Name == "" || t.prepared.item(k) != nil { // one that is restored too is paused until the cutover
		return "", nil
	}
	version, ok := t.target.version(k.GroupKind, "")
	if !ok {
		return "", nil
	}
	found, err := t.managers(ctx, k, version.name)
	if err != nil {
		return "", err
	}
	for i := range found {
		if o := &found[i]; o.GetName() == k.Name && here(o) && pause(k.GroupKind, o) {
			return k.Kind + " " + o.GetNamespace() + "/" + o.GetName(), nil
		}
	}
	return "", nil
}

// managers are the objects that may be the one of a key.
func (t *attempt) managers(ctx context.Context, k key, version string) ([]unstructured.Unstructured, error) {
	if k.Namespace == "" {
		list, err := t.client.Dynamic.Resource(t.target.gvr(k.GroupKind, version)).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + k.Name})
		if apierrors.IsNotFound(err) { // its CRD is yet to be made
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}
	o, err := t.endpoint(k, version).Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []unstructured.Unstructured{*o}, nil
}

// here says whether an Application of Argo CD is of the cluster that it is in, and not of one that it looks
// after from afar.
func here(o *unstructured.Unstructured) bool {
	destination := dig(o.Object, "spec", "destination")
	if keyOf(o).GroupKind != argoApplication || destination == nil {
		return true
	}
	return destination["server"] == "https://kubernetes.default.svc" || destination["name"] == "in-cluster"
}
