// Package population fills a cluster with realistic objects, the same ones for the same numbers: half
// ConfigMaps, a fifth Secrets, and of the rest equal parts of Deployments, Services, ServiceAccounts, Roles,
// RoleBindings and custom resources with a status; bodies of 1 KiB.
package population

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group of the custom resources.
const Group = "population.example.com"

// bodyBytes is the size of what an object carries.
const bodyBytes = 1 << 10

// Spec says how many objects there are, and where.
type Spec struct {
	Objects    int
	Namespaces int    // over which they are spread; default 5
	Prefix     string // of the namespaces' names; default "pop"
}

// Object is one of a population. Its body has a status where Status is true, which is written through the
// subresource.
type Object struct {
	Resource schema.GroupVersionResource
	Body     *unstructured.Unstructured
	Status   bool
}

// Names returns the names of the namespaces.
func (s Spec) Names() []string {
	n, prefix := s.Namespaces, s.Prefix
	if n == 0 {
		n = 5
	}
	if prefix == "" {
		prefix = "pop"
	}
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// Definition is the CRD of the custom resources.
func Definition() *unstructured.Unstructured {
	return object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "widgets."+Group, map[string]any{"spec": map[string]any{
		"group": Group, "scope": "Namespaced",
		"names": map[string]any{"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
		"versions": []any{map[string]any{
			"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
				"spec": map[string]any{"type": "object", "properties": map[string]any{
					"size": map[string]any{"type": "integer"}, "text": map[string]any{"type": "string"},
				}},
				"status": map[string]any{"type": "object", "properties": map[string]any{
					"observedGeneration": map[string]any{"type": "integer"}, "phase": map[string]any{"type": "string"},
				}},
			}}},
		}},
	}})
}

// turn is how many objects follow each other of which half are ConfigMaps and a fifth are Secrets.
const turn = 10

// At returns the object of a number from 0.
func (s Spec) At(i int) Object {
	names := s.Names()
	ns := names[i/turn%len(names)]
	name := fmt.Sprintf("object-%06d", i)
	switch i % turn {
	case 0, 2, 4, 6, 8:
		return Object{Resource: core("configmaps"), Body: object("v1", "ConfigMap", ns, name, map[string]any{
			"data": map[string]any{"application.properties": text(i, bodyBytes)},
		})}
	case 1, 5:
		return Object{Resource: core("secrets"), Body: object("v1", "Secret", ns, name, map[string]any{
			"type": "Opaque", "data": map[string]any{"token": base64.StdEncoding.EncodeToString(noise(i, bodyBytes*3/4))},
		})}
	}
	// Three numbers of ten are left for six kinds.
	return other((i/turn*3+i%turn/4)%6, i, ns, name)
}

func other(kind, i int, ns, name string) Object {
	switch kind {
	case 0:
		return Object{Resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, Body: deployment(i, ns, name)}
	case 1:
		return Object{Resource: core("services"), Body: object("v1", "Service", ns, name, map[string]any{"spec": map[string]any{
			"selector": map[string]any{"app": name}, "ports": []any{map[string]any{"name": "http", "port": int64(80), "targetPort": int64(8080)}},
		}})}
	case 2:
		return Object{Resource: core("serviceaccounts"), Body: object("v1", "ServiceAccount", ns, name, map[string]any{})}
	case 3:
		return Object{Resource: rbac("roles"), Body: object("rbac.authorization.k8s.io/v1", "Role", ns, name, map[string]any{"rules": []any{
			map[string]any{"apiGroups": []any{""}, "resources": []any{"configmaps", "secrets"}, "verbs": []any{"get", "list", "watch"}},
			map[string]any{"apiGroups": []any{"apps"}, "resources": []any{"deployments"}, "verbs": []any{"get", "patch"}},
		}})}
	case 4:
		return Object{Resource: rbac("rolebindings"), Body: object("rbac.authorization.k8s.io/v1", "RoleBinding", ns, name, map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": name, "namespace": ns}},
		})}
	}
	return Object{Status: true, Resource: schema.GroupVersionResource{Group: Group, Version: "v1", Resource: "widgets"},
		Body: object(Group+"/v1", "Widget", ns, name, map[string]any{
			"spec":   map[string]any{"size": int64(i), "text": text(i, bodyBytes)},
			"status": map[string]any{"phase": "Ready", "observedGeneration": int64(1)},
		})}
}

func deployment(i int, ns, name string) *unstructured.Unstructured {
	labels := map[string]any{"app": name}
	return object("apps/v1", "Deployment", ns, name, map[string]any{"spec": map[string]any{
		"replicas": int64(2), "selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
			"serviceAccountName": "default",
			"containers": []any{map[string]any{
				"name": "main", "image": "registry.example.com/" + name + ":1",
				"env":       []any{map[string]any{"name": "OPTIONS", "value": text(i, bodyBytes/2)}},
				"ports":     []any{map[string]any{"containerPort": int64(8080)}},
				"resources": map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "128Mi"}},
			}},
		}},
	}})
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func rbac(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: resource}
}

func object(version, kind, ns, name string, fields map[string]any) *unstructured.Unstructured {
	meta := map[string]any{"name": name}
	if ns != "" {
		meta["namespace"] = ns
		meta["labels"] = map[string]any{"app": "population", "tier": fmt.Sprint(len(name) % 3)}
	}
	fields["apiVersion"], fields["kind"], fields["metadata"] = version, kind, meta
	return &unstructured.Unstructured{Object: fields}
}

// noise is bytes that do not compress.
func noise(seed, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 17))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

// text is lines of settings, as files of configuration have them: half words, half values that differ.
func text(seed, n int) string {
	words := [...]string{"server", "timeout", "retries", "endpoint", "enabled", "maximum", "cache", "pool", "level", "region"}
	r := rand.New(rand.NewPCG(uint64(seed), 23))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s.%s.%s=%x\n", words[r.IntN(len(words))], words[r.IntN(len(words))], words[r.IntN(len(words))], r.Uint64())
	}
	return b.String()[:n]
}
