package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// nodeSelectorFenced keeps a DaemonSet, which has no replicas, off every node.
const nodeSelectorFenced = AnnotationPrefix + "fenced"

// A stopper knows how one kind is stopped and set going again, as merge patches. stop returns nil for an
// object that is stopped already, start for one that Fence did not stop.
type stopper struct {
	gvr   schema.GroupVersionResource
	stop  func(*unstructured.Unstructured) map[string]any
	start func(*unstructured.Unstructured) map[string]any
}

// stoppers are in the order in which they have to stop: what makes pods anew comes before what it makes.
func stoppers() []stopper {
	return []stopper{
		{schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}, suspend, resume},
		{schema.GroupVersionResource{Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"}, scaleDown, scaleUp},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, scaleDown, scaleUp},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, scaleDown, scaleUp},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, leaveNodes, rejoinNodes},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, scaleDown, scaleUp},
		{schema.GroupVersionResource{Version: "v1", Resource: "replicationcontrollers"}, scaleDown, scaleUp},
		{schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, suspend, resume},
	}
}

// Fence stops everything that runs in the namespaces and waits until no pod of them does: replicas to
// zero, CronJobs and Jobs suspended, DaemonSets off every node, pods without a controller deleted. What
// was there is recorded in annotations, from which Unfence and a later restore take it. It is idempotent;
// n counts what it stopped now. ctx must have a deadline; when it passes, the error names the pods left.
// Objects labelled LabelTransient are left alone, and namespaces that do not exist count as fenced.
func Fence(ctx context.Context, c *Client, namespaces []string) (n int, err error) {
	what := fmt.Sprintf("the pods of %s at site %s to end", strings.Join(namespaces, ", "), c.Site)
	err = WaitFor(ctx, what, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		// The pass is repeated: a CronJob may have made a Job just before it was suspended.
		stopped, err := fencePass(ctx, c, namespaces)
		n += stopped
		if err != nil {
			return false, "", err
		}
		running, err := runningPods(ctx, c, namespaces)
		if err != nil {
			return false, "", err
		}
		if len(running) == 0 {
			return true, "no pod left", nil
		}
		return false, "still there: " + abbreviate(running, 5), nil
	})
	return n, err
}

// Unfence sets going again what Fence stopped, except pods that had no controller: those come back with a
// restore alone.
func Unfence(ctx context.Context, c *Client, namespaces []string) (n int, err error) {
	list := stoppers()
	slices.Reverse(list)
	for _, ns := range namespaces {
		for _, s := range list {
			started, err := patchEach(ctx, c, ns, s.gvr, s.start)
			n += started
			if err != nil {
				return n, fmt.Errorf("starting %s in namespace %s at site %s: %w", s.gvr.Resource, ns, c.Site, err)
			}
		}
	}
	return n, nil
}

// UnfencePatch is the merge patch that undoes Fence on one object, or nil where there is nothing to undo.
func UnfencePatch(obj *unstructured.Unstructured) ([]byte, error) {
	for _, s := range stoppers() {
		if gvk := obj.GroupVersionKind(); s.gvr.Group == gvk.Group && s.gvr.Resource == strings.ToLower(gvk.Kind)+"s" {
			if patch := s.start(obj); patch != nil {
				return json.Marshal(patch)
			}
		}
	}
	return nil, nil
}

func fencePass(ctx context.Context, c *Client, namespaces []string) (n int, err error) {
	for _, ns := range namespaces {
		for _, s := range stoppers() {
			stopped, err := patchEach(ctx, c, ns, s.gvr, s.stop)
			n += stopped
			if err != nil {
				return n, fmt.Errorf("stopping %s in namespace %s at site %s: %w", s.gvr.Resource, ns, c.Site, err)
			}
		}
		deleted, err := deleteBarePods(ctx, c, ns)
		n += deleted
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func patchEach(ctx context.Context, c *Client, ns string, gvr schema.GroupVersionResource, change func(*unstructured.Unstructured) map[string]any) (n int, err error) {
	r := c.Dynamic.Resource(gvr).Namespace(ns)
	list, err := r.List(ctx, metav1.ListOptions{LabelSelector: "!" + LabelTransient})
	if apierrors.IsNotFound(err) { // a kind that this cluster does not serve
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for i := range list.Items {
		obj := &list.Items[i]
		patch := change(obj)
		if patch == nil {
			continue
		}
		raw, err := json.Marshal(patch)
		if err != nil {
			return n, err
		}
		_, err = r.Patch(ctx, obj.GetName(), types.MergePatchType, raw, metav1.PatchOptions{FieldManager: FieldManager})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("%s: %w", obj.GetName(), err)
		}
		n++
	}
	return n, nil
}

func deleteBarePods(ctx context.Context, c *Client, ns string) (n int, err error) {
	pods, err := c.Typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "!" + LabelTransient})
	if err != nil {
		return 0, fmt.Errorf("listing the pods of namespace %s at site %s: %w", ns, c.Site, err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if metav1.GetControllerOf(p) != nil || p.DeletionTimestamp != nil || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
			continue
		}
		err := c.Typed.CoreV1().Pods(ns).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return n, fmt.Errorf("deleting pod %s/%s at site %s: %w", ns, p.Name, c.Site, err)
		}
		n++
	}
	return n, nil
}

// runningPods names the pods whose containers may still run. A pod that is being deleted counts until it
// is gone: only then has its node said that its containers ended.
func runningPods(ctx context.Context, c *Client, namespaces []string) ([]string, error) {
	var names []string
	for _, ns := range namespaces {
		pods, err := c.Typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "!" + LabelTransient})
		if err != nil {
			return nil, fmt.Errorf("listing the pods of namespace %s at site %s: %w", ns, c.Site, err)
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" {
				names = append(names, ns+"/"+p.Name)
			}
		}
	}
	return names, nil
}

func scaleDown(o *unstructured.Unstructured) map[string]any {
	replicas := number(o, 1, "spec", "replicas")
	if replicas == 0 || metav1.GetControllerOf(o) != nil {
		return nil
	}
	return stopPatch(AnnotationReplicas, strconv.FormatInt(replicas, 10), map[string]any{"replicas": 0})
}

func scaleUp(o *unstructured.Unstructured) map[string]any {
	n, ok := FencedReplicas(o)
	if !ok {
		return nil
	}
	return stopPatch(AnnotationReplicas, nil, map[string]any{"replicas": n})
}

// FencedReplicas returns the replicas that a fenced workload had. A mark on something that was scaled up
// since means nothing.
func FencedReplicas(o *unstructured.Unstructured) (int64, bool) {
	mark, marked := o.GetAnnotations()[AnnotationReplicas]
	n, err := strconv.ParseInt(mark, 10, 32)
	if !marked || err != nil || number(o, 1, "spec", "replicas") != 0 {
		return 0, false
	}
	return n, true
}

func suspend(o *unstructured.Unstructured) map[string]any {
	was, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend")
	if was || finished(o) {
		return nil
	}
	return stopPatch(AnnotationSuspended, "false", map[string]any{"suspend": true})
}

func resume(o *unstructured.Unstructured) map[string]any {
	if o.GetAnnotations()[AnnotationSuspended] != "false" {
		return nil
	}
	return stopPatch(AnnotationSuspended, nil, map[string]any{"suspend": false})
}

func finished(o *unstructured.Unstructured) bool {
	complete, _, _ := condition(o, "Complete")
	failed, _, _ := condition(o, "Failed")
	return complete == "True" || failed == "True"
}

func leaveNodes(o *unstructured.Unstructured) map[string]any {
	if FencedFromNodes(o) {
		return nil
	}
	return nodeSelectorPatch("true")
}

func rejoinNodes(o *unstructured.Unstructured) map[string]any {
	if !FencedFromNodes(o) {
		return nil
	}
	return nodeSelectorPatch(nil)
}

// FencedFromNodes says whether Fence keeps this DaemonSet off every node.
func FencedFromNodes(o *unstructured.Unstructured) bool {
	return text(o, "spec", "template", "spec", "nodeSelector", nodeSelectorFenced) == "true"
}

// RemoveFenceFromNodes takes Fence's node selector out of a DaemonSet.
func RemoveFenceFromNodes(o *unstructured.Unstructured) {
	path := []string{"spec", "template", "spec", "nodeSelector"}
	unstructured.RemoveNestedField(o.Object, append(slices.Clone(path), nodeSelectorFenced)...)
	if m, ok, _ := unstructured.NestedMap(o.Object, path...); ok && len(m) == 0 {
		unstructured.RemoveNestedField(o.Object, path...)
	}
}

func stopPatch(annotation string, value any, spec map[string]any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{annotation: value}},
		"spec":     spec,
	}
}

func nodeSelectorPatch(value any) map[string]any {
	selector := map[string]any{nodeSelectorFenced: value}
	return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"nodeSelector": selector}}}}
}

func abbreviate(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}
