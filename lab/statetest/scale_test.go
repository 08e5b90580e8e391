package statetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
)

// checkpoint is one made by hand.
func checkpoint(t *testing.T, namespaces []string, objects ...map[string]any) *memory {
	t.Helper()
	m := newMemory()
	for i, o := range objects {
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		m.docs[fmt.Sprintf("%05d.json", i)] = raw
	}
	meta, err := json.Marshal(restore.Meta{Namespaces: namespaces, Objects: len(objects)})
	if err != nil {
		t.Fatal(err)
	}
	m.docs["meta.json"] = meta
	return m
}

func object(kind, ns, name string, fields map[string]any) map[string]any {
	meta := map[string]any{"name": name}
	if ns != "" {
		meta["namespace"] = ns
	}
	out := map[string]any{"apiVersion": "v1", "kind": kind, "metadata": meta}
	maps.Copy(out, fields)
	return out
}

// versions are the resource versions of what is in a namespace.
func versions(t *testing.T, c *kube.Client, ns string) map[string]string {
	t.Helper()
	out := map[string]string{}
	list, err := c.Typed.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		out[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return out
}

// A list of many pages among objects of others: what is done costs no write, what is missing or differs is
// mended, and what is not ours stays.
func TestManyObjects(t *testing.T) {
	slow(t)
	t.Parallel()
	_, west := connect(t)
	const ns = "many"
	objects := []map[string]any{object("Namespace", "", ns, nil)}
	for i := range 700 {
		objects = append(objects, object("ConfigMap", ns, fmt.Sprintf("c%03d", i), map[string]any{"data": map[string]any{"i": fmt.Sprint(i)}}))
	}
	set, opts := loaded(t, checkpoint(t, []string{ns}, objects...)), options(ns)
	out, err := set.Apply(t.Context(), west, opts, nil)
	if err != nil || out.Created != len(objects) {
		t.Fatalf("%d created, %v", out.Created, err)
	}
	for i := range 600 {
		create(t, west, ns, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: b%03d, namespace: @NS@}}", i))
	}
	before := versions(t, west, ns)
	nothingChanges(t, set, west, opts)
	if after := versions(t, west, ns); !maps.Equal(before, after) {
		t.Error("something was written")
	}
	patch(t, west, ns, "v1/ConfigMap/c400", "data: {i: another}")
	r, name := resource(t, west, ns, "v1/ConfigMap/c500")
	if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	found, err := set.Verify(t.Context(), west, opts)
	if err != nil || !slices.Equal(found.Problems, []string{"ConfigMap many/c400: data.i differs", "ConfigMap many/c500: missing"}) || found.Unchanged != 699 {
		t.Errorf("%+v, %v", found, err)
	}
	sum, err := set.DryRun(t.Context(), west, opts, nil, func(restore.Foreseen) error { return nil })
	if err != nil || sum.Counts[restore.Created] != 1 || sum.Counts[restore.Changed] != 1 || sum.Counts[restore.Unchanged] != 699 {
		t.Errorf("%+v, %v", sum, err)
	}
	out, err = set.Apply(t.Context(), west, opts, nil)
	if err != nil || out.Created != 1 || out.Updated != 1 || out.Unchanged != 699 {
		t.Errorf("%+v, %v", out, err)
	}
	if n := len(versions(t, west, ns)); n != 1300 {
		t.Errorf("%d ConfigMaps", n)
	}
}

// What a restore made, a later one changes as if it had been applied: what is not wanted any more goes, and
// what others added stays.
func TestLaterPointOverAnEarlierOne(t *testing.T) {
	t.Parallel()
	_, west := connect(t)
	const ns = "later"
	point := func(data map[string]any) *restore.Set {
		return loaded(t, checkpoint(t, []string{ns}, object("Namespace", "", ns, nil), object("ConfigMap", ns, "c", map[string]any{"data": data})))
	}
	opts := options(ns)
	if _, err := point(map[string]any{"a": "1", "b": "1"}).Apply(t.Context(), west, opts, nil); err != nil {
		t.Fatal(err)
	}
	patch(t, west, ns, "v1/ConfigMap/c", "data: {theirs: kept}")
	later := point(map[string]any{"a": "2"})
	out, err := later.Apply(t.Context(), west, opts, nil)
	if err != nil || out.Updated != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	obj := get(t, west, ns, "v1/ConfigMap/c")
	if got := fmt.Sprint(obj.Object["data"]); got != "map[a:2 theirs:kept]" {
		t.Errorf("data %s", got)
	}
	for _, f := range obj.GetManagedFields() {
		if f.Manager == kube.FieldManager && f.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("fields of Lifeboat's by %s", f.Operation)
		}
	}
	nothingChanges(t, later, west, opts)
}

// Large objects are restored and compared a few at a time.
func TestLargeObjects(t *testing.T) {
	slow(t)
	t.Parallel()
	_, west := connect(t)
	const ns, n = "large", 40
	objects := []map[string]any{object("Namespace", "", ns, nil)}
	for i := range n {
		objects = append(objects, object("ConfigMap", ns, fmt.Sprintf("c%02d", i), map[string]any{"data": map[string]any{"x": strings.Repeat(fmt.Sprint(i%10), 1_000_000)}}))
	}
	set, opts := loaded(t, checkpoint(t, []string{ns}, objects...)), options(ns)
	if out, err := set.Apply(t.Context(), west, opts, nil); err != nil || out.Created != n+1 {
		t.Fatalf("%d created, %v", out.Created, err)
	}
	nothingChanges(t, set, west, opts)
	if out, err := set.Verify(t.Context(), west, opts); err != nil || out.Unchanged != n+1 {
		t.Errorf("%d as they should be, problems %.500v, error %v", out.Unchanged, out.Problems, err)
	}
	if got := get(t, west, ns, "v1/ConfigMap/c07"); len(fmt.Sprint(field(got, "data.x"))) != 1_000_000 {
		t.Error("it was cut")
	}
}

// An owner that is found by a list is the owner of what is applied after it.
func TestOwnersAmongMany(t *testing.T) {
	slow(t)
	t.Parallel()
	_, west := connect(t)
	const ns = "owners"
	objects := []map[string]any{object("Namespace", "", ns, nil)}
	for i := range 20 {
		uid := types.UID(fmt.Sprintf("old-%02d", i))
		owner := object("ConfigMap", ns, fmt.Sprintf("owner%02d", i), nil)
		owned := object("Secret", ns, fmt.Sprintf("owned%02d", i), nil)
		(&unstructured.Unstructured{Object: owner}).SetUID(uid)
		(&unstructured.Unstructured{Object: owned}).SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: fmt.Sprintf("owner%02d", i), UID: uid}})
		objects = append(objects, owner, owned)
	}
	set, opts := loaded(t, checkpoint(t, []string{ns}, objects...)), options(ns)
	for range 2 { // the second time the owners are there, and a Secret is not
		if _, err := set.Apply(t.Context(), west, opts, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			refs := get(t, west, ns, fmt.Sprintf("v1/Secret/owned%02d", i)).GetOwnerReferences()
			if uid := get(t, west, ns, fmt.Sprintf("v1/ConfigMap/owner%02d", i)).GetUID(); len(refs) != 1 || refs[0].UID != uid {
				t.Errorf("owners %v, want %s", refs, uid)
			}
		}
		r, name := resource(t, west, ns, "v1/Secret/owned07")
		if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := set.Apply(t.Context(), west, opts, nil); err != nil {
		t.Fatal(err)
	}
	nothingChanges(t, set, west, opts)
	if out, err := set.Verify(t.Context(), west, opts); err != nil || len(out.Problems) > 0 {
		t.Errorf("problems %v, error %v", out.Problems, err)
	}
}
