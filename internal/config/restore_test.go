package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

const rules = `  namespaces: [shop, back]
  objectives: {rto: 5m, rpo: 30s}
  sites: {preferred: east, recovery: [west]}
  restore:
    transforms:
    - name: fewer
      select: {kinds: [Deployment], names: ["web*"], namespaces: [shop], labels: "tier=front"}
      sites: [west]
      when: object.spec.replicas > 2
      set:
      - {path: /spec/replicas, value: "2"}
    - name: patched
      patch:
      - {op: add, path: /metadata/labels/n, value: 007}
      - {op: test, path: /spec/paused, value: null}
      - {op: copy, from: /spec/a, path: /spec/b}
      - {op: replace, path: /spec/c, value: {big: 12345678901, list: [1, two, true]}}
    hooks:
    - name: quiesce
      when: before
      onFailure: warn
      repeatable: true
      exec: {namespace: shop, pods: app=db, container: db, command: [psql, -c, CHECKPOINT]}
    - name: migrate
      when: before-workloads
      timeout: 90s
      job: {namespace: back, image: registry.east/migrate:1, command: [migrate], env: {MODE: "yes"}, serviceAccount: web}
`

func TestRestoreRules(t *testing.T) {
	t.Parallel()
	f, err := Parse("/fleet.yaml", []byte(app+rules))
	if err != nil {
		t.Fatal(err)
	}
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	want := dr.RestoreRules{
		Transforms: []dr.Transform{
			{Name: "fewer", Select: dr.Selector{Kinds: []string{"Deployment"}, Names: []string{"web*"}, Namespaces: []string{"shop"}, Labels: "tier=front"},
				Sites: []string{"west"}, When: "object.spec.replicas > 2", Set: []dr.Setting{{Path: "/spec/replicas", Value: "2"}}},
			{Name: "patched", Patch: []dr.PatchOperation{{Op: "add", Path: "/metadata/labels/n", Value: raw("7")}, {Op: "test", Path: "/spec/paused", Value: raw("null")},
				{Op: "copy", From: "/spec/a", Path: "/spec/b"}, {Op: "replace", Path: "/spec/c", Value: raw(`{"big":12345678901,"list":[1,"two",true]}`)}}},
		},
		Hooks: []dr.Hook{
			{Name: "quiesce", When: dr.HookBefore, Timeout: DefaultHookTimeout, OnFailure: dr.FailureWarns, Repeatable: true,
				Exec: &dr.ExecHook{Namespace: "shop", Pods: "app=db", Container: "db", Command: []string{"psql", "-c", "CHECKPOINT"}}},
			{Name: "migrate", When: dr.HookBeforeWorkloads, Timeout: 90 * time.Second, OnFailure: dr.FailureStops,
				Job: &dr.JobHook{Namespace: "back", Image: "registry.east/migrate:1", Command: []string{"migrate"}, Env: map[string]string{"MODE": "yes"}, Account: "web"}},
		},
	}
	if got := f.Applications[0].Restore; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	data, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("/fleet.yaml", data)
	if err != nil || !reflect.DeepEqual(again, f) {
		t.Errorf("%v\n%s\ngot  %+v\nwant %+v", err, data, again, f)
	}
}

func TestSiteMaps(t *testing.T) {
	t.Parallel()
	const maps = `spec: {cluster: {kubeconfig: /k}, ingressClasses: {haproxy: openshift-default, "*": nginx}, zones: {eastus-1: westus-1}, nodeLabels: {pool=fast: pool=quick, pool=gone: "", rack: row, dropped: null}}`
	text := strings.Replace(app, "spec: {cluster: {kubeconfig: /k}}", maps, 1) + rules
	f, err := Parse("/fleet.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Sites[0]
	if !reflect.DeepEqual(s.IngressClasses, map[string]string{"haproxy": "openshift-default", "*": "nginx"}) || s.Zones["eastus-1"] != "westus-1" ||
		!reflect.DeepEqual(s.NodeLabels, map[string]string{"pool=fast": "pool=quick", "pool=gone": "", "rack": "row", "dropped": ""}) {
		t.Errorf("got %+v", s)
	}
	data, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse("/fleet.yaml", data); err != nil || !reflect.DeepEqual(again, f) {
		t.Errorf("%v\n%s", err, data)
	}
}

func TestProblemsOfRestoreRules(t *testing.T) {
	t.Parallel()
	const head = "  namespaces: [shop]\n  objectives: {rto: 5m, rpo: 30s}\n  sites: {preferred: east, recovery: [west]}\n  restore:\n"
	for _, c := range []struct{ name, file, want string }{
		{"an expression", app + head + "    transforms:\n    - name: a\n      set:\n      - {path: /spec/x, value: object.spec +}\n",
			`27:32: Application shop: 1:14: Syntax error`},
		{"a name in it", app + head + "    transforms:\n    - {name: a, when: obj.x, set: [{path: /spec/x, value: \"1\"}]}\n", `25:23: Application shop: 1:1: undeclared reference to 'obj'`},
		{"a pointer", app + head + "    transforms:\n    - {name: a, set: [{path: spec.x, value: \"1\"}]}\n", `25:30: Application shop: "spec.x" is not a JSON pointer`},
		{"a second operation", app + head + "    transforms:\n    - name: a\n      patch:\n      - {op: remove, path: /spec/x}\n      - {op: add, path: /spec/x}\n", `28:9: Application shop: add needs a value`},
		{"a selector", app + head + "    transforms:\n    - {name: a, select: {labels: \"=(\"}, set: [{path: /spec/x, value: \"1\"}]}\n", `25:25: Application shop: "=(" is not a label selector`},
		{"neither", app + head + "    transforms:\n    - {name: a}\n", `25:7: Application shop: give either patch or set`},
		{"a namespace", app + head + "    transforms:\n    - {name: a, select: {namespaces: [shoq]}, set: [{path: /spec/x, value: \"1\"}]}\n", `25:39: Application shop: namespace "shoq" is not one of the application's`},
		{"a site", app + head + "    transforms:\n    - {name: a, sites: [north], set: [{path: /spec/x, value: \"1\"}]}\n", `25:25: Application shop: sites: there is no site "north"`},
		{"twice", app + head + "    hooks:\n    - {name: a, when: after, job: {image: x}}\n    - {name: a, when: after, job: {image: x}}\n", `26:14: Application shop: hook a is declared twice, first at line 25`},
		{"a moment", app + head + "    hooks:\n    - {name: a, when: aftr, job: {image: x}}\n", `25:23: Application shop: restore.hooks[0].when: unknown "aftr"; did you mean after?`},
		{"nothing to do", app + head + "    hooks:\n    - {name: a, when: after}\n", `25:7: Application shop: hook a does nothing; add exec`},
		{"both", app + head + "    hooks:\n    - {name: a, when: after, job: {image: x}, exec: {pods: a=b, command: [x]}}\n", `25:7: Application shop: hook a has both`},
		{"pods", app + head + "    hooks:\n    - {name: a, when: after, exec: {pods: \"=(\", command: [x]}}\n", `25:43: Application shop: exec.pods: "=(" is not a label selector`},
		{"a flag", app + head + "    hooks:\n    - {name: a, when: after, repeatable: maybe, job: {image: x}}\n", `25:42: Application shop: restore.hooks[0].repeatable is the text "maybe" where true or false is expected`},
		{"a label without its value", strings.Replace(app, "{cluster: {kubeconfig: /k}}", "{cluster: {kubeconfig: /k}, nodeLabels: {a=b: c}}", 1), `4:53: Site east: nodeLabels.a=b: "c" is not of the same form`},
	} {
		_, err := Parse("fleet.yaml", []byte(c.file))
		if err == nil || !strings.Contains(err.Error(), "fleet.yaml:"+c.want) {
			t.Errorf("%s: got %v\nwant %s", c.name, err, c.want)
		}
	}
}
