// Package observe collects facts from sites, drivers and the vault; it changes nothing.
package observe

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// SiteFacts is what a cluster says of itself.
type SiteFacts struct {
	Region         string   // of its nodes; empty when they disagree or do not say
	IngressDomain  string   // OpenShift's default Route domain; empty elsewhere
	IngressAddress string   // of the default router's LoadBalancer; empty when there is none
	StorageClasses []string // sorted
	DefaultClass   string
}

// AppFacts is what one namespace holds that a fleet file should name.
type AppFacts struct {
	Claims []Claim
	Hosts  []string // of Routes and Ingresses, sorted
	// Registries are the registries that images come from, the most used first.
	Registries []string
}

// Claim is a PersistentVolumeClaim.
type Claim struct {
	Name, Class string
}

// OpenShift's own objects, read without its types so that other clusters answer "not found".
var (
	ingressConfigs = schema.GroupVersionResource{Group: "config.openshift.io", Version: "v1", Resource: "ingresses"}
	routes         = schema.GroupVersionResource{Group: "route.openshift.io", Version: "v1", Resource: "routes"}
)

// Site reads what a cluster says of itself.
func Site(ctx context.Context, c *kube.Client) (SiteFacts, error) {
	var f SiteFacts
	classes, err := c.Typed.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return f, fmt.Errorf("list storage classes of site %s: %w", c.Site, err)
	}
	for _, sc := range classes.Items {
		f.StorageClasses = append(f.StorageClasses, sc.Name)
		if sc.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			f.DefaultClass = sc.Name
		}
	}
	sort.Strings(f.StorageClasses)
	nodes, err := c.Typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsForbidden(err) { // a namespaced account may not see nodes: the region stays unknown
		return f, fmt.Errorf("list nodes of site %s: %w", c.Site, err)
	}
	if nodes != nil {
		f.Region = commonLabel(nodes.Items, corev1.LabelTopologyRegion)
	}
	cfg, err := c.Dynamic.Resource(ingressConfigs).Get(ctx, "cluster", metav1.GetOptions{})
	if err := optional(err); err != nil {
		return f, fmt.Errorf("read the ingress domain of site %s: %w", c.Site, err)
	}
	if cfg != nil {
		f.IngressDomain, _, _ = unstructured.NestedString(cfg.Object, "spec", "domain")
	}
	svc, err := c.Typed.CoreV1().Services("openshift-ingress").Get(ctx, "router-default", metav1.GetOptions{})
	if err := optional(err); err != nil {
		return f, fmt.Errorf("read the router's address at site %s: %w", c.Site, err)
	}
	if err == nil && len(svc.Status.LoadBalancer.Ingress) > 0 {
		f.IngressAddress = svc.Status.LoadBalancer.Ingress[0].IP
	}
	return f, nil
}

// optional forgives what means "this cluster has no such thing, or does not show it to us".
func optional(err error) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

func commonLabel(nodes []corev1.Node, label string) string {
	value := ""
	for i, n := range nodes {
		if i > 0 && n.Labels[label] != value {
			return ""
		}
		value = n.Labels[label]
	}
	return value
}

// Namespace reads what a fleet file should name of one namespace.
func Namespace(ctx context.Context, c *kube.Client, namespace string) (AppFacts, error) {
	var f AppFacts
	if _, err := c.Typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return f, dr.Errorf(dr.ClassUsage, errors.Join(dr.ErrNotFound, err), "Check --namespace and --preferred.", "site %s has no namespace %s", c.Site, namespace)
		}
		return f, fmt.Errorf("read namespace %s at site %s: %w", namespace, c.Site, err)
	}
	claims, err := c.Typed.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return f, fmt.Errorf("list claims of %s at site %s: %w", namespace, c.Site, err)
	}
	for _, pvc := range claims.Items {
		class := ""
		if pvc.Spec.StorageClassName != nil {
			class = *pvc.Spec.StorageClassName
		}
		f.Claims = append(f.Claims, Claim{Name: pvc.Name, Class: class})
	}
	if f.Hosts, err = hosts(ctx, c, namespace); err != nil {
		return f, err
	}
	pods, err := c.Typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return f, fmt.Errorf("list pods of %s at site %s: %w", namespace, c.Site, err)
	}
	f.Registries = registries(pods.Items)
	return f, nil
}

func hosts(ctx context.Context, c *kube.Client, namespace string) ([]string, error) {
	found := map[string]bool{}
	list, err := c.Dynamic.Resource(routes).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err := optional(err); err != nil {
		return nil, fmt.Errorf("list routes of %s at site %s: %w", namespace, c.Site, err)
	}
	if list != nil {
		for _, r := range list.Items {
			if h, _, _ := unstructured.NestedString(r.Object, "spec", "host"); h != "" {
				found[h] = true
			}
		}
	}
	ingresses, err := c.Typed.NetworkingV1().Ingresses(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ingresses of %s at site %s: %w", namespace, c.Site, err)
	}
	for _, in := range ingresses.Items {
		for _, rule := range in.Spec.Rules {
			if rule.Host != "" {
				found[rule.Host] = true
			}
		}
	}
	out := make([]string, 0, len(found))
	for h := range found {
		out = append(out, h)
	}
	sort.Strings(out)
	return out, nil
}

func registries(pods []corev1.Pod) []string {
	count := map[string]int{}
	for _, p := range pods {
		for _, ctr := range p.Spec.Containers {
			if host, _, ok := strings.Cut(ctr.Image, "/"); ok && strings.ContainsAny(host, ".:") {
				count[host]++
			}
		}
	}
	out := make([]string, 0, len(count))
	for r := range count {
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool {
		if count[out[i]] != count[out[j]] {
			return count[out[i]] > count[out[j]]
		}
		return out[i] < out[j]
	})
	return out
}
