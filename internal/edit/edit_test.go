package edit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"lifeboat.dev/lifeboat/internal/dr"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestMatches(t *testing.T) {
	t.Parallel()
	deployment := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	labels := map[string]string{"tier": "front"}
	for _, c := range []struct {
		s    dr.Selector
		want bool
	}{
		{dr.Selector{}, true},
		{dr.Selector{Kinds: []string{"Deployment"}}, true},
		{dr.Selector{Kinds: []string{"deployments"}}, true},
		{dr.Selector{Kinds: []string{"deploy"}}, true},
		{dr.Selector{Kinds: []string{"deployment.apps"}}, true},
		{dr.Selector{Kinds: []string{"Deployments.apps"}}, true},
		{dr.Selector{Kinds: []string{"deployment.extensions"}}, false},
		{dr.Selector{Kinds: []string{"cm", "Secret"}}, false},
		{dr.Selector{Namespaces: []string{"shop"}}, true},
		{dr.Selector{Namespaces: []string{"sho*"}}, false},
		{dr.Selector{Names: []string{"we?"}}, true},
		{dr.Selector{Names: []string{"db", "w*"}}, true},
		{dr.Selector{Names: []string{"web-*"}}, false},
		{dr.Selector{Labels: "tier in (front, back),!legacy"}, true},
		{dr.Selector{Labels: "tier=back"}, false},
		{dr.Selector{Namespaces: []string{"shop"}, Kinds: []string{"deploy"}, Names: []string{"web"}, Labels: "tier=front"}, true},
		{dr.Selector{Namespaces: []string{"shop"}, Kinds: []string{"deploy"}, Names: []string{"web"}, Labels: "tier=back"}, false},
	} {
		m, err := NewMatcher(c.s)
		if err != nil {
			t.Errorf("%+v: %v", c.s, err)
			continue
		}
		if got := m.Matches(deployment, "shop", "web", labels); got != c.want {
			t.Errorf("%+v: %v, want %v", c.s, got, c.want)
		}
	}
	m, err := NewMatcher(dr.Selector{Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	if !m.Matches(schema.GroupKind{Kind: "Namespace"}, "", "shop", nil) || m.Matches(schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}, "", "shop", nil) {
		t.Error("a namespace is in itself; other cluster-scoped objects are in none")
	}
	for _, s := range []dr.Selector{{Kinds: []string{""}}, {Kinds: []string{"a/b"}}, {Names: []string{"["}}, {Names: []string{""}}, {Labels: "a in b"}} {
		if _, err := NewMatcher(s); err == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {tier: front}},
spec: {replicas: 3, big: 9007199254740993, template: {spec: {containers: [{name: web, image: "a:1", env: [{name: A, value: b}]}]}}}}`

func TestApply(t *testing.T) {
	t.Parallel()
	ctx := Context{Application: "shop", From: dr.Site{Name: "east"}, To: dr.Site{Name: "west", Region: "westus", Ingress: dr.Ingress{Domain: "apps.west"}}}
	set := func(path, value string) dr.Transform {
		return dr.Transform{Name: "t", Set: []dr.Setting{{Path: path, Value: value}}}
	}
	patch := func(ops ...dr.PatchOperation) dr.Transform { return dr.Transform{Name: "t", Patch: ops} }
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct {
		name string
		t    dr.Transform
		want string // the notes, joined
	}{
		{"half the replicas", set("/spec/replicas", "object.spec.replicas / 2"), "spec.replicas: 3 becomes 1 by transform t"},
		{"a whole number stays whole", set("/spec/twice", "object.spec.big"), "spec.twice becomes 9007199254740993 by transform t"},
		{"what the target is", set("/metadata/annotations/at", "to.name + '/' + to.region + ' of ' + application + ' from ' + from.name"), `metadata.annotations becomes {"at":"west/westus of shop from east"} by transform t`},
		{"a key with a slash", set("/metadata/labels/a~1b", "'c'"), "metadata.labels[a/b] becomes c by transform t"},
		{"null removes", set("/metadata/labels/tier", "null"), "metadata.labels.tier is removed by transform t"},
		{"nothing to remove", set("/spec/no/where", "null"), ""},
		{"into a list", set("/spec/template/spec/containers/0/image", "object.spec.template.spec.containers[0].image.replace('a:', 'b:')"), "spec.template.spec.containers[web].image: a:1 becomes b:1 by transform t"},
		{"behind a list", set("/spec/template/spec/containers/0/env/-", "{'name': 'X', 'value': 'y'}"), `spec.template.spec.containers[web].env[X] becomes {"name":"X","value":"y"} by transform t`},
		{"a list and a map", set("/spec/x", "[1, 2.5, true, null, {'a': 'b'}]"), `spec.x becomes [1,2.5,true,null,{"a":"b"}] by transform t`},
		{"an optional field", set("/spec/x", "object.spec.?paused"), ""},
		{"when it fits", dr.Transform{Name: "t", When: "object.spec.replicas > 2", Set: []dr.Setting{{Path: "/spec/replicas", Value: "2"}}}, "spec.replicas: 3 becomes 2 by transform t"},
		{"when it does not", dr.Transform{Name: "t", When: "object.spec.replicas > 3", Set: []dr.Setting{{Path: "/spec/replicas", Value: "2"}}}, ""},
		{"another site", dr.Transform{Name: "t", Sites: []string{"north"}, Set: []dr.Setting{{Path: "/spec/replicas", Value: "2"}}}, ""},
		{"another kind", dr.Transform{Name: "t", Select: dr.Selector{Kinds: []string{"sts"}}, Set: []dr.Setting{{Path: "/spec/replicas", Value: "2"}}}, ""},
		{"a patch", patch(dr.PatchOperation{Op: "test", Path: "/spec/replicas", Value: raw("3")}, dr.PatchOperation{Op: "replace", Path: "/spec/replicas", Value: raw("1")},
			dr.PatchOperation{Op: "add", Path: "/metadata/labels/new", Value: raw(`"x"`)}, dr.PatchOperation{Op: "remove", Path: "/metadata/labels/tier"}),
			"metadata.labels.new becomes x by transform t; metadata.labels.tier is removed by transform t; spec.replicas: 3 becomes 1 by transform t"},
	} {
		ts, err := Compile([]dr.Transform{c.t})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		obj := object(t, deployment)
		notes, err := ts.Apply(obj, ctx)
		if got := strings.Join(notes, "; "); err != nil || got != c.want {
			t.Errorf("%s:\ngot  %s (%v)\nwant %s", c.name, got, err, c.want)
		}
		if c.want == "" && !reflect.DeepEqual(obj, object(t, deployment)) {
			t.Errorf("%s: changed without a word: %v", c.name, obj)
		}
		again := object(t, deployment)
		if _, err := ts.Apply(again, ctx); err != nil || !reflect.DeepEqual(again, obj) {
			t.Errorf("%s: a second time gives %v (%v)", c.name, again, err)
		}
	}
}

func TestApplyInOrder(t *testing.T) {
	t.Parallel()
	ts, err := Compile([]dr.Transform{
		{Name: "one", Set: []dr.Setting{{Path: "/spec/replicas", Value: "object.spec.replicas + 1"}}},
		{Name: "two", Set: []dr.Setting{{Path: "/spec/replicas", Value: "object.spec.replicas * 10"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	obj := object(t, deployment)
	notes, err := ts.Apply(obj, Context{})
	n, _, _ := unstructured.NestedInt64(obj.Object, "spec", "replicas")
	if err != nil || n != 40 || len(notes) != 2 {
		t.Errorf("%d replicas, %q, %v", n, notes, err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		t    dr.Transform
		want string
	}{
		{"neither", dr.Transform{Name: "t"}, "give either patch or set"},
		{"syntax", dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: "object.spec +"}}}, "set[0].value: 1:14: Syntax error"},
		{"unknown name", dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: "obj.spec"}}}, "undeclared reference to 'obj'"},
		{"no condition", dr.Transform{Name: "t", When: "1 + 1", Set: []dr.Setting{{Path: "/spec/x", Value: "1"}}}, "when: it gives int"},
		{"the clock", dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: "now()"}}}, "undeclared reference to 'now'"},
		{"no pointer", dr.Transform{Name: "t", Set: []dr.Setting{{Path: "spec.x", Value: "1"}}}, "set[0].path: \"spec.x\" is not a JSON pointer"},
		{"the name", dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/metadata/name", Value: "'x'"}}}, "says which object it is"},
		{"unknown op", dr.Transform{Name: "t", Patch: []dr.PatchOperation{{Op: "merge", Path: "/spec"}}}, `patch[0]: unknown op "merge"`},
		{"no value", dr.Transform{Name: "t", Patch: []dr.PatchOperation{{Op: "add", Path: "/spec/x"}}}, "add needs a value"},
		{"a selector", dr.Transform{Name: "t", Select: dr.Selector{Labels: "=("}, Set: []dr.Setting{{Path: "/spec/x", Value: "1"}}}, "select: "},
	} {
		_, err := Compile([]dr.Transform{c.t})
		if err == nil || !strings.HasPrefix(err.Error(), "transform t: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestApplyFails(t *testing.T) {
	t.Parallel()
	secret := `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, data: {key: YWFyZHZhcms=}}`
	for _, c := range []struct {
		name, object string
		t            dr.Transform
		want         string
	}{
		{"a field that is not there", deployment, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: "object.spec.nothing"}}}, "transform t: set[0].value: no such key: nothing"},
		{"through a number", deployment, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/replicas/x", Value: "1"}}}, "set[0].path: x leads through"},
		{"behind a list", deployment, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/template/spec/containers/7", Value: "1"}}}, "7 is no place in a list of 1"},
		{"a test that fails", deployment, dr.Transform{Name: "t", Patch: []dr.PatchOperation{{Op: "test", Path: "/spec/replicas", Value: json.RawMessage("4")}}}, "patch: testing"},
		{"a path that is not there", deployment, dr.Transform{Name: "t", Patch: []dr.PatchOperation{{Op: "remove", Path: "/spec/nothing"}}}, "patch: "},
		{"a renaming by move", deployment, dr.Transform{Name: "t", Patch: []dr.PatchOperation{{Op: "move", From: "/metadata/name", Path: "/spec/name"}}}, "another object"},
		{"work without end", deployment, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: huge()}}}, "cost limit"},
		{"a time", deployment, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/spec/x", Value: "timestamp('2026-01-01T00:00:00Z')"}}}, "has no place in an object"},
		{"a secret", secret, dr.Transform{Name: "t", Set: []dr.Setting{{Path: "/data/n", Value: "int(object.data.key)"}}}, "does not fit this Secret"},
	} {
		ts, err := Compile([]dr.Transform{c.t})
		if err == nil {
			_, err = ts.Apply(object(t, c.object), Context{})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "YWFy") {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// huge is an expression of ten to the eighth steps.
func huge() string {
	list := "[1,2,3,4,5,6,7,8,9,10]"
	e := "1"
	for _, v := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		e = list + ".map(" + v + ", " + e + ")"
	}
	return e
}
