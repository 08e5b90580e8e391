package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"lifeboat.dev/lifeboat/internal/kube"
)

// isPinned says whether a volume is one that every site reaches, by its owner's word.
func isPinned(o *unstructured.Unstructured) bool {
	return keyOf(o).GroupKind == volumeKind && slices.Contains(strings.Split(o.GetAnnotations()[kube.AnnotationPin], ","), "volume")
}

// volume makes a volume that every site reaches fit to be bound at the target, to its claim and no other.
func (t *transform) volume() {
	spec := dig(t.obj.Object, "spec")
	if spec == nil {
		return
	}
	if claim := dig(spec, "claimRef"); claim != nil {
		spec["claimRef"] = map[string]any{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim["namespace"], "name": claim["name"]}
	}
	if class := str(spec, "storageClassName"); class != "" {
		spec["storageClassName"] = t.class(class)
	}
	if spec["persistentVolumeReclaimPolicy"] == "Delete" {
		spec["persistentVolumeReclaimPolicy"] = "Retain"
		t.note("its reclaim policy becomes Retain: the source site has it too")
	}
	removeKeys(t.obj.Object, func(k string) bool {
		return k == "pv.kubernetes.io/bound-by-controller" || k == "volume.kubernetes.io/provisioner-deletion-secret-name"
	}, "metadata", "annotations")
	for _, term := range maps(spec, "nodeAffinity", "required", "nodeSelectorTerms") {
		for _, e := range maps(term, "matchExpressions") {
			t.zones(e)
		}
		filter(term, func(e map[string]any) bool { return e["values"] != nil || e["operator"] != "In" }, "matchExpressions")
	}
	terms := maps(spec, "nodeAffinity", "required", "nodeSelectorTerms")
	if len(terms) > 0 && !slices.ContainsFunc(terms, func(m map[string]any) bool { return len(m) > 0 }) {
		delete(spec, "nodeAffinity")
	}
}

// zones maps the zones, and the region, that a volume's nodes have to be in; a demand of which nothing is
// known at the target is dropped.
func (t *transform) zones(e map[string]any) {
	key, _ := e["key"].(string)
	isZone := strings.HasSuffix(key, "/zone")
	if !isZone && !strings.HasSuffix(key, "/region") {
		return
	}
	values, _ := e["values"].([]any)
	var mapped []any
	for _, v := range values {
		zone, _ := v.(string)
		to := t.opts.To.Region
		if isZone {
			to = orElse(t.opts.To.Zones[zone], t.opts.To.Zones["*"])
		}
		if to != "" && !slices.Contains(mapped, any(to)) {
			mapped = append(mapped, to)
		}
	}
	if mapped == nil {
		delete(e, "values")
		t.note("its demand for %s %v is dropped: nothing is known of it at the target", key, values)
		return
	}
	e["values"] = mapped
	t.note("%s %v becomes %v", key, values, mapped)
}

// pinned says whether a captured volume is restored.
func (s *Set) pinned(volume string) bool {
	if volume == "" {
		return false
	}
	pv := s.lookup(key{GroupKind: volumeKind, Name: volume})
	return pv != nil && isPinned(pv)
}

// volumes are those that are bound to restored claims.
type volumes struct{ *applier }

// hold sees to it that the volumes of the claims outlive them until the restore is verified: a
// restore that is begun again, or a person who clears up, must not delete the only copy.
func (a volumes) hold(ctx context.Context) error {
	return a.each(ctx, func(pv *corev1.PersistentVolume) map[string]any {
		if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			return nil
		}
		return reclaim("Retain", "Delete")
	})
}

// release sets the volumes' reclaim policies back.
func (a volumes) release(ctx context.Context) error {
	return a.each(ctx, func(pv *corev1.PersistentVolume) map[string]any {
		was := pv.Annotations[kube.AnnotationReclaim]
		if was == "" {
			return nil
		}
		return reclaim(was, nil)
	})
}

func reclaim(policy string, before any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{kube.AnnotationReclaim: before}},
		"spec":     map[string]any{"persistentVolumeReclaimPolicy": policy},
	}
}

// each patches the volumes. A site where that is not permitted goes without, and a note says so.
func (a volumes) each(ctx context.Context, change func(*corev1.PersistentVolume) map[string]any) error {
	var claims []*item
	for _, it := range a.prepared.items {
		if it.key.GroupKind == claimKind {
			claims = append(claims, it)
		}
	}
	var forbidden sync.Once
	return a.applier.each(ctx, claims, func(ctx context.Context, it *item) error {
		pv, err := a.of(ctx, it)
		if err == nil && pv != nil {
			err = a.patch(ctx, pv, change(pv))
		}
		if apierrors.IsForbidden(err) {
			forbidden.Do(func() {
				a.note(it, fmt.Sprintf("its volume's reclaim policy cannot be changed here (%v): it is deleted with the claim", err))
			})
			return nil
		}
		if err != nil {
			return fmt.Errorf("the volume of %s at site %s: %w", it.key, a.client.Site, err)
		}
		return nil
	})
}

// of is the volume that a claim of ours is bound to; nil where there is none.
func (a volumes) of(ctx context.Context, it *item) (*corev1.PersistentVolume, error) {
	core := a.client.Typed.CoreV1()
	pvc, err := core.PersistentVolumeClaims(it.key.Namespace).Get(ctx, it.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && (pvc.Spec.VolumeName == "" || pvc.Annotations[kube.LabelApplication] != a.opts.Application) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pv, err := core.PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pv, err
}

func (a volumes) patch(ctx context.Context, pv *corev1.PersistentVolume, patch map[string]any) error {
	if patch == nil {
		return nil
	}
	raw, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = a.client.Typed.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, raw, metav1.PatchOptions{FieldManager: kube.FieldManager})
	return err
}

func (a volumes) note(it *item, what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out.Notes = append(a.out.Notes, it.key.String()+": "+what)
}
