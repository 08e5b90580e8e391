package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// metaPath is where a checkpoint describes itself.
const metaPath = "meta.json"

// Source gives the documents of a checkpoint, in any order.
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

// Set is a checkpoint in memory. It is not changed by anything done with it.
type Set struct {
	Meta    Meta
	objects []*unstructured.Unstructured // in order of key
	byKey   map[key]*unstructured.Unstructured
	byUID   map[types.UID]key
	// definitions are the CRDs, by the kind that they define.
	definitions map[gk]*unstructured.Unstructured
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
	return strings.Compare(k.sortable(), other.sortable())
}

func (k key) sortable() string {
	return strings.Join([]string{k.Namespace, k.Group, k.Kind, k.Name}, "\x00")
}

// Load reads a checkpoint. One without a description did not end, and is refused.
func Load(ctx context.Context, source Source) (*Set, error) {
	s := &Set{byKey: map[key]*unstructured.Unstructured{}, byUID: map[types.UID]key{}, definitions: map[gk]*unstructured.Unstructured{}}
	described := false
	err := source.Walk(ctx, func(path string, doc []byte) error {
		if path == metaPath {
			described = true
			return json.NewDecoder(bytes.NewReader(doc)).Decode(&s.Meta)
		}
		return s.add(path, doc)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	if !described {
		return nil, fmt.Errorf("reading the checkpoint: it has no %s, so its capture did not end", metaPath)
	}
	if len(s.objects) != s.Meta.Objects {
		return nil, fmt.Errorf("reading the checkpoint: it holds %d objects, but %d were captured", len(s.objects), s.Meta.Objects)
	}
	slices.SortFunc(s.objects, func(a, b *unstructured.Unstructured) int { return keyOf(a).compare(keyOf(b)) })
	return s, nil
}

func (s *Set) add(path string, doc []byte) error {
	var m map[string]any
	if err := utiljson.Unmarshal(doc, &m); err != nil { // whole numbers stay whole
		return fmt.Errorf("%s: %w", path, err)
	}
	obj := &unstructured.Unstructured{Object: m}
	k := keyOf(obj)
	if k.Kind == "" || k.Name == "" {
		return fmt.Errorf("%s: not a Kubernetes object", path)
	}
	if _, twice := s.byKey[k]; twice {
		return fmt.Errorf("%s: %s is there twice", path, k)
	}
	s.objects = append(s.objects, obj)
	s.byKey[k] = obj
	if uid := obj.GetUID(); uid != "" {
		s.byUID[uid] = k
	}
	if k.GroupKind == crdKind {
		s.definitions[gk{Group: str(m, "spec", "group"), Kind: str(m, "spec", "names", "kind")}] = obj
	}
	return nil
}

// Len is the number of objects.
func (s *Set) Len() int { return len(s.objects) }
