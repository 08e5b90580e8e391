package kube

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// FieldManager owns the fields that Lifeboat applies.
const FieldManager = "lifeboat"

// Labels and annotations that Lifeboat writes.
const (
	// LabelApplication is on every object that Lifeboat restored.
	LabelApplication = "lifeboat.dev/application"
	// LabelTransient is on objects that Lifeboat makes for its own work, such as a mover's Job and pod.
	// They are never captured, restored or fenced.
	LabelTransient = "lifeboat.dev/transient"
	// AnnotationPoint names the recovery point that an object was restored from.
	AnnotationPoint = "lifeboat.dev/point"
	// AnnotationReplicas holds, on a fenced workload, the replicas that it had.
	AnnotationReplicas = "lifeboat.dev/replicas"
	// AnnotationSuspended holds, on a fenced CronJob or Job, whether it was suspended before.
	AnnotationSuspended = "lifeboat.dev/suspended"
	// AnnotationRestoring is on a claim whose data is yet to come: the id of the recovery point. What is in
	// its volume meanwhile is no copy of anything.
	AnnotationRestoring = "lifeboat.dev/restoring"
	// AnnotationReclaim holds, on a volume that is kept until its restore is verified, what else becomes of it
	// when its claim goes.
	AnnotationReclaim = "lifeboat.dev/reclaim"
	// AnnotationCopy is on what belongs to a copy beside the original, and says to which.
	AnnotationCopy = "lifeboat.dev/copy"
	// AnnotationExplicit is in captured Services alone: which of the fields that a server may fill in were
	// asked for, as "nodePort/80/TCP,clusterIP".
	AnnotationExplicit = "lifeboat.dev/explicit"
	// AnnotationPin is written by users on what is to be the same at every site. On a Service: the addresses
	// of it, of those that they asked for, as "clusterIP,loadBalancerIP". On a PersistentVolume that every
	// site reaches: "volume".
	AnnotationPin = "lifeboat.dev/pin"
	// AnnotationPrefix is common to all of them.
	AnnotationPrefix = "lifeboat.dev/"
)

// Marks are the labels and annotations that say where an object comes from and nothing of what it is.
func Marks() []string {
	return []string{LabelApplication, AnnotationPoint, AnnotationCopy, AnnotationRestoring, AnnotationReclaim}
}

// Resource returns the endpoint for objects of a kind; namespace is ignored for cluster-scoped kinds. A
// kind that the mapper does not know makes it ask the server once more.
func (c *Client) Resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.Mapper.Reset()
		m, err = c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %s at site %s: %w", gvk, c.Site, err)
	}
	r := c.Dynamic.Resource(m.Resource)
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return r.Namespace(namespace), nil
	}
	return r, nil
}

// Apply makes a whole object so, by server-side apply with force under Lifeboat's field manager. Fields
// that an earlier Apply set and this one leaves out are removed: to mark an object that something else
// applies, use a merge patch.
func (c *Client) Apply(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	r, err := c.Resource(obj.GroupVersionKind(), obj.GetNamespace())
	if err != nil {
		return nil, err
	}
	out, err := r.Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return nil, fmt.Errorf("applying %s at site %s: %w", Name(obj), c.Site, err)
	}
	return out, nil
}

// Name is how messages name an object: "Deployment shop/web".
func Name(obj *unstructured.Unstructured) string {
	if ns := obj.GetNamespace(); ns != "" {
		return obj.GetKind() + " " + ns + "/" + obj.GetName()
	}
	return obj.GetKind() + " " + obj.GetName()
}

func containsAny(s string, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
