package restore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"unique"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// metaPath is where a checkpoint describes itself.
const metaPath = "meta.json"

// Source gives the documents of a checkpoint, in any order. See Reader for one that has large ones.
type Source interface {
	Walk(ctx context.Context, fn func(path string, doc []byte) error) error
}

// Meta is what a checkpoint says of itself; capture writes it.
type Meta struct {
	Application         string   `json:"application"`
	Site                string   `json:"site"`
	ServerVersion       string   `json:"serverVersion"`
	Namespaces          []string `json:"namespaces"`
	Objects             int      `json:"objects"`
	DefaultStorageClass string   `json:"defaultStorageClass"`
	Missing             []string `json:"missing"`
}

// Set is a checkpoint in memory, its documents compressed. It is not changed by anything done with it.
type Set struct {
	Meta    Meta
	docs    *documents
	entries []entry           // in order of key
	owners  map[types.UID]int // by the UID that others refer to them by
	// outlines are what lookup gives of documents that are not kept.
	outlines map[int][]byte
	// definitions are the CRDs, by the kind that they define.
	definitions map[gk]*definition
}

// entry is what is kept in the open of an object.
type entry struct {
	key key
	ref reference
}

// definition is what a CRD says of the kind that it defines.
type definition struct {
	key    key // of the CRD
	served served
}

// key names an object whatever version it is served in.
type key struct {
	schema.GroupKind
	Namespace, Name string
}

func keyOf(o *unstructured.Unstructured) key {
	return key{GroupKind: o.GroupVersionKind().GroupKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
}

// String is how messages name an object: "Deployment shop/web".
func (k key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.Namespace, other.Namespace), cmp.Compare(k.Group, other.Group),
		cmp.Compare(k.Kind, other.Kind), cmp.Compare(k.Name, other.Name))
}

// Load reads a checkpoint. One without a description did not end, and is refused.
func Load(ctx context.Context, source Source) (*Set, error) {
	l := &loader{set: &Set{docs: newDocuments(source), definitions: map[gk]*definition{}}, referred: map[types.UID]bool{}}
	described := false
	err := source.Walk(ctx, func(path string, doc []byte) error {
		if path == metaPath {
			described = true
			return json.NewDecoder(bytes.NewReader(doc)).Decode(&l.set.Meta)
		}
		if err := l.add(path, doc); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	switch {
	case err != nil:
		err = fmt.Errorf("reading the checkpoint: %w", err)
	case !described:
		err = fmt.Errorf("reading the checkpoint: it has no %s, so its capture did not end", metaPath)
	case len(l.found) != l.set.Meta.Objects:
		err = fmt.Errorf("reading the checkpoint: it holds %d objects, but %d were captured", len(l.found), l.set.Meta.Objects)
	}
	if err != nil {
		return nil, err
	}
	return l.end()
}

// loader is a Set that is being read.
type loader struct {
	set      *Set
	found    []*found
	referred map[types.UID]bool // by owner references
}

type found struct {
	entry
	uid     types.UID
	outline []byte // of a document that is not kept
}

// header is the part of a document that says what it is.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace string    `json:"namespace"`
		Name      string    `json:"name"`
		UID       types.UID `json:"uid"`
		Owners    []struct {
			UID types.UID `json:"uid"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
}

func (l *loader) add(path string, doc []byte) error {
	var h header
	if err := utiljson.Unmarshal(doc, &h); err != nil {
		return err
	}
	if h.Kind == "" || h.Metadata.Name == "" {
		return fmt.Errorf("not a Kubernetes object")
	}
	kind := groupKind(h.APIVersion, h.Kind)
	kind.Group, kind.Kind = shared(kind.Group), shared(kind.Kind)
	f := &found{entry: entry{key: key{GroupKind: kind, Namespace: shared(h.Metadata.Namespace), Name: h.Metadata.Name}}, uid: h.Metadata.UID}
	if err := l.set.docs.add(kind.String(), path, doc, &f.ref); err != nil {
		return err
	}
	if f.ref.slab == notKept {
		if err := f.sketch(doc); err != nil {
			return err
		}
	}
	if kind == crdKind {
		if err := l.define(f.key, doc); err != nil {
			return err
		}
	}
	for _, owner := range h.Metadata.Owners {
		l.referred[owner.UID] = true
	}
	l.found = append(l.found, f)
	return nil
}

// shared gives the one copy of a string that many objects have in common.
func shared(s string) string { return unique.Make(s).Value() }

// sketch keeps what others may ask of an object whose document is not kept.
func (f *found) sketch(doc []byte) error {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(doc, &parts); err != nil {
		return err
	}
	for field := range parts {
		switch field {
		case "apiVersion", "kind", "metadata", "type":
		default:
			delete(parts, field)
		}
	}
	var err error
	f.outline, err = json.Marshal(parts)
	return err
}

func (l *loader) define(k key, doc []byte) error {
	crd, err := decode(doc)
	if err != nil {
		return err
	}
	d := &definition{key: k, served: served{resource: str(crd.Object, "spec", "names", "plural"), namespaced: str(crd.Object, "spec", "scope") == "Namespaced"}}
	for _, v := range maps(crd.Object, "spec", "versions") {
		if v["served"] == true {
			d.served.versions = append(d.served.versions, servedVersion{str(v, "name"), dig(v, "subresources", "status") != nil})
		}
	}
	l.set.definitions[gk{Group: str(crd.Object, "spec", "group"), Kind: str(crd.Object, "spec", "names", "kind")}] = d
	return nil
}

// end puts what was read in order.
func (l *loader) end() (*Set, error) {
	s := l.set
	if err := s.docs.seal(); err != nil {
		return nil, err
	}
	slices.SortFunc(l.found, func(a, b *found) int { return a.key.compare(b.key) })
	s.entries, s.owners, s.outlines = make([]entry, len(l.found)), map[types.UID]int{}, map[int][]byte{}
	for i, f := range l.found {
		if i > 0 && f.key == l.found[i-1].key {
			return nil, fmt.Errorf("reading the checkpoint: %s (%s) is there twice", f.key, f.key.GroupKind)
		}
		s.entries[i] = f.entry
		if l.referred[f.uid] {
			s.owners[f.uid] = i
		}
		if f.outline != nil {
			s.outlines[i] = f.outline
		}
	}
	return s, nil
}

// Len is the number of objects.
func (s *Set) Len() int { return len(s.entries) }

// find returns the index of an object, -1 where it was not captured.
func (s *Set) find(k key) int {
	if i, ok := slices.BinarySearchFunc(s.entries, k, func(e entry, k key) int { return e.key.compare(k) }); ok {
		return i
	}
	return -1
}

// ofKind returns the indexes of the objects of one kind in one namespace: from, and up to but not to.
func (s *Set) ofKind(kind gk, namespace string) (from, to int) {
	after := func(limit gk) func(entry, key) int {
		return func(e entry, k key) int {
			return cmp.Or(cmp.Compare(e.key.Namespace, k.Namespace), cmp.Compare(e.key.Group, limit.Group), cmp.Compare(e.key.Kind, limit.Kind))
		}
	}
	k := key{GroupKind: kind, Namespace: namespace}
	from, _ = slices.BinarySearchFunc(s.entries, k, after(kind))
	to, _ = slices.BinarySearchFunc(s.entries, k, after(gk{Group: kind.Group, Kind: kind.Kind + "\x00"}))
	return from, to
}

// object decodes an object. What is returned belongs to the caller.
func (s *Set) object(ctx context.Context, i int) (*unstructured.Unstructured, error) {
	doc, err := s.docs.get(ctx, s.entries[i].ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.entries[i].key, err)
	}
	o, err := decode(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.entries[i].key, err)
	}
	return o, nil
}

// lookup is how one object asks about another: nil where it was not captured. Of one whose document is
// large there are the metadata alone, and the type of a Secret.
func (s *Set) lookup(k key) *unstructured.Unstructured {
	i := s.find(k)
	if i < 0 {
		return nil
	}
	doc, err := s.outlines[i], error(nil)
	if doc == nil {
		doc, err = s.docs.unpack(s.entries[i].ref)
	}
	if err != nil {
		return nil // cannot be: it was packed here
	}
	o, err := decode(doc)
	if err != nil {
		return nil // its own restore says so
	}
	return o
}

func decode(doc []byte) (*unstructured.Unstructured, error) {
	var m map[string]any
	if err := utiljson.Unmarshal(doc, &m); err != nil { // whole numbers stay whole
		return nil, err
	}
	return &unstructured.Unstructured{Object: m}, nil
}
