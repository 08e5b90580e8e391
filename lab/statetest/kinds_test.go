package statetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/kube"
)

// Custom resources wait for their CRD to be served, however many kinds there are.
func TestCustomResourcesBeforeTheirKind(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns, n = "kinds-new", 5
	docs := []string{emptyNamespace}
	for i := range n {
		docs = append(docs, definition(ns, fmt.Sprintf("Kind%c", 'a'+i), "v1", "v1beta1"))
	}
	for i := range n {
		docs = append(docs, fmt.Sprintf("{apiVersion: @NS@.example.com/v1, kind: Kind%c, metadata: {name: one, namespace: @NS@}, spec: {count: %d}}", 'a'+i, i))
	}
	v := move(t, east, west, ns, strings.Join(docs, "\n---\n"))
	v.apply()
	for i := range n {
		if got := v.field(fmt.Sprintf("%s.example.com/v1/Kind%c/one", ns, 'a'+i), "spec.count"); got != int64(i) {
			t.Errorf("Kind%c: %v", 'a'+i, got)
		}
	}
	v.verify()
	v.twice()
}

// A kind that was stored in several versions in its life.
func TestCustomResourcesOfSeveralVersions(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "kinds-versions"
	crd := "apiextensions.k8s.io/v1/CustomResourceDefinition/llamas." + ns + ".example.com"
	create(t, east, ns, emptyNamespace+"---\n"+definition(ns, "Llama", "v1alpha1", "v1")+`
---
{apiVersion: @NS@.example.com/v1alpha1, kind: Llama, metadata: {name: old, namespace: @NS@}, spec: {a: b}}`)
	// Now v1 is stored, and v1alpha1 is not served any more: the old object is read as v1 all the same.
	patch(t, east, "", crd, strings.ReplaceAll(definitionVersions("v1", "v1alpha1"), `name: v1alpha1, served: true`, `name: v1alpha1, served: false`))
	eventually(t, "the old version to be gone", func() (bool, string) {
		m, _ := captured(t, east, ns)
		doc := string(m.docs["namespaces/"+ns+"/"+ns+".example.com/llamas/old.json"])
		return strings.Contains(doc, `example.com/v1"`) && !strings.Contains(doc, "v1alpha1"), doc
	})
	v := moving(t, east, west, ns)
	v.apply()
	if got := v.field(ns+".example.com/v1/Llama/old", "spec.a"); got != "b" {
		t.Errorf("spec.a is %v", got)
	}
	v.verify()
}

// definitionVersions is the part of a CRD that says its versions, the first of which is stored.
func definitionVersions(versions ...string) string {
	_, list, _ := strings.Cut(definition("x", "X", versions...), "versions: ")
	return "spec: {versions: " + strings.TrimSuffix(list, "}")
}

// A CRD that no API server takes is named before anything is changed.
func TestCRDThatIsNotServable(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	for name, change := range map[string]struct{ from, to, why string }{
		"keeps-unknown":  {`spec: {group`, `spec: {preserveUnknownFields: true, group`, "preserveUnknownFields"},
		"not-structural": {`properties: {`, `properties: {bad: {anyOf: [{type: string}]},`, "bad"},
		"no-storage":     {`storage: true`, `storage: false`, "storage"},
		"no-schema":      {`schema: {openAPIV3Schema:`, `unknown: {openAPIV3Schema:`, "schema"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := "crd-" + name
			v := move(t, east, west, ns, emptyNamespace+"---\n"+definition(ns, "Yak", "v1")+`
---
{apiVersion: @NS@.example.com/v1, kind: Yak, metadata: {name: one, namespace: @NS@}}`)
			path := "cluster/apiextensions.k8s.io/customresourcedefinitions/yaks." + ns + ".example.com.json"
			// No API server of today keeps such a one: the document is made as an older one would have.
			yaml := strings.Replace(definition(ns, "Yak", "v1"), change.from, change.to, 1)
			v.m.docs[path] = asJSON(t, yaml)
			v.set = loaded(t, v.m)
			v.blocked("CustomResourceDefinition yaks."+ns+".example.com", change.why)
		})
	}
}

// A CRD whose names another one has at the target is given up at once, and by name.
func TestCRDWhoseNamesAreTaken(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "crd-names"
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+"\n---\n"+definition(ns, "Emu", "v1")+`
---
{apiVersion: @NS@.example.com/v1, kind: Emu, metadata: {name: one, namespace: @NS@}}`)
	create(t, west, ns, strings.ReplaceAll(definition(ns, "Emu", "v1"), "emus", "birds"))
	eventually(t, "the other CRD to have the names", func() (bool, string) {
		return kube.Ready(get(t, west, "", "apiextensions.k8s.io/v1/CustomResourceDefinition/birds."+ns+".example.com"))
	})
	began := time.Now()
	out, err := v.set.Apply(deadline(t), west, v.opts, nil)
	if err == nil || len(out.Problems) != 2 {
		t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	names(t, out.Problems, "CustomResourceDefinition emus."+ns, "names are taken")
	names(t, out.Problems, "Emu "+ns+"/one", "needs CustomResourceDefinition")
	if took := time.Since(began); took > v.opts.GateTimeout/2 {
		t.Errorf("waited %s for what cannot be", took)
	}
	if !v.there("v1/ConfigMap/settings") {
		t.Error("the rest did not go on")
	}
}

// The target serves another version of the kind, or none.
func TestVersionThatTheTargetDoesNotServe(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	t.Run("another", func(t *testing.T) {
		t.Parallel()
		const ns = "version-other"
		v := move(t, east, west, ns, emptyNamespace+"---\n"+definition(ns, "Gnu", "v2")+`
---
{apiVersion: @NS@.example.com/v2, kind: Gnu, metadata: {name: one, namespace: @NS@}, spec: {a: b}}`)
		create(t, west, ns, definition(ns, "Gnu", "v1"))
		served(t, west, ns+".example.com/v1")
		out := v.apply()
		names(t, out.Notes, "Gnu "+ns+"/one", "version v1, not v2")
		if got := v.field(ns+".example.com/v1/Gnu/one", "spec.a"); got != "b" {
			t.Errorf("spec.a is %v", got)
		}
		v.verify()
		v.twice()
	})
	t.Run("another that lacks a field", func(t *testing.T) {
		t.Parallel()
		const ns = "version-fields"
		v := move(t, east, west, ns, emptyNamespace+"---\n"+definition(ns, "Gnu", "v2")+`
---
{apiVersion: @NS@.example.com/v2, kind: Gnu, metadata: {name: one, namespace: @NS@}, spec: {color: grey, horns: 2}}`)
		create(t, west, ns, strings.Replace(definition(ns, "Gnu", "v1"), "spec: {type: object, x-kubernetes-preserve-unknown-fields: true}", "spec: {type: object, properties: {color: {type: string}}}", 1))
		served(t, west, ns+".example.com/v1")
		v.blocked("Gnu "+ns+"/one", "version v1", "horns")
	})
	t.Run("the same version that lacks a field", func(t *testing.T) {
		t.Parallel()
		const ns = "version-pruned"
		v := move(t, east, west, ns, emptyNamespace+"---\n"+definition(ns, "Gnu", "v1")+`
---
{apiVersion: @NS@.example.com/v1, kind: Gnu, metadata: {name: one, namespace: @NS@}, spec: {color: grey, horns: 2}}`)
		create(t, west, ns, strings.Replace(definition(ns, "Gnu", "v1"), "spec: {type: object, x-kubernetes-preserve-unknown-fields: true}", "spec: {type: object, properties: {color: {type: string}}}", 1))
		served(t, west, ns+".example.com/v1")
		v.refused("Gnu "+ns+"/one", "horns") // never silently without
		if v.there(ns + ".example.com/v1/Gnu/one") {
			t.Error("it was restored without the field")
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		const ns = "version-none"
		v := move(t, east, west, ns, emptyNamespace+"---\n"+definition(ns, "Gnu", "v1")+`
---
{apiVersion: @NS@.example.com/v1, kind: Gnu, metadata: {name: one, namespace: @NS@}}`)
		delete(v.m.docs, "cluster/apiextensions.k8s.io/customresourcedefinitions/gnus."+ns+".example.com.json") // it was not allowed to be read
		v.recount()
		v.blocked("does not serve kind Gnu", "Gnu "+ns+"/one")
	})
	t.Run("an API that was taken away", func(t *testing.T) {
		t.Parallel()
		const ns = "version-removed"
		v := move(t, east, west, ns, emptyNamespace)
		v.m.docs["namespaces/"+ns+"/policy/podsecuritypolicies/x.json"] = asJSON(t, "{apiVersion: policy/v1beta1, kind: PodSecurityPolicy, metadata: {name: x}}")
		v.m.docs["namespaces/"+ns+"/networking.k8s.io/ingresses/web.json"] = asJSON(t, `{apiVersion: networking.k8s.io/v1beta1, kind: Ingress, metadata: {name: web, namespace: version-removed},
			spec: {rules: [{host: a.example.com, http: {paths: [{path: /, backend: {serviceName: web, servicePort: 80}}]}}]}}`)
		v.recount()
		v.blocked("does not serve kind PodSecurityPolicy.policy", "PodSecurityPolicy x")
		v.blocked("Ingress "+ns+"/web", "version v1", "field not declared")
	})
}
