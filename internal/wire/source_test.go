package wire

import (
	"bytes"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

func TestLargeDocumentsAreReadFromTheRepository(t *testing.T) {
	t.Parallel()
	r, err := repo.Init(t.Context(), blob.NewMem(), []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDocuments(t.Context(), r, repo.NewDocumentTree())
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, doc []byte) {
		if _, err := d.Put(t.Context(), path, doc); err != nil {
			t.Fatal(err)
		}
	}
	sizes := map[string]int{"small": 10, "large": 200_000, "huge": 2_000_000}
	for name, size := range sizes {
		put("namespaces/shop/core/secrets/"+name+".json", fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q,"namespace":"shop"},"data":{"a":"%s"}}`,
			name, bytes.Repeat([]byte(name[:1]), size)))
	}
	put("meta.json", []byte(`{"objects":3,"namespaces":["shop"]}`))
	id, err := d.snapshot(t.Context(), repo.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	set, err := restore.Load(t.Context(), Stored(r, id.String()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := set.Prepare(t.Context(), restore.Options{Application: "shop", From: dr.Site{Name: "east"}, To: dr.Site{Name: "west"}})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Each(t.Context(), func(o *unstructured.Unstructured) error {
		data, _, _ := unstructured.NestedString(o.Object, "data", "a")
		if len(data) != sizes[o.GetName()] {
			t.Errorf("%s came back with %d bytes, not %d", o.GetName(), len(data), sizes[o.GetName()])
		}
		delete(sizes, o.GetName())
		return nil
	})
	if err != nil || len(sizes) > 0 {
		t.Errorf("error %v, missing %v", err, sizes)
	}
}
