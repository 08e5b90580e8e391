package restore

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// setOwners writes the owner references anew, with the UIDs that the owners have at the target. An owner
// that is not there is left out: the garbage collector would delete the object for it.
func (t *attempt) setOwners(ctx context.Context, want *unstructured.Unstructured) error {
	var refs []metav1.OwnerReference
	for _, o := range t.form.owners {
		version, ok := t.target.version(o.key.GroupKind, groupVersionOf(o.ref))
		if !ok {
			continue
		}
		k := o.key
		if kind, _ := t.target.kind(k.GroupKind); !kind.namespaced {
			k.Namespace = ""
		}
		uid, err := t.uid(ctx, k, version.name)
		if err != nil {
			return fmt.Errorf("looking up its owner %s: %w", k, err)
		}
		if uid == "" {
			continue
		}
		ref := o.ref
		ref.UID, ref.APIVersion = uid, k.WithVersion(version.name).GroupVersion().String()
		refs = append(refs, ref)
	}
	if len(refs) > 0 {
		want.SetOwnerReferences(refs)
	}
	return nil
}

func groupVersionOf(ref metav1.OwnerReference) string {
	return ref.APIVersion[strings.LastIndex(ref.APIVersion, "/")+1:]
}

// uid is that of an object at the target, empty where it does not exist.
func (t *attempt) uid(ctx context.Context, k key, version string) (types.UID, error) {
	t.mu.Lock()
	uid, known := t.uids[k]
	t.mu.Unlock()
	if known {
		return uid, nil
	}
	o, err := t.endpoint(k, version).Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	t.remember(k, o.GetUID())
	return o.GetUID(), nil
}

func (a *applier) remember(k key, uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.uids[k] = uid
}

// met notes the UID of the object, where others will ask for it.
func (t *attempt) met(uid types.UID) {
	if t.item.owns {
		t.remember(t.item.key, uid)
	}
}
