package restore

import (
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/kube"
)

// foresight is what a dry run learns of one object. Nil, as in a restore in earnest, it does nothing.
type foresight struct {
	before, after *unstructured.Unstructured // nil: not there; not known
	fence         map[string]any             // the merge patch that undoes a fence
	adopted       bool                       // what Lifeboat set by a POST counts as applied: see adopt
	status        map[string]any             // that would be restored
	untried       string                     // why the target was not asked
}

// notMadeYet stands for the UID of an owner that is yet to be made.
const notMadeYet types.UID = "00000000-0000-0000-0000-000000000000"

// option is what keeps a write from having an effect.
func (f *foresight) option() []string {
	if f == nil {
		return nil
	}
	return []string{metav1.DryRunAll}
}

func (f *foresight) found(live *unstructured.Unstructured) {
	if f != nil {
		f.before = live.DeepCopy()
	}
}

// cannotTry says whether an object is of a kind, or in a namespace, that comes only with the restore.
func (f *foresight) cannotTry(it *item, a *applier) bool {
	if f == nil {
		return false
	}
	_, there := a.target.namespaces[it.key.Namespace]
	switch {
	case a.target.coming[it.key.GroupKind]:
		f.untried = "its kind is not there yet"
	case it.key.Namespace != "" && !there && a.prepared.item(key{GroupKind: namespaceKind, Name: it.key.Namespace}) != nil:
		f.untried = "its namespace is not there yet"
	}
	return f.untried != ""
}

func (f *foresight) adopts() {
	if f != nil {
		f.adopted = true
	}
}

// unfences notes that the fence would be undone, and what that makes of the object.
func (f *foresight) unfences(live *unstructured.Unstructured, patch []byte) error {
	if f == nil {
		return nil
	}
	f.after = live.DeepCopy()
	m, err := decode(patch)
	if err != nil {
		return fmt.Errorf("reading the patch that undoes the fence: %w", err)
	}
	f.fence = m.Object
	return nil
}

// several says whether the object takes several writes. Where none has an effect they do not build on each
// other.
func (f *foresight) several() bool { return f != nil && (f.adopted || f.fence != nil) }

// together is what several writes come to. last is what the last makes of the object alone; nil where that was
// refused, as what the others take away was still there.
func (f *foresight) together(want, last *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out := last
	if last == nil {
		out = f.before
	}
	out = out.DeepCopy()
	if f.adopted {
		if err := leaveBehind(f.before, last, out); err != nil {
			return nil, err
		}
	}
	if last == nil {
		lay(want.Object, out.Object)
	}
	merge(out.Object, beyond(f.fence, want.Object))
	out.SetManagedFields(nil)
	out.SetResourceVersion(f.before.GetResourceVersion())
	return out, nil
}

// stays notes what the writes would make of the object, and says whether that is what it is already.
func (f *foresight) stays(now *unstructured.Unstructured) bool {
	f.after = now
	return !f.several() && reflect.DeepEqual(content(f.before), content(now))
}

// replaces notes what is made in the place of the object; nil: not known.
func (f *foresight) replaces(made *unstructured.Unstructured) {
	f.after = made
	if made == nil {
		f.untried = "the target cannot say now whether it would take it"
	}
}

func (f *foresight) reports(status map[string]any) { f.status = status }

// content is an object without what a write changes that changes nothing else.
func content(o *unstructured.Unstructured) map[string]any {
	out := o.DeepCopy()
	out.SetResourceVersion("")
	for _, m := range maps(out.Object, "metadata", "managedFields") {
		delete(m, "time")
	}
	return out.Object
}

// leaveBehind removes what Lifeboat alone had set and does not apply any more: the apply that comes after
// adopt does so. Where now is nil, nothing counts as applied.
func leaveBehind(before, now, after *unstructured.Unstructured) error {
	had, keeps := fieldpath.NewSet(), fieldpath.NewSet()
	ours := func(m metav1.ManagedFieldsEntry) bool { return m.Manager == kube.FieldManager && m.Subresource == "" }
	entries := before.GetManagedFields()
	for _, m := range entries {
		if ours(m) {
			if err := read(had, m); err != nil {
				return err
			}
		}
	}
	if now != nil {
		entries = now.GetManagedFields()
	}
	for _, m := range entries {
		if !ours(m) || now != nil && m.Operation == metav1.ManagedFieldsOperationApply {
			if err := read(keeps, m); err != nil {
				return err
			}
		}
	}
	had.Difference(keeps).Iterate(func(p fieldpath.Path) {
		if !holds(keeps, p) {
			forget(after.Object, p)
		}
	})
	return nil
}

// holds says whether any field below a path is in a set.
func holds(s *fieldpath.Set, path fieldpath.Path) bool {
	for _, part := range path {
		var ok bool
		if s, ok = s.Children.Get(part); !ok {
			return false
		}
	}
	return !s.Empty()
}

// read adds the fields that somebody has set.
func read(into *fieldpath.Set, m metav1.ManagedFieldsEntry) error {
	var s fieldpath.Set
	if m.FieldsV1 == nil {
		return nil
	}
	if err := s.FromJSON(m.FieldsV1.GetRawReader()); err != nil {
		return fmt.Errorf("reading who has set which field: %w", err)
	}
	*into = *into.Union(&s)
	return nil
}

// forget removes one field from what holds it, and returns that.
func forget(holder any, path fieldpath.Path) any {
	switch h := holder.(type) {
	case map[string]any:
		if path[0].FieldName == nil {
			return h
		}
		name := *path[0].FieldName
		if len(path) == 1 {
			delete(h, name)
		} else if v, there := h[name]; there {
			h[name] = forget(v, path[1:])
		}
	case []any:
		i := slices.IndexFunc(h, func(e any) bool { return names(path[0], e) })
		if i >= 0 && len(path) == 1 {
			return slices.Delete(h, i, i+1)
		} else if i >= 0 {
			h[i] = forget(h[i], path[1:])
		}
	}
	return holder
}

// names says whether an element of a list is the one that a path leads to.
func names(p fieldpath.PathElement, e any) bool {
	if p.Value != nil {
		return equalScalar((*p.Value).Unstructured(), e)
	}
	m, ok := e.(map[string]any)
	if p.Key == nil || !ok {
		return false
	}
	for _, f := range *p.Key {
		if v, there := m[f.Name]; there && !equalScalar(f.Value.Unstructured(), v) {
			return false
		}
	}
	return true
}

// lay puts what is wanted over what is there, the elements of lists by what names them.
func lay(want, over map[string]any) {
	for k, w := range want {
		switch x := w.(type) {
		case map[string]any:
			if m, ok := over[k].(map[string]any); ok {
				lay(x, m)
				continue
			}
		case []any:
			if l, ok := over[k].([]any); ok {
				over[k] = layList(x, l)
				continue
			}
		}
		over[k] = w
	}
}

func layList(want, over []any) []any {
	by := diff.Identity(want, over)
	if by == nil || len(want) == 0 {
		return want
	}
	for _, w := range want {
		i := slices.IndexFunc(over, func(o any) bool { return by(o) == by(w) })
		if i < 0 {
			over = append(over, w)
			continue
		}
		lay(w.(map[string]any), over[i].(map[string]any)) //nolint:forcetypeassert // Identity is of maps
	}
	return over
}

// merge carries out a merge patch.
func merge(o, patch map[string]any) {
	for k, v := range patch {
		inner, ok := v.(map[string]any)
		switch {
		case v == nil:
			delete(o, k)
		case !ok:
			o[k] = v
		default:
			if _, holds := o[k].(map[string]any); !holds {
				o[k] = map[string]any{}
			}
			merge(o[k].(map[string]any), inner)  //nolint:forcetypeassert // made so above
			if len(o[k].(map[string]any)) == 0 { //nolint:forcetypeassert // as above
				delete(o, k)
			}
		}
	}
}

// beyond is the part of a merge patch that says nothing of the fields that want sets.
func beyond(patch, want map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range patch {
		inner, holds := v.(map[string]any)
		if w, set := want[k]; !set {
			out[k] = v
		} else if m, ok := w.(map[string]any); ok && holds {
			out[k] = beyond(inner, m)
		}
	}
	return out
}
