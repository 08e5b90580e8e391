package statetest

import (
	"fmt"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
)

// fixedFields are objects with fields that cannot be changed once they are there.
const fixedFields = emptyNamespace + `---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: web1}}, template: {metadata: {labels: {app: web1}}, spec: {containers: [{name: a, image: a}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: @NS@}, spec: {serviceName: db, replicas: 1, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: a}]}},
  volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: job, namespace: @NS@}, spec: {completions: 1, suspend: true, template: {metadata: {labels: {v: "1"}}, spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: head, namespace: @NS@}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed, namespace: @NS@}, immutable: true, data: {a: "1"}}
---
{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: typed, namespace: @NS@}, data: {a: eA==}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}, subjects: []}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}`

// What is there and cannot be made the same is named, by policy replaced, and never when that would delete data.
func TestFieldsThatCannotBeChanged(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	north := withControllers(t)
	const ns = "immutable"
	v := move(t, east, north, ns, fixedFields)
	create(t, north, ns, strings.NewReplacer(
		"app: web1", "app: web2", "image: \"a:1\"", "image: \"a:2\"", "storage: 1Gi", "storage: 2Gi", "clusterIP: None, ", "", `data: {a: "1"}`, `data: {a: "2"}`,
		"type: Opaque", "type: example.com/other", "name: one}", "name: two}", `accessModes: [ReadWriteOnce], storageClassName: ""`, `accessModes: [ReadWriteMany], storageClassName: ""`).Replace(fixedFields))
	eventually(t, "the StatefulSet's pod", func() (bool, string) { return v.there("v1/Pod/db-0"), "" })
	uid := func(what string) string { return string(get(t, north, ns, what).GetUID()) }
	before := map[string]string{}
	anew := []string{"apps/v1/Deployment/web", "apps/v1/StatefulSet/db", "v1/Service/head", "v1/ConfigMap/fixed", "v1/Secret/typed", "rbac.authorization.k8s.io/v1/RoleBinding/r"}
	kept := []string{"batch/v1/Job/job", "v1/PersistentVolumeClaim/data", "v1/PersistentVolumeClaim/d-db-0", "v1/Pod/db-0"}
	for _, what := range append(anew, kept...) {
		before[what] = uid(what)
	}
	out, err := v.set.Apply(deadline(t), north, v.opts, nil) // patched as far as that goes
	if err == nil || len(out.Problems) != len(anew) {
		t.Errorf("patch: error %v, problems %q", err, out.Problems)
	}
	for _, what := range anew {
		parts := strings.Split(what, "/")
		names(t, out.Problems, parts[len(parts)-2]+" "+ns+"/"+parts[len(parts)-1])
		if uid(what) != before[what] {
			t.Errorf("%s was replaced, though only patches are allowed", what)
		}
	}
	v.opts.Existing = restore.Replace
	if sum, err := v.set.DryRun(deadline(t), north, v.opts, nil, func(restore.Foreseen) error { return nil }); err != nil || sum.Counts[restore.Replaced] != len(anew) || sum.Counts[restore.Refused] > 0 {
		t.Errorf("dry run: %v, %v", err, sum.Counts)
	}
	out = v.apply()
	for _, what := range anew {
		if uid(what) == before[what] {
			t.Errorf("%s was not replaced", what)
		}
	}
	for _, what := range kept {
		if uid(what) != before[what] {
			t.Errorf("%s was replaced", what)
		}
	}
	names(t, out.Notes, "StatefulSet "+ns+"/db", "replaced")
	eventually(t, "the pod to be taken over", func() (bool, string) {
		refs := get(t, north, ns, "v1/Pod/db-0").GetOwnerReferences()
		return len(refs) == 1 && string(refs[0].UID) == uid("apps/v1/StatefulSet/db"), fmt.Sprint(refs)
	})
	if v.field("v1/Service/head", "spec.clusterIP") != "None" || v.field("rbac.authorization.k8s.io/v1/RoleBinding/r", "roleRef.name") != "one" {
		t.Error("what was replaced is not as it was captured")
	}
	v.twice()
}

// What would be refused anew is not deleted first.
func TestReplacementThatWouldBeRefused(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "rehearsed"
	docs := emptyNamespace + `---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed, namespace: @NS@, labels: {team: a}}, immutable: true, data: {a: "1"}}`
	v := move(t, east, west, ns, docs)
	create(t, west, ns, strings.ReplaceAll(docs, `"1"`, `"2"`))
	create(t, west, ns, `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: @NS@}, spec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]},
  validations: [{expression: "false", message: "no more of these"}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: @NS@}, spec: {policyName: @NS@, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: @NS@}}}}}`)
	inForce(t, west, ns)
	v.opts.Existing = restore.Replace
	v.refused("ConfigMap "+ns+"/fixed", "no more of these")
	if got := v.field("v1/ConfigMap/fixed", "data.a"); got != "2" {
		t.Errorf("what was there is %v", got)
	}
}

// Objects of others that many share are left as they are, and named.
func TestSharedObjectsThatDiffer(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "shared"
	docs := emptyNamespace + `---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 1000}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: @NS@-front}, spec: {controller: example.com/one}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: @NS@}, spec: {ingressClassName: @NS@-front, defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {priorityClassName: @NS@-high, containers: [{name: a, image: a}]}}}}`
	v := move(t, east, west, ns, docs)
	create(t, west, ns, `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 2000}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: @NS@-front}, spec: {controller: example.com/two}}`)
	out := v.apply()
	names(t, out.Skipped, "PriorityClass "+ns+"-high", "2000", "kept")
	names(t, out.Skipped, "IngressClass "+ns+"-front", "kept")
	if got := field(get(t, west, "", "scheduling.k8s.io/v1/PriorityClass/"+ns+"-high"), "value"); got != int64(2000) {
		t.Errorf("value %v", got)
	}
	if !v.there("networking.k8s.io/v1/Ingress/web") {
		t.Error("the rest did not go on")
	}
}

// Large objects, and what kubectl left in them.
func TestLargeObjectsThatKubectlApplied(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "annotated"
	big := strings.Repeat("x", 900<<10)
	v := move(t, east, west, ns, emptyNamespace+fmt.Sprintf(`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: applied, namespace: @NS@, annotations: {kubectl.kubernetes.io/last-applied-configuration: "%[1]s", note: kept}}, data: {a: "%[1]s"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: annotated, namespace: @NS@, annotations: {note: "%[2]s"}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: big, namespace: @NS@}, stringData: {a: "%[3]s"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: %[4]s, namespace: @NS@}, data: {a: b}}
`, strings.Repeat("y", 250<<10), strings.Repeat("z", 256<<10-4-1), big, strings.Repeat("long-name.", 25)+"end"))
	v.apply()
	a := get(t, west, ns, "v1/ConfigMap/applied").GetAnnotations()
	if _, there := a["kubectl.kubernetes.io/last-applied-configuration"]; there || a["note"] != "kept" {
		t.Error("kubectl's copy came along, or another annotation did not")
	}
	if got := get(t, west, ns, "v1/ConfigMap/annotated").GetAnnotations()["note"]; len(got) != 256<<10-5 {
		t.Errorf("an annotation of %d bytes", len(got))
	}
	if got, _ := v.field("v1/Secret/big", "data.a").(string); len(got) < 900<<10 {
		t.Errorf("the Secret holds %d bytes", len(got))
	}
	v.verify()
	v.twice()
}

// A status comes back where it may hold what nobody can find out again, and only where nobody has written one.
func TestStatuses(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "statuses"
	create(t, east, ns, emptyNamespace+"---\n"+definition(ns, "Lock", "v1")+"\n---\n"+strings.Replace(definition(ns, "Plain", "v1"), "subresources: {status: {}}, ", "", 1)+`
---
{apiVersion: @NS@.example.com/v1, kind: Lock, metadata: {name: held, namespace: @NS@}, spec: {a: b}}
---
{apiVersion: @NS@.example.com/v1, kind: Lock, metadata: {name: other, namespace: @NS@}, spec: {a: b}}
---
{apiVersion: @NS@.example.com/v1, kind: Lock, metadata: {name: none, namespace: @NS@}, spec: {a: b}}
---
{apiVersion: @NS@.example.com/v1, kind: Plain, metadata: {name: whole, namespace: @NS@}, spec: {a: b}, status: {id: kept}}`)
	lock := ns + ".example.com/v1/Lock/"
	patch(t, east, ns, lock+"held", `spec: {a: c}`) // its generation is 2, and 1 at the target
	for _, name := range []string{"held", "other"} {
		patch(t, east, ns, lock+name, `status: {id: "42", observedGeneration: `+map[string]string{"held": "2", "other": "0"}[name]+`, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}`, "status")
	}
	v := moving(t, east, west, ns)
	v.apply()
	if v.field(lock+"held", "status.id") != "42" || v.field(lock+"held", "status.observedGeneration") != int64(1) {
		t.Errorf("status %v", v.field(lock+"held", "status"))
	}
	if got := v.field(lock+"other", "status.observedGeneration"); got != int64(0) {
		t.Errorf("a generation that was behind is %v", got)
	}
	if got := v.field(lock+"none", "status"); got != nil {
		t.Errorf("a status was made up: %v", got)
	}
	if got := v.field(ns+".example.com/v1/Plain/whole", "status.id"); got != "kept" {
		t.Errorf("a status that is no subresource: %v", got)
	}
	patch(t, west, ns, lock+"held", `status: {id: "43"}`, "status") // its controller at the target knows better
	v.twice()
	if got := v.field(lock+"held", "status.id"); got != "43" {
		t.Errorf("what the controller wrote was overwritten: %v", got)
	}
	v.verify()
}

// inForce waits until a policy keeps ConfigMaps out of a namespace.
func inForce(t *testing.T, c *kube.Client, ns string) {
	t.Helper()
	eventually(t, "the policy to be in force", func() (bool, string) { // API servers take it in by and by
		_, err := c.Typed.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("probe"), dryRun)
		return err != nil, "it lets pass"
	})
}
