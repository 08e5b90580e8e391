package restore

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/kube"
)

// claimed is the reason for which a router refuses a host that another Route has.
const claimed = "HostAlreadyClaimed"

// claimer names the Routes that have the host and path of one that was refused for it; nothing where that
// cannot be found out: the refusal itself is what counts.
func (v *verifier) claimer(ctx context.Context, route *unstructured.Unstructured) string {
	version, ok := v.target.version(routeKind, route.GroupVersionKind().Version)
	if !ok {
		return ""
	}
	list, err := v.client.Dynamic.Resource(v.target.gvr(routeKind, version.name)).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	var out []string
	for i := range list.Items {
		r := &list.Items[i]
		if r.GetUID() != route.GetUID() && hostOf(r) == hostOf(route) && str(r.Object, "spec", "path") == str(route.Object, "spec", "path") {
			out = append(out, fmt.Sprintf("%s has it since %s", kube.Name(r), r.GetCreationTimestamp().UTC().Format("2006-01-02 15:04:05")))
		}
	}
	return strings.Join(out, ", ")
}

func hostOf(route *unstructured.Unstructured) string { return str(route.Object, "spec", "host") }

// holder adds to a refusal of a Service's port or address who has it.
func (t *attempt) holder(ctx context.Context, want *unstructured.Unstructured, refused error) error {
	if want.GroupVersionKind().GroupKind() != serviceKind || !apierrors.IsInvalid(refused) {
		return refused
	}
	taken := regexp.MustCompile(`nodePort: Invalid value: (\d+): provided port is already allocated|clusterIPs?: Invalid value: \[?"([^"]+)"\]?: failed to allocate IP`).FindStringSubmatch(refused.Error())
	if taken == nil {
		return refused
	}
	services, err := t.client.Typed.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return refused // it says what it says
	}
	for i := range services.Items {
		s := &services.Items[i]
		has := taken[2] != "" && slices.Contains(s.Spec.ClusterIPs, taken[2])
		for _, p := range s.Spec.Ports {
			has = has || fmt.Sprint(p.NodePort) == taken[1]
		}
		if has {
			return fmt.Errorf("it belongs to Service %s/%s: %w", s.Namespace, s.Name, refused)
		}
	}
	return refused
}
