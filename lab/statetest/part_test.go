package statetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
	"lifeboat.dev/lifeboat/internal/restore"
)

// A part of an application is restored with what it needs, and nothing else is touched.
func TestRestoreOfAPart(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "part"
	populate(t, east, west, ns)
	m, _ := captured(t, east, ns)
	set, opts := loaded(t, m), options(ns)
	opts.Select = dr.Selector{Kinds: []string{"deployments"}, Names: []string{"we*"}}
	out, err := set.Apply(t.Context(), west, opts, nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	for _, there := range []string{"apps/v1/Deployment/web", "v1/ServiceAccount/web", "v1/Secret/key", "v1/PersistentVolumeClaim/data", "rbac.authorization.k8s.io/v1/RoleBinding/web", "rbac.authorization.k8s.io/v1/Role/web"} {
		if get(t, west, ns, there) == nil {
			t.Errorf("%s is not there", there)
		}
	}
	for _, not := range []string{"apps/v1/Deployment/twice", "v1/ConfigMap/web", "apps/v1/StatefulSet/db", "v1/Service/web"} {
		if get(t, west, ns, not) != nil {
			t.Errorf("%s came along", not)
		}
	}
	if get(t, west, "", "scheduling.k8s.io/v1/PriorityClass/part-high") == nil || get(t, west, "", "rbac.authorization.k8s.io/v1/ClusterRoleBinding/part:nodes") == nil ||
		get(t, west, "", "apiextensions.k8s.io/v1/CustomResourceDefinition/discounts.part.example.com") != nil {
		t.Error("of the cluster's objects came what is not needed, or not what is")
	}
	if notes := strings.Join(out.Notes, "\n"); !strings.Contains(notes, "Secret part/key: comes along: Deployment part/web needs it") {
		t.Errorf("notes %q", out.Notes)
	}
	opts.Stage = ""
	nothingChanges(t, set, west, opts)

	// One object alone goes back to what it was; what it would need is left as it is.
	opts.Select, opts.WithoutNeeds = dr.Selector{Kinds: []string{"secret"}, Names: []string{"key"}}, true
	patch(t, west, ns, "v1/Secret/key", "data: {key: Y2hhbmdlZA==}")
	out, err = set.Apply(t.Context(), west, opts, nil)
	if err != nil || out.Updated != 1 || out.Created+out.Unchanged > 0 || fmt.Sprint(field(get(t, west, ns, "v1/Secret/key"), "data")) != "map[key:YWFyZHZhcms=]" {
		t.Errorf("one object: %+v, %v", out, err)
	}
	opts.Select = dr.Selector{Names: []string{"nothing-of-it"}}
	if _, err := set.Apply(t.Context(), west, opts, nil); dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("a choice of nothing: %v", err)
	}
}

// A copy at the same site, in another namespace, leaves the original as it is to the last byte.
func TestACopyBesideTheOriginal(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns, copied = "beside", "beside-copy"
	populate(t, east, west, ns)
	create(t, east, ns, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: talks, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: t}}, template: {metadata: {labels: {app: t}},
  spec: {containers: [{name: a, image: a, env: [{name: DB, value: "db.@NS@.svc:5432"}]}]}}}}`)
	m, _ := captured(t, east, ns)
	before := texts(m)
	moved := restore.InNamespaces(m, map[string]string{ns: copied})
	set, err := restore.Load(t.Context(), moved.Source())
	if err != nil {
		t.Fatal(err)
	}
	opts := options(ns)
	opts.To = dr.Site{Name: "east", Ingress: dr.Ingress{Domain: "apps.east.test"}}
	opts.Copy, opts.Moved = copied, moved
	opts.Stage = dr.StageFoundation
	if out, err := set.Apply(deadline(t), east, opts, nil); err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	opts.Stage = dr.StageWorkloads
	out, err := set.Apply(deadline(t), east, opts, nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	notes, skipped := strings.Join(out.Notes, "\n"), strings.Join(out.Skipped, "\n")
	for _, want := range []string{
		"; it becomes web-beside-copy.apps.east.test", "Ingress beside-copy/web: host shop.example.com is taken by Ingress ",
		"env[0].value names db.beside.svc", "RoleBinding beside-copy/web: subjects[0].namespace: beside becomes beside-copy",
	} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in\n%s", want, notes)
		}
	}
	if want := "ValidatingWebhookConfiguration beside-hook: it is there already, and a copy changes nothing outside of its namespaces; kept"; !strings.Contains(skipped, want) {
		t.Errorf("skipped\n%s", skipped)
	}
	if subjects := fmt.Sprint(field(get(t, east, copied, "rbac.authorization.k8s.io/v1/RoleBinding/web"), "subjects")); !strings.Contains(subjects, "namespace:beside-copy") {
		t.Errorf("subjects %s", subjects)
	}
	if b := get(t, east, "", "rbac.authorization.k8s.io/v1/ClusterRoleBinding/beside:nodes-beside-copy"); b == nil || !strings.Contains(fmt.Sprint(field(b, "subjects")), "beside-copy") {
		t.Errorf("the copy's binding is %v", b)
	}
	for _, there := range []string{"apps/v1/Deployment/web", "v1/PersistentVolumeClaim/data", "beside.example.com/v1/Discount/spring"} {
		if get(t, east, copied, there) == nil {
			t.Errorf("%s is not in the copy", there)
		}
	}
	if class := field(get(t, east, copied, "v1/PersistentVolumeClaim/data"), "spec.storageClassName"); class != "premium-east" {
		t.Errorf("the copy's claim is of class %v", class)
	}
	again, _ := captured(t, east, ns)
	for path, doc := range texts(again) {
		if before[path] != doc {
			t.Errorf("%s of the original changed:\n%s\n%s", path, before[path], doc)
		}
	}
	if len(again.docs) != len(m.docs) {
		t.Errorf("the original had %d documents, and has %d", len(m.docs), len(again.docs))
	}
	nothingChanges(t, set, east, opts)
	opts.Stage = dr.StageFoundation
	nothingChanges(t, set, east, opts)
}

// texts are the documents of a capture, without its description.
func texts(m *memory) map[string]string {
	out := map[string]string{}
	for path, doc := range m.docs {
		if path != "meta.json" {
			out[path] = string(doc)
		}
	}
	return out
}

// What the user declares is done at the target as declared, and what cannot be done stops the restore
// before anything is changed.
func TestTransformsAtTheTarget(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "edited"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: @NS@}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 4, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {nodeSelector: {topology.kubernetes.io/zone: eastus-1, pool: fast}, containers: [{name: a, image: "registry.east.test/a:1"}]}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}, data: {site: east}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: @NS@}, spec: {ingressClassName: haproxy, rules: [{host: a.example.com}]}}
`)
	m, _ := captured(t, east, ns)
	set, opts := loaded(t, m), options(ns)
	opts.To.Zones, opts.To.NodeLabels, opts.To.IngressClasses = map[string]string{"eastus-1": "westus-3"}, map[string]string{"pool=fast": ""}, map[string]string{"*": "nginx"}
	declare := func(ts ...dr.Transform) {
		var err error
		if opts.Edits, err = edit.Compile(ts); err != nil {
			t.Fatal(err)
		}
	}
	half := dr.Transform{Name: "half", Select: dr.Selector{Kinds: []string{"deployment"}}, Set: []dr.Setting{{Path: "/spec/replicas", Value: "object.spec.replicas / 2"}}}
	declare(half, dr.Transform{Name: "broken", Select: dr.Selector{Names: []string{"a"}}, Set: []dr.Setting{{Path: "/data/x", Value: "object.data.nothing"}}})
	if _, err := set.Apply(t.Context(), west, opts, nil); dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "ConfigMap edited/a: transform broken: set[0].value: no such key: nothing") {
		t.Errorf("a transform that fails: %v", err)
	}
	if get(t, west, "", "v1/Namespace/"+ns) != nil {
		t.Fatal("something was changed")
	}
	declare(half, dr.Transform{Name: "site", Select: dr.Selector{Kinds: []string{"cm"}}, Patch: []dr.PatchOperation{{Op: "replace", Path: "/data/site", Value: []byte(`"west"`)}}},
		dr.Transform{Name: "elsewhere", Sites: []string{"north"}, Set: []dr.Setting{{Path: "/data/x", Value: "'y'"}}})
	out, err := set.Apply(t.Context(), west, opts, nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	d := get(t, west, ns, "apps/v1/Deployment/web")
	if field(d, "spec.replicas") != int64(2) || fmt.Sprint(field(d, "spec.template.spec.nodeSelector")) != "map[topology.kubernetes.io/zone:westus-3]" {
		t.Errorf("deployment %v", field(d, "spec"))
	}
	if data := fmt.Sprint(field(get(t, west, ns, "v1/ConfigMap/a"), "data")); data != "map[site:west]" {
		t.Errorf("config map %s", data)
	}
	if class := field(get(t, west, ns, "networking.k8s.io/v1/Ingress/web"), "spec.ingressClassName"); class != "nginx" {
		t.Errorf("ingress class %v", class)
	}
	if !slices.Contains(out.Notes, "Deployment edited/web: spec.replicas: 4 becomes 2 by transform half") {
		t.Errorf("notes %q", out.Notes)
	}
	opts.Stage = ""
	nothingChanges(t, set, west, opts)
}

// The status of custom resources can be left to their controllers.
func TestStatusLeftOut(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "nostatus"
	populate(t, east, west, ns)
	m, _ := captured(t, east, ns)
	set, opts := loaded(t, m), options(ns)
	opts.Select, opts.Status = dr.Selector{Kinds: []string{"discount"}}, dr.StatusSkip
	if out, err := set.Apply(t.Context(), west, opts, nil); err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	if s := field(get(t, west, ns, ns+".example.com/v1/Discount/spring"), "status"); s != nil {
		t.Errorf("status %v", s)
	}
	opts.Status = dr.StatusRestore
	if out, err := set.Apply(t.Context(), west, opts, nil); err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	if s := field(get(t, west, ns, ns+".example.com/v1/Discount/spring"), "status.phase"); s != "Active" {
		t.Errorf("status %v", s)
	}
}
