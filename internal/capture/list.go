package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/kube"
)

const (
	pageSize = 500
	restarts = 5 // of one list whose continuation the server forgot
)

// list reads one kind in pages and puts what keep lets through (nil: everything). What the server
// refuses or cannot serve becomes a missing entry; an error is a site or a sink that went away.
func (p *pass) list(ctx context.Context, r resource, namespace string, opts metav1.ListOptions, keep func(*unstructured.Unstructured) bool) error {
	release, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	what := r.GroupResource().String()
	if namespace != "" {
		what += " of namespace " + namespace
	}
	opts.Limit = pageSize
	put := map[string]bool{} // a restarted list must not put a path twice
	for tries := 0; ; {
		page, err := p.client.Dynamic.Resource(r.GroupVersionResource).Namespace(namespace).List(ctx, opts)
		if apierrors.IsResourceExpired(err) && tries < restarts {
			tries++
			opts.Continue = ""
			continue
		}
		if err != nil {
			return p.cannotList(ctx, what, err)
		}
		for i := range page.Items {
			obj := &page.Items[i]
			// Items of a list may come without their kind.
			obj.SetGroupVersionKind(r.GroupVersion().WithKind(r.kind))
			if put[obj.GetName()] || !wanted(r.GroupResource(), obj) || keep != nil && !keep(obj) {
				continue
			}
			put[obj.GetName()] = true
			if err := p.put(ctx, r, obj); err != nil {
				return err
			}
		}
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			return nil
		}
	}
}

// cannotList sorts the reasons why a kind cannot be read.
func (p *pass) cannotList(ctx context.Context, what string, err error) error {
	var transport *url.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("listing %s at site %s: %w", what, p.client.Site, context.Cause(ctx))
	case apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err):
		return nil // the kind went away since it was discovered, or never was a list
	case apierrors.IsForbidden(err):
		p.missing("%s: forbidden: %v", what, err)
		return nil
	case apierrors.IsUnauthorized(err), errors.As(err, &transport):
		return siteError(p.client.Site, "listing "+what, err)
	}
	p.missing("%s: %v", what, err)
	return nil
}

func (p *pass) putNamespace(ctx context.Context, ns *corev1.Namespace) error {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ns)
	if err != nil {
		return fmt.Errorf("converting namespace %s: %w", ns.Name, err)
	}
	obj := &unstructured.Unstructured{Object: m}
	obj.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return p.put(ctx, resource{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("namespaces"), kind: "Namespace", versions: []string{"v1"},
	}, obj)
}

// put writes one object and remembers what it refers to.
func (p *pass) put(ctx context.Context, r resource, obj *unstructured.Unstructured) error {
	markExplicit(obj)
	prune(obj)
	doc, err := encode(obj.Object)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", kube.Name(obj), err)
	}
	if err := p.sink.Put(ctx, objectPath(r, obj.GetNamespace(), obj.GetName()), doc); err != nil {
		return fmt.Errorf("writing %s: %w", kube.Name(obj), err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Objects++
	p.result.Counts[r.GroupResource().String()]++
	p.result.APIVersions[r.GroupResource().String()] = r.versions
	p.refs.add(r, obj)
	return nil
}

// wanted leaves out what controllers make by themselves all the time, and Lifeboat's own helpers.
func wanted(r schema.GroupResource, obj *unstructured.Unstructured) bool {
	labels, annotations := obj.GetLabels(), obj.GetAnnotations()
	if _, transient := labels[kube.LabelTransient]; transient {
		return false
	}
	switch r.String() {
	case "endpoints":
		_, stamped := annotations["endpoints.kubernetes.io/last-change-trigger-time"]
		_, election := annotations["control-plane.alpha.kubernetes.io/leader"]
		return !stamped && !election && labels["endpoints.kubernetes.io/managed-by"] == ""
	case "endpointslices.discovery.k8s.io":
		return !strings.HasSuffix(labels["endpointslice.kubernetes.io/managed-by"], ".k8s.io")
	case "configmaps":
		_, election := annotations["control-plane.alpha.kubernetes.io/leader"]
		return !election
	}
	return true
}

// prune removes what differs from read to read though nobody changed the object. The uid stays: owner
// references are resolved with it.
func prune(obj *unstructured.Unstructured) {
	for _, field := range []string{"managedFields", "resourceVersion", "selfLink"} {
		unstructured.RemoveNestedField(obj.Object, "metadata", field)
	}
}

// encode writes JSON with sorted keys, so that an unchanged object is an unchanged document.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
