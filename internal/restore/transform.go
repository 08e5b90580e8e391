package restore

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"

	"lifeboat.dev/lifeboat/internal/kube"
)

// transform makes one object fit for the target. What a person should know of is noted; what only
// belonged to the old object's life (its uid, its address) goes silently.
type transform struct {
	opts     Options
	set      *Set
	item     *item
	form     *form
	obj      *unstructured.Unstructured // of the form
	explicit []string                   // what the captured object's AnnotationExplicit says
	note     func(format string, args ...any)
}

func (t *transform) all() {
	t.unfence()
	t.metadata()
	switch t.item.key.GroupKind {
	case serviceKind:
		t.service()
	case accountKind:
		t.account()
	case secretKind:
		t.secret()
	case configMapKind:
		t.injected()
	case claimKind:
		t.claim(t.obj.Object)
		defer t.awaited() // after the marks of an earlier restore are gone, and Lifeboat's own are set
	case volumeKind:
		t.volume()
	case podKind:
		t.pod()
	case jobKind:
		t.job()
	case statefulKind:
		for _, c := range maps(t.obj.Object, "spec", "volumeClaimTemplates") {
			t.claim(c)
		}
	case daemonKind:
		kube.RemoveFenceFromNodes(t.obj)
	case priorityKind:
		t.priority()
	}
	t.placeKinds()
	unpaused(t.item.key.GroupKind, t.obj)
	if t.opts.pauses() && pause(t.item.key.GroupKind, t.obj) {
		t.note("it is paused until the cutover")
	}
	t.authority()
	t.templates()
	placing{t}.all()
	hosting{t}.all()
	t.edits()
	t.stamp()
}

// metadata keeps what the owner of the object wrote: name, labels, annotations.
func (t *transform) metadata() {
	meta := dig(t.obj.Object, "metadata")
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "managedFields",
		"deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "ownerReferences"} {
		delete(meta, field)
	}
	t.finalizers()
	removeKeys(t.obj.Object, droppedAnnotation, "metadata", "annotations")
	removeKeys(t.obj.Object, func(k string) bool { return strings.HasPrefix(k, kube.AnnotationPrefix) }, "metadata", "labels")
	if !t.item.custom || t.statusIsSubresource() {
		remove(t.obj.Object, "status")
	} else {
		t.form.status = nil // it is restored with the rest of the object
	}
}

func droppedAnnotation(name string) bool {
	switch name {
	case "kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision",
		"deprecated.daemonset.template.generation", "batch.kubernetes.io/job-tracking",
		"autoscaling.alpha.kubernetes.io/conditions", "autoscaling.alpha.kubernetes.io/current-metrics",
		"kubernetes.io/service-account.uid", "openshift.io/scc",
		"service.beta.openshift.io/serving-cert-signed-by", "service.alpha.openshift.io/serving-cert-signed-by":
		return true
	}
	return strings.HasPrefix(name, kube.AnnotationPrefix) && name != kube.AnnotationPin // marks of an earlier restore, of a mover, of a fence
}

// finalizers of an absent controller would make the object impossible to delete.
func (t *transform) finalizers() {
	var keep []string
	for _, f := range t.obj.GetFinalizers() {
		domain, _, _ := strings.Cut(f, "/")
		if slices.Contains(t.opts.To.Finalizers, f) || slices.Contains(t.opts.To.Finalizers, domain) {
			keep = append(keep, f)
			continue
		}
		if !strings.HasSuffix(domain, "kubernetes.io") && domain != "kubernetes" && f != "foregroundDeletion" && f != "orphan" {
			t.note("finalizer %s is dropped; its controller adds it again", f)
		}
	}
	t.obj.SetFinalizers(keep)
	if len(keep) == 0 {
		remove(t.obj.Object, "metadata", "finalizers")
	}
}

// statusIsSubresource looks up in the kind's CRD whether status is written separately.
func (t *transform) statusIsSubresource() bool {
	version := t.obj.GroupVersionKind().Version
	return slices.ContainsFunc(t.set.definitions[t.item.key.GroupKind].served.versions, func(v servedVersion) bool {
		return v.name == version && v.status
	})
}

// unfence, which has to come before the marks are removed, gives a workload that was captured at a fenced site what it had before.
func (t *transform) unfence() {
	if n, ok := kube.FencedReplicas(t.obj); ok {
		dig(t.obj.Object, "spec")["replicas"] = n
		t.note("it was fenced when it was captured: replicas become %d again", n)
	}
	if t.obj.GetAnnotations()[kube.AnnotationSuspended] == "false" {
		dig(t.obj.Object, "spec")["suspend"] = false
		t.note("it was fenced when it was captured: it is not suspended any more")
	}
}

// annotationLimit is what an API server lets all annotations of an object be together, in bytes.
const annotationLimit = 256 << 10

// stamp says on the object where it comes from, if there is room for it.
func (t *transform) stamp() {
	annotations := t.obj.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	size := len(kube.AnnotationPoint) + len(t.opts.Point) + len(kube.LabelApplication) + len(t.opts.Application)
	for k, v := range annotations {
		size += len(k) + len(v)
	}
	if size <= annotationLimit {
		annotations[kube.AnnotationPoint] = t.opts.Point
		annotations[kube.LabelApplication] = t.opts.Application
		t.obj.SetAnnotations(annotations)
	}
	if len(validation.IsValidLabelValue(t.opts.Application)) > 0 {
		return // the annotation has to do
	}
	labels := t.obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[kube.LabelApplication] = t.opts.Application
	t.obj.SetLabels(labels)
}

// templates rewrites the pod templates inside an object for the target's registry and pull secrets.
func (t *transform) templates() {
	for _, template := range podParts(t.obj) {
		if meta := dig(template, "metadata"); meta["creationTimestamp"] == nil {
			delete(meta, "creationTimestamp") // older servers write null
		}
		for _, v := range maps(template, "spec", "volumes") {
			if claim := dig(v, "ephemeral", "volumeClaimTemplate"); claim != nil {
				t.claim(claim)
			}
		}
		filter(template, func(m map[string]any) bool {
			name, _ := m["name"].(string)
			s := t.set.lookup(key{GroupKind: secretKind, Namespace: t.item.key.Namespace, Name: name})
			return s == nil || t.set.skip(s) == ""
		}, "spec", "imagePullSecrets")
		for _, c := range containers(template) {
			image, _ := c["image"].(string)
			if to, ok := rewriteImage(image, t.opts.From.Registry, t.opts.To.Registry); ok {
				c["image"] = to
				t.note("image %s becomes %s", image, to)
			}
		}
	}
}

// rewriteImage moves an image from one registry (a host, perhaps with a path) to another.
func rewriteImage(image, from, to string) (string, bool) {
	from, to = strings.TrimSuffix(from, "/"), strings.TrimSuffix(to, "/")
	rest, ok := strings.CutPrefix(image, from+"/")
	if !ok || from == "" || to == "" || from == to {
		return image, false
	}
	return to + "/" + rest, true
}
