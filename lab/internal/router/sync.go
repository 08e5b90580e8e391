package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"

	"lifeboat.dev/lifeboat/lab/internal/openshift"
)

// routerName is what OpenShift calls its first router; being the same on every site, a status restored from
// another site is replaced, not added to.
const routerName = "default"

// sync takes in changes and writes what came of them into status, until ctx is done.
func (r *router) sync(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
		case <-retry.C:
		}
		claims, ingresses := r.rebuild()
		err := errors.Join(r.nameHosts(ctx), r.writeClaims(ctx, claims), r.writeIngresses(ctx, ingresses))
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("status not written, trying again", "error", err)
			retry.Reset(retryStatus)
		}
	}
}

func (r *router) rebuild() ([]claim, []*networkingv1.Ingress) {
	routes := r.knownRoutes()
	var ingresses []*networkingv1.Ingress
	for _, o := range r.ingresses.GetStore().List() {
		if i, ok := o.(*networkingv1.Ingress); ok {
			ingresses = append(ingresses, i)
		}
	}
	secrets := map[string]*corev1.Secret{}
	for _, o := range r.secrets.GetStore().List() {
		if s, ok := o.(*corev1.Secret); ok {
			secrets[s.Namespace+"/"+s.Name] = s
		}
	}
	t, claims := buildTable(routes, ingresses, secrets)
	r.table.Store(&t)
	return claims, ingresses
}

func (r *router) knownRoutes() []openshift.Route {
	var routes []openshift.Route
	for _, o := range r.routes.GetStore().List() {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		var route openshift.Route
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &route); err != nil {
			r.Log.Warn("Route not understood", "namespace", u.GetNamespace(), "name", u.GetName(), "error", err)
			continue
		}
		if route.DeletionTimestamp == nil {
			routes = append(routes, route)
		}
	}
	return routes
}

// nameHosts gives Routes without a host one in the site's domain.
func (r *router) nameHosts(ctx context.Context) error {
	var failed error
	for _, route := range r.knownRoutes() {
		if route.Spec.Host != "" {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": route.ResourceVersion, "annotations": map[string]any{"openshift.io/host.generated": "true"}},
			"spec":     map[string]any{"host": fmt.Sprintf("%s-%s.%s", route.Name, route.Namespace, r.Domain)},
		})
		if err == nil {
			_, err = r.dynamic.Resource(openshift.RouteResource()).Namespace(route.Namespace).Patch(ctx, route.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failed = errors.Join(failed, fmt.Errorf("naming a host for Route %s/%s: %w", route.Namespace, route.Name, err))
		}
	}
	return failed
}

func (r *router) writeClaims(ctx context.Context, claims []claim) error {
	var failed error
	for _, c := range claims {
		want := admission(c, "router-"+routerName+"."+r.Domain, time.Now())
		ingress := slices.Clone(c.route.Status.Ingress)
		at := slices.IndexFunc(ingress, func(i openshift.RouteIngress) bool { return i.RouterName == routerName })
		switch {
		case at < 0:
			ingress = append(ingress, want)
		case equality.Semantic.DeepEqual(ingress[at], want):
			continue
		default:
			ingress[at] = want
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": c.route.ResourceVersion},
			"status":   openshift.RouteStatus{Ingress: ingress},
		})
		if err == nil {
			_, err = r.dynamic.Resource(openshift.RouteResource()).Namespace(c.route.Namespace).Patch(ctx, c.route.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failed = errors.Join(failed, fmt.Errorf("status of Route %s/%s: %w", c.route.Namespace, c.route.Name, err))
		}
	}
	return failed
}

// timeOf keeps the time of a condition that has not changed.
func timeOf(c claim, cond openshift.RouteCondition, now time.Time) metav1.Time {
	for _, i := range c.route.Status.Ingress {
		for _, old := range i.Conditions {
			if i.RouterName == routerName && old.Type == cond.Type && old.Status == cond.Status && old.Reason == cond.Reason && old.LastTransitionTime != nil {
				return *old.LastTransitionTime
			}
		}
	}
	return metav1.NewTime(now.Truncate(time.Second))
}

func (r *router) writeIngresses(ctx context.Context, ingresses []*networkingv1.Ingress) error {
	want := []networkingv1.IngressLoadBalancerIngress{{IP: r.Address}}
	var failed error
	for _, i := range ingresses {
		if equality.Semantic.DeepEqual(i.Status.LoadBalancer.Ingress, want) || i.DeletionTimestamp != nil {
			continue
		}
		i = i.DeepCopy()
		i.Status.LoadBalancer.Ingress = want
		if _, err := r.client.NetworkingV1().Ingresses(i.Namespace).UpdateStatus(ctx, i, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			failed = errors.Join(failed, fmt.Errorf("status of Ingress %s/%s: %w", i.Namespace, i.Name, err))
		}
	}
	return failed
}
