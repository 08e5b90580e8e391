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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/wire"
)

// world is every object of a site, by its name for people.
type world map[string]*unstructured.Unstructured

// theWorld reads a site whole. Tests that do are not parallel: nobody else may change anything meanwhile.
func theWorld(t *testing.T, c *kube.Client) world {
	t.Helper()
	_, lists, err := c.Discovery.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	w := world{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			switch r.Kind {
			case "Lease", "Event", "ComponentStatus", "IPAddress", "APIService": // the API server's own
				continue
			}
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			found, err := c.Dynamic.Resource(gv.WithResource(r.Name)).List(deadline(t), listAll)
			if err != nil {
				t.Fatalf("listing %s: %v", r.Name, err)
			}
			for i := range found.Items {
				w[kube.Name(&found.Items[i])] = &found.Items[i]
			}
		}
	}
	return w
}

// became says what has become of an object since.
func (w world) became(now world, name string) restore.Outcome {
	was, is := w[name], now[name]
	switch {
	case was == nil && is == nil:
		return restore.Skipped
	case was == nil:
		return restore.Created
	case is == nil:
		return "deleted"
	case was.GetUID() != is.GetUID():
		return restore.Replaced
	case was.GetResourceVersion() != is.GetResourceVersion():
		return restore.Changed
	}
	return restore.Unchanged
}

// foretell makes a dry run, and expects that it changes nothing at all.
func (v *moved) foretell() (map[string]restore.Foreseen, restore.Forecast) {
	v.t.Helper()
	before := theWorld(v.t, v.to)
	out := map[string]restore.Foreseen{}
	sum, err := v.set.DryRun(deadline(v.t), v.to, v.opts, nil, func(f restore.Foreseen) error {
		if _, twice := out[f.Object]; twice {
			v.t.Errorf("%s is said twice", f.Object)
		}
		out[f.Object] = f
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
	after := theWorld(v.t, v.to)
	for name := range after {
		if became := before.became(after, name); became != restore.Unchanged {
			v.t.Errorf("the dry run: %s is %s", name, became)
		}
	}
	if len(after) != len(before) {
		v.t.Errorf("the dry run: there were %d objects, and are %d", len(before), len(after))
	}
	counts := map[restore.Outcome]int{}
	for _, f := range out {
		counts[f.Outcome]++
	}
	if !maps.Equal(counts, sum.Counts) || len(out)+sum.NotChosen != v.set.Len() {
		v.t.Errorf("counts %v of %v, %d not chosen of %d", sum.Counts, counts, sum.NotChosen, v.set.Len())
	}
	if raw, err := json.Marshal(slices.Collect(maps.Values(out))); err != nil || strings.Contains(string(raw), "aardvark") || strings.Contains(string(raw), "YWFyZHZhcms") {
		v.t.Errorf("a secret is shown, or %v: %s", err, raw)
	}
	return out, sum
}

// asForetold makes a dry run and then the restore, and expects the very outcomes that it foretold.
func (v *moved) asForetold() map[string]restore.Foreseen {
	v.t.Helper()
	foretold, _ := v.foretell()
	before := theWorld(v.t, v.to)
	out, err := v.set.Apply(deadline(v.t), v.to, v.opts, nil)
	if err != nil && dr.ClassOf(err) != dr.ClassIncomplete {
		v.t.Fatal(err)
	}
	after := theWorld(v.t, v.to)
	for name := range maps.Keys(before) {
		if after[name] == nil {
			v.t.Errorf("%s is gone", name)
		}
	}
	for name := range after {
		if _, said := foretold[name]; !said && before.became(after, name) != restore.Unchanged {
			v.t.Errorf("%s is %s, of which nothing was foretold", name, before.became(after, name))
		}
	}
	refused := 0
	for name, f := range foretold {
		is := before.became(after, name)
		switch f.Outcome {
		case restore.Created, restore.Replaced, restore.Changed, restore.Unchanged:
			if is != f.Outcome {
				v.t.Errorf("%s is %s, foretold was %+v; problems %q", name, is, f, out.Problems)
			}
		case restore.Kept, restore.Skipped, restore.Refused, restore.Waits:
			if is != restore.Unchanged && is != restore.Skipped {
				v.t.Errorf("%s is %s, foretold was %+v", name, is, f)
			}
			if f.Outcome == restore.Refused {
				refused++
				names(v.t, out.Problems, name+": ")
			}
		}
		if f.Outcome == restore.Changed || f.Outcome == restore.Replaced {
			v.sameFields(name, f, before[name], after[name])
		}
	}
	if refused != len(out.Problems) {
		v.t.Errorf("%d were to be refused, problems %q", refused, out.Problems)
	}
	return foretold
}

// sameFields compares what was to become of fields with what became of them.
func (v *moved) sameFields(name string, f restore.Foreseen, before, after *unstructured.Unstructured) {
	v.t.Helper()
	want := diff.Fields(before.Object, after.Object, diff.Options{})
	fields := f.Fields
	if n := len(fields); n > 0 && fields[n-1].Path == "status" {
		status := fields[n-1]
		fields = fields[:n-1]
		if was := diff.Fields(before.Object, after.Object, diff.Options{Status: true}); len(was) != len(want)+1 || fmt.Sprint(was[len(was)-1].After) != fmt.Sprint(status.After) {
			v.t.Errorf("%s: foretold was %v; became %v", name, status, was)
		}
	}
	if got, want := texted(fields), texted(want); got != want {
		v.t.Errorf("%s: foretold was\n%sbecame\n%s", name, got, want)
	}
}

func texted(fields []diff.Field) string {
	var b strings.Builder
	diff.Lines(&b, "", fields)
	return b.String()
}

// outcomes expects these of a dry run's objects, by name.
func outcomes(t *testing.T, foretold map[string]restore.Foreseen, ns string, want map[string]restore.Outcome) {
	t.Helper()
	for name, outcome := range want {
		name = strings.ReplaceAll(name, "@NS@", ns)
		if f, ok := foretold[name]; !ok || f.Outcome != outcome {
			t.Errorf("%s: foretold is %+v, want %s", name, f, outcome)
		}
	}
}

func withoutHook(docs string) string { return docs[:strings.LastIndex(docs, "---\n")] }

// At a site that has nothing of it, all would be created, but for what is not restored.
func TestDryRunOfAnEmptyTarget(t *testing.T) { //nolint:paralleltest // see theWorld
	slow(t)
	east, west := connect(t)
	const ns = "foretold"
	populateWith(t, east, west, ns, withoutHook(application))
	v := moving(t, east, west, ns)
	foretold := v.asForetold()
	outcomes(t, foretold, ns, map[string]restore.Outcome{
		"Namespace @NS@": restore.Created, "Deployment @NS@/web": restore.Created, "Discount @NS@/spring": restore.Created,
		"Secret @NS@/owned": restore.Created, "Job @NS@/finished": restore.Skipped, "StorageClass premium-east": restore.Skipped,
	})
	for name, untried := range map[string]string{"Namespace " + ns: "", "ClusterRole " + ns + ":nodes": "", "ConfigMap " + ns + "/web": "its namespace is not there yet", "Discount " + ns + "/spring": "its kind is not there yet"} {
		if f := foretold[name]; f.Untried != untried {
			t.Errorf("%s: untried %q, want %q", name, f.Untried, untried)
		}
	}
	if notes := strings.Join(foretold["Deployment "+ns+"/web"].Notes, "; "); !strings.Contains(notes, "image registry.east.test/web:1 becomes registry.west.test/web:1") {
		t.Errorf("notes %q", notes)
	}
	for name, f := range v.asForetold() { // and once it is there, nothing
		if f.Outcome != restore.Unchanged && f.Outcome != restore.Skipped {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// drifting is an application whose objects differ at the target in every way.
const drifting = emptyNamespace + `---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 1000}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: same, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: drifted, namespace: @NS@}, data: {a: "1", b: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: shrinks, namespace: @NS@, labels: {goes: along}}, data: {a: "1", goes: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: gone, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: @NS@}, stringData: {key: aardvark}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {tolerations: [{key: a, operator: Exists}], containers: [{name: web, image: "registry.east.test/web:1", ports: [{containerPort: 80}, {containerPort: 81}], env: [{name: PASSWORD, value: aardvark}, {name: GOES, value: "1"}]}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: twice, namespace: @NS@}, spec: {replicas: 1, selector: {matchLabels: {app: twice}}, template: {metadata: {labels: {app: twice}},
  spec: {containers: [{name: a, image: "docker.io/a:1", env: [{name: SAME, value: "1"}, {name: SAME, value: "2"}]}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: stopped, namespace: @NS@}, spec: {replicas: 3, selector: {matchLabels: {app: s}}, template: {metadata: {labels: {app: s}}, spec: {priorityClassName: @NS@-high, containers: [{name: a, image: a}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: @NS@}, spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: a, image: a}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed, namespace: @NS@}, immutable: true, data: {a: "1"}}
---
{apiVersion: v1, kind: Service, metadata: {name: head, namespace: @NS@}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}, subjects: []}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: @NS@.example.com/v1, kind: Thing, metadata: {name: bare, namespace: @NS@}, spec: {a: 1}}
---
{apiVersion: @NS@.example.com/v1, kind: Thing, metadata: {name: reported, namespace: @NS@}, spec: {a: 1}}
`

// others are what somebody else has at the target.
const others = `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-low}, value: 10}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: foreign, namespace: @NS@}, data: {a: "2", theirs: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: alike, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: flux, namespace: @NS@, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: @NS@}}, data: {a: "2"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: foreign-fixed, namespace: @NS@}, immutable: true, data: {a: "2"}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: theirs, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {priorityClassName: @NS@-low, containers: [{name: a, image: two}]}}}}
---
{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: shop, namespace: @NS@}, spec: {prune: true}}`

// drift brings the application to the target, lets it become something else there and at home, and captures
// it again as another recovery point.
func drift(t *testing.T, east, west *kube.Client, ns string, policy restore.Policy) *moved {
	t.Helper()
	create(t, east, ns, definition(ns, "Thing", "v1"))
	v := move(t, east, west, ns, drifting)
	patch(t, east, ns, ns+".example.com/v1/Thing/reported", "status: {phase: Up}", "status")
	v.apply()
	if _, err := kube.Fence(deadline(t), west, []string{ns}); err != nil {
		t.Fatal(err)
	}
	patch(t, west, ns, "v1/ConfigMap/drifted", `data: {a: "2", theirs: "1"}`)
	patch(t, west, ns, "v1/Secret/key", "data: {key: eA==}")
	patch(t, west, ns, "apps/v1/Deployment/twice", "metadata: {labels: {theirs: '1'}}")
	remove(t, west, ns, "v1/ConfigMap/gone")
	create(t, west, ns, others)

	create(t, east, ns, strings.NewReplacer(`a: "2", theirs: "1"`, `a: "1"`, `a: "2"`, `a: "1"`, "image: two", "image: one", "value: 10}", "value: 20}").Replace(others[:strings.LastIndex(others, "---\n")]))
	patch(t, east, ns, "v1/ConfigMap/shrinks", "{data: {goes: null, b: '1'}, metadata: {labels: {goes: null}}}")
	patch(t, east, ns, "apps/v1/Deployment/web", `{spec: {replicas: 4, template: {spec: {tolerations: null, containers: [{name: web, image: "registry.east.test/web:2", ports: [{containerPort: 81}], env: [{name: PASSWORD, value: aardvark2}]}]}}}}`)
	patch(t, east, ns, "apps/v1/Deployment/stopped", "spec: {replicas: 5}")
	remove(t, east, ns, "v1/ConfigMap/fixed")
	remove(t, east, ns, "v1/Service/head")
	remove(t, east, ns, "rbac.authorization.k8s.io/v1/RoleBinding/r")
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed, namespace: @NS@}, immutable: true, data: {a: "3"}}
---
{apiVersion: v1, kind: Service, metadata: {name: head, namespace: @NS@}, spec: {selector: {a: b}, ports: [{port: 81}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: two}, subjects: []}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: left, namespace: @NS@, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: @NS@}}, data: {a: "1"}}`)
	again := moving(t, east, west, ns)
	again.opts.Point, again.opts.Existing = "point-2", policy
	return again
}

// What is there already becomes what was foretold, by each policy.
func TestDryRunOverWhatIsThere(t *testing.T) { //nolint:paralleltest,tparallel // see theWorld
	slow(t)
	east, west := connect(t)
	serveKinds(t, []string{"kustomize.toolkit.fluxcd.io/v1/Kustomization/kustomizations"}, east, west)
	for policy, special := range map[restore.Policy]map[string]restore.Outcome{
		restore.Keep:    {"ConfigMap @NS@/foreign": restore.Kept, "ConfigMap @NS@/alike": restore.Kept, "ConfigMap @NS@/foreign-fixed": restore.Kept, "Deployment @NS@/theirs": restore.Kept},
		restore.Patch:   {"ConfigMap @NS@/foreign": restore.Changed, "ConfigMap @NS@/alike": restore.Changed, "ConfigMap @NS@/foreign-fixed": restore.Refused, "Deployment @NS@/theirs": restore.Changed},
		restore.Replace: {"ConfigMap @NS@/foreign": restore.Changed, "ConfigMap @NS@/alike": restore.Changed, "ConfigMap @NS@/foreign-fixed": restore.Replaced, "Deployment @NS@/theirs": restore.Changed},
	} {
		t.Run(string(policy), func(t *testing.T) {
			ns := "foretold-" + string(policy)
			v := drift(t, east, west, ns, policy)
			foretold := v.asForetold()
			outcomes(t, foretold, ns, special)
			outcomes(t, foretold, ns, map[string]restore.Outcome{
				"ConfigMap @NS@/drifted": restore.Changed, "ConfigMap @NS@/shrinks": restore.Changed, "ConfigMap @NS@/gone": restore.Created,
				"Secret @NS@/key": restore.Changed, "Deployment @NS@/web": restore.Changed, "Deployment @NS@/twice": restore.Changed, "Deployment @NS@/stopped": restore.Changed, "DaemonSet @NS@/agent": restore.Changed,
				"CronJob @NS@/nightly": restore.Changed, "ConfigMap @NS@/fixed": restore.Replaced, "Service @NS@/head": restore.Changed, "RoleBinding @NS@/r": restore.Replaced, "Thing @NS@/reported": restore.Changed,
				"PriorityClass @NS@-low": restore.Kept, "ConfigMap @NS@/flux": restore.Kept, "ConfigMap @NS@/left": restore.Kept,
			})
			for object, lines := range map[string][]string{
				"ConfigMap @NS@/drifted":  {"~ data.a: 2 → 1\n", "~ metadata.annotations[lifeboat.dev/point]: point-1 → point-2\n"},
				"ConfigMap @NS@/shrinks":  {"- data.goes: 1\n", "+ data.b: 1\n", "- metadata.labels.goes: along\n"},
				"Secret @NS@/key":         {"~ data.key: (secret, 1 bytes) → (secret, 8 bytes)\n"},
				"Deployment @NS@/web":     {"env[PASSWORD].value: (secret) → (secret)\n", "env[GOES]", "~ spec.replicas: 0 → 4\n", "web:1 → registry.west.test/web:2", "- spec.template.spec.tolerations"},
				"Deployment @NS@/stopped": {"~ spec.replicas: 0 → 5\n", "- metadata.annotations[lifeboat.dev/replicas]: 3\n"},
				"DaemonSet @NS@/agent":    {"- spec.template.spec.nodeSelector"},
				"Thing @NS@/reported":     {`+ status: {"phase":"Up"}`},
			} {
				got := texted(foretold[strings.ReplaceAll(object, "@NS@", ns)].Fields)
				for _, want := range lines {
					if !strings.Contains(got, want) {
						t.Errorf("%s: no %q in\n%s", object, want, got)
					}
				}
			}
			for object, want := range map[string]string{"ConfigMap @NS@/flux": "managed by Flux", "ConfigMap @NS@/left": "left to Git: Kustomization", "PriorityClass @NS@-low": "which differs (value is 10, should be 20); kept"} {
				if f := foretold[strings.ReplaceAll(object, "@NS@", ns)]; !strings.Contains(f.Reason, want) {
					t.Errorf("%s: reason %q, want %q", object, f.Reason, want)
				}
			}
			again := v.asForetold()
			for name, f := range again {
				if f.Outcome == restore.Changed || f.Outcome == restore.Created || f.Outcome == restore.Replaced {
					t.Errorf("a second time: %s: %+v", name, f)
				}
			}
		})
	}
}

// A copy in other namespaces, part of which is there, becomes what was foretold.
func TestDryRunOfACopy(t *testing.T) { //nolint:paralleltest // see theWorld
	slow(t)
	east, west := connect(t)
	const ns, copied = "foretold-original", "foretold-copy"
	populateWith(t, east, west, ns, withoutHook(application))
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: `+copied+`}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: web, namespace: `+copied+`}, data: {title: Somebody else's}}`)
	v := moving(t, east, east, ns)
	elsewhere := restore.InNamespaces(v.m, map[string]string{ns: copied})
	var err error
	if v.set, err = restore.Load(t.Context(), elsewhere.Source()); err != nil {
		t.Fatal(err)
	}
	v.opts.To = dr.Site{Name: "east", Ingress: dr.Ingress{Domain: "apps.east.test"}}
	v.opts.Copy, v.opts.Moved, v.opts.Paused = copied, elsewhere, true
	foretold := v.asForetold()
	outcomes(t, foretold, copied, map[string]restore.Outcome{
		"Namespace @NS@": restore.Changed, "ConfigMap @NS@/web": restore.Changed, "Deployment @NS@/web": restore.Created, "CronJob @NS@/nightly": restore.Created,
		"CustomResourceDefinition discounts.foretold-original.example.com": restore.Kept, "ClusterRole foretold-original:nodes": restore.Kept,
		"ClusterRoleBinding foretold-original:nodes-foretold-copy": restore.Created,
	})
	if notes := strings.Join(foretold["CronJob "+copied+"/nightly"].Notes, "; "); !strings.Contains(notes, "paused") {
		t.Errorf("the copy's schedule: %q", notes)
	}
	for name, f := range v.asForetold() {
		if f.Outcome == restore.Created || f.Outcome == restore.Changed {
			t.Errorf("a second time: %s: %+v", name, f)
		}
	}
}

// A choice of objects becomes what was foretold, with what it needs and without.
func TestDryRunOfAPart(t *testing.T) { //nolint:paralleltest // see theWorld
	east, west := connect(t)
	const ns = "foretold-part"
	populateWith(t, east, west, ns, withoutHook(application))
	v := moving(t, east, west, ns)
	v.opts.Select = dr.Selector{Kinds: []string{"deployments"}, Names: []string{"we*"}}
	foretold := v.asForetold()
	outcomes(t, foretold, ns, map[string]restore.Outcome{"Deployment @NS@/web": restore.Created, "Secret @NS@/key": restore.Created, "Namespace @NS@": restore.Created})
	if _, said := foretold["Deployment "+ns+"/twice"]; said {
		t.Error("what was not chosen is foretold")
	}
	v.opts.Select, v.opts.WithoutNeeds = dr.Selector{Kinds: []string{"secret", "configmap"}}, true
	patch(t, west, ns, "v1/Secret/key", "data: {key: Y2hhbmdlZA==}")
	foretold = v.asForetold()
	outcomes(t, foretold, ns, map[string]restore.Outcome{"Secret @NS@/key": restore.Changed, "ConfigMap @NS@/web": restore.Created, "ConfigMap @NS@/kube-root-ca.crt": restore.Skipped})
	v.opts.Select = dr.Selector{Names: []string{"nothing-of-it"}}
	if _, sum := v.foretell(); len(sum.Obstacles) != 1 {
		t.Errorf("obstacles %q", sum.Obstacles)
	}
}

// What a dry run cannot find out, it says.
func TestDryRunOfWhatIsNotKnown(t *testing.T) { //nolint:paralleltest // see theWorld
	east, west := connect(t)
	const ns = "foretold-unknown"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: going, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: guarded, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: nowhere, resources: {requests: {storage: 1Gi}}}}`)
	create(t, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: going, namespace: @NS@, finalizers: [example.com/wait]}, data: {a: "1"}}`)
	remove(t, west, ns, "v1/ConfigMap/going")
	foretold, sum := v.foretell()
	names(t, sum.Obstacles, "storage class nowhere does not exist at site west")
	if f := foretold["ConfigMap "+ns+"/going"]; f.Outcome != restore.Created || f.Untried != "what is there is being deleted" {
		t.Errorf("what is being deleted: %+v", f)
	}
	patch(t, west, ns, "v1/ConfigMap/going", "metadata: {finalizers: null}")
	// A webhook that nobody answers for.
	create(t, west, ns, `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@}, webhooks: [{name: acts.example.com, sideEffects: NoneOnDryRun, admissionReviewVersions: [v1],
  clientConfig: {url: "https://127.0.0.1:1/"}, timeoutSeconds: 1, rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: @NS@}}}]}`)
	eventually(t, "the webhook to be in force", func() (bool, string) {
		_, err := west.Typed.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("probe"), dryRun)
		return err != nil, fmt.Sprint(err)
	})
	foretold, _ = v.foretell()
	if f := foretold["ConfigMap "+ns+"/guarded"]; f.Outcome != restore.Waits || !strings.Contains(f.Reason, "acts.example.com") {
		t.Errorf("what a webhook guards that nobody answers: %+v", f)
	}
	remove(t, west, "", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration/"+ns)
	if err := west.Typed.CoreV1().Namespaces().Delete(deadline(t), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	foretold, sum = v.foretell()
	names(t, sum.Waits, "namespace "+ns+" is being deleted")
	if f := foretold["ConfigMap "+ns+"/guarded"]; f.Outcome != restore.Created || f.Untried == "" {
		t.Errorf("in a namespace that goes: %+v", f)
	}
}

// A run of all its stages, made as the command makes it, does what its dry run said.
func TestDryRunOfARun(t *testing.T) { //nolint:paralleltest // see theWorld
	slow(t)
	_, west := connect(t)
	const ns = "foretold-run"
	create(t, west, ns, definition(ns, "Thing", "v1"))
	create(t, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: web, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: @NS@}, stringData: {key: aardvark}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}
---
{apiVersion: @NS@.example.com/v1, kind: Thing, metadata: {name: owner, namespace: @NS@}, spec: {a: 1}}`)
	create(t, west, ns, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, namespace: @NS@,
		ownerReferences: [{apiVersion: @NS@.example.com/v1, kind: Thing, name: owner, uid: %s}]}, data: {a: "1"}}`, get(t, west, ns, ns+".example.com/v1/Thing/owner").GetUID()))
	p := newProtection(t, ns)
	p.fleet.Applications[0].Sites = dr.Placement{Preferred: "west", Recovery: []string{"east"}}
	op, err := wire.Open(t.Context(), p.fleet, &p.fleet.Applications[0], wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	execute := func(r plan.Request) {
		t.Helper()
		pl, err := op.Plan(deadline(t), r)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := op.Execute(deadline(t), pl); err != nil || res.Run.Outcome == dr.OutcomeFailed {
			t.Fatalf("%v: %+v", err, res)
		}
	}
	execute(plan.Request{Goal: dr.GoalBackup})
	patch(t, west, ns, "v1/ConfigMap/web", `data: {a: "2"}`)
	patch(t, west, ns, "batch/v1/CronJob/nightly", `spec: {suspend: true}`)
	remove(t, west, ns, ns+".example.com/v1/Thing/owner")
	request := plan.Request{Goal: dr.GoalRestore}
	pl, err := op.Plan(deadline(t), request)
	if err != nil {
		t.Fatal(err)
	}
	before := theWorld(t, west)
	d, err := op.DryRun(deadline(t), pl)
	if err != nil {
		t.Fatal(err)
	}
	if after := theWorld(t, west); len(after) != len(before) {
		t.Errorf("there were %d objects, and are %d", len(before), len(after))
	}
	foretold := map[string]restore.Foreseen{}
	for _, f := range d.Objects {
		foretold[f.Object] = f
	}
	outcomes(t, foretold, ns, map[string]restore.Outcome{"ConfigMap @NS@/web": restore.Changed, "CronJob @NS@/nightly": restore.Changed, "Thing @NS@/owner": restore.Created, "ConfigMap @NS@/owned": restore.Changed, "Secret @NS@/key": restore.Changed})
	execute(request)
	after := theWorld(t, west)
	v := &moved{t: t, ns: ns, to: west}
	for name, f := range foretold {
		if is := before.became(after, name); is != f.Outcome && f.Outcome != restore.Skipped && f.Outcome != restore.Kept {
			t.Errorf("%s is %s, foretold was %+v", name, is, f)
		} else if is == restore.Changed {
			v.sameFields(name, f, before[name], after[name])
		}
	}
	if v.field("batch/v1/CronJob/nightly", "spec.suspend") != false {
		t.Error("the schedule was left suspended")
	}
}

// What another needs that comes with it is not held against it, though the site, asked now, would refuse it.
func TestDryRunOfWhatNeedsOthers(t *testing.T) { //nolint:paralleltest // see theWorld
	east, west := connect(t)
	const ns = "foretold-needs"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: @NS@}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 1000}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: @NS@}, spec: {serviceAccountName: robot, priorityClassName: @NS@-high, containers: [{name: a, image: a}]}}`)
	create(t, west, ns, emptyNamespace)
	foretold := v.asForetold()
	outcomes(t, foretold, ns, map[string]restore.Outcome{"Pod @NS@/bare": restore.Created, "ServiceAccount @NS@/robot": restore.Created, "PriorityClass @NS@-high": restore.Created})
	if f := foretold["Pod "+ns+"/bare"]; !strings.Contains(f.Untried, "what it needs is not there yet") {
		t.Errorf("the pod: %+v", f)
	}
}
