package statetest

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// template is a pod template with nothing special about it.
const template = `{metadata: {labels: {app: web}}, spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}`

// A Job comes back as one of its own: what the old cluster wrote into it, in either spelling, stays behind.
func TestJobs(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "jobs"
	create(t, east, ns, emptyNamespace+`---
{apiVersion: batch/v1, kind: Job, metadata: {name: running, namespace: @NS@}, spec: {template: `+template+`}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: manual, namespace: @NS@}, spec: {manualSelector: true, selector: {matchLabels: {app: web}}, template: `+template+`}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: done, namespace: @NS@}, spec: {template: `+template+`}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: failed, namespace: @NS@}, spec: {template: `+template+`}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: waiting, namespace: @NS@}, spec: {suspend: true, template: `+template+`}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: `+template+`}}}}`)
	cron := get(t, east, ns, "batch/v1/CronJob/nightly")
	create(t, east, ns, fmt.Sprintf(`{apiVersion: batch/v1, kind: Job, metadata: {name: nightly-123, namespace: @NS@, ownerReferences: [{apiVersion: batch/v1, kind: CronJob, name: nightly, uid: %s, controller: true}]}, spec: {template: %s}}`, cron.GetUID(), template))
	ended := `status: {startTime: "2026-01-01T00:00:00Z", %s, conditions: [{type: %s, status: "True"}, {type: %s, status: "True"}]}`
	patch(t, east, ns, "batch/v1/Job/done", fmt.Sprintf(ended, `completionTime: "2026-01-01T00:01:00Z", succeeded: 1`, "SuccessCriteriaMet", "Complete"), "status")
	patch(t, east, ns, "batch/v1/Job/failed", fmt.Sprintf(ended, `failed: 1`, "FailureTarget", "Failed"), "status")
	old := get(t, east, ns, "batch/v1/Job/running")
	if labels := fmt.Sprint(field(old, "spec.template.metadata.labels")); !strings.Contains(labels, "controller-uid:"+string(old.GetUID())) {
		t.Fatalf("the source wrote no uid: %s", labels)
	}
	v := moving(t, east, north, ns)
	v.apply()
	for _, name := range []string{"done", "failed"} {
		if v.there("batch/v1/Job/" + name) {
			t.Errorf("Job %s would run again", name)
		}
	}
	for _, name := range []string{"running", "manual", "waiting", "nightly-123"} {
		job := get(t, north, ns, "batch/v1/Job/"+name)
		if job == nil {
			t.Errorf("Job %s is missing", name)
			continue
		}
		if strings.Contains(fmt.Sprint(job.Object), string(get(t, east, ns, "batch/v1/Job/"+name).GetUID())) {
			t.Errorf("Job %s has the old uid in it: %v", name, job.Object)
		}
	}
	if got := field(get(t, north, ns, "batch/v1/Job/manual"), "spec.selector.matchLabels.app"); got != "web" {
		t.Errorf("the selector of one's own is %v", got)
	}
	if got := v.field("batch/v1/Job/waiting", "spec.suspend"); got != true {
		t.Errorf("a suspended Job runs: %v", got)
	}
	if owners := get(t, north, ns, "batch/v1/Job/nightly-123").GetOwnerReferences(); len(owners) != 1 || owners[0].UID != get(t, north, ns, "batch/v1/CronJob/nightly").GetUID() {
		t.Errorf("owners %v", owners)
	}
	eventually(t, "the Job's pod", func() (bool, string) { // of the new Job, by its new uid
		pods, err := north.Typed.CoreV1().Pods(ns).List(t.Context(), listAll)
		return err == nil && len(pods.Items) > 0, fmt.Sprint(err)
	})
	v.twice()
}

// What acts by itself does so from the cutover on, and not before.
func TestSchedulesWaitForTheCutover(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, []string{"argoproj.io/v1alpha1/Application/applications", "kustomize.toolkit.fluxcd.io/v1/Kustomization/kustomizations", "helm.toolkit.fluxcd.io/v2/HelmRelease/helmreleases"}, east, west)
	const ns = "schedules"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: `+template+`}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: never, namespace: @NS@}, spec: {suspend: true, schedule: "0 3 * * *", jobTemplate: {spec: {template: `+template+`}}}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: shop, namespace: @NS@, finalizers: [resources-finalizer.argocd.argoproj.io]}, spec: {project: default, syncPolicy: {automated: {prune: true, selfHeal: true}, retry: {limit: 2}}}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: by-hand, namespace: @NS@}, spec: {project: default}}
---
{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: shop, namespace: @NS@}, spec: {prune: true, interval: 1m}}
---
{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: shop, namespace: @NS@}, spec: {interval: 1m}}`)
	paused := map[string]string{"batch/v1/CronJob/nightly": "spec.suspend", "batch/v1/CronJob/never": "spec.suspend",
		"kustomize.toolkit.fluxcd.io/v1/Kustomization/shop": "spec.suspend", "helm.toolkit.fluxcd.io/v2/HelmRelease/shop": "spec.suspend"}
	for _, stage := range []dr.Stage{dr.StageFoundation, dr.StageWorkloads} {
		v.opts.Stage = stage
		v.apply()
	}
	for what, path := range paused {
		if got := v.field(what, path); got != true {
			t.Errorf("%s acts before the cutover: %v", what, got)
		}
	}
	app := get(t, west, ns, "argoproj.io/v1alpha1/Application/shop")
	if field(app, "spec.syncPolicy.automated") != nil || field(app, "spec.syncPolicy.retry.limit") != int64(2) || len(app.GetFinalizers()) > 0 {
		t.Errorf("the Application acts before the cutover, or would delete what it made: %v", app.Object)
	}
	v.twice()
	v.opts.Stage = ""
	v.verify() // it is as it should be before the cutover

	// A fence at the target, as after an earlier failover away from it, is undone by the cutover as well.
	patch(t, west, ns, "batch/v1/CronJob/nightly", `{metadata: {annotations: {lifeboat.dev/suspended: "false"}}}`)
	v.opts.Stage = dr.StageWorkloads
	v.apply()
	if got := v.field("batch/v1/CronJob/nightly", "spec.suspend"); got != true {
		t.Errorf("a fenced CronJob acts before the cutover: %v", got)
	}
	v.opts.Stage = dr.StageCutover
	v.apply()
	for what, path := range paused {
		want := any(nil)
		if strings.Contains(what, "never") {
			want = true
		}
		if got := v.field(what, path); got != want && !(want == nil && got == false) {
			t.Errorf("after the cutover, %s of %s is %v, want %v", path, what, got, want)
		}
	}
	if got := field(get(t, west, ns, "argoproj.io/v1alpha1/Application/shop"), "spec.syncPolicy.automated.prune"); got != true {
		t.Errorf("the Application does not synchronize again: %v", got)
	}
	v.twice()
	v.opts.Stage = ""
	v.verify() // and after it
}

// What controllers make is made by them at the target; what nobody makes is restored.
func TestWhatControllersMake(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	_, west := connect(t)
	const ns = "controlled"
	create(t, north, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@, labels: {pod-security.kubernetes.io/enforce: baseline}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: "a:1"}],
  volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, resources: {requests: {storage: 1Gi}}}}}}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: @NS@}, spec: {serviceName: db, replicas: 2, podManagementPolicy: Parallel, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}},
  spec: {containers: [{name: db, image: "db:1"}]}}, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: bare, namespace: @NS@}, spec: {replicas: 1, selector: {matchLabels: {app: bare}}, template: {metadata: {labels: {app: bare}}, spec: {containers: [{name: a, image: "a:1"}]}}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web, namespace: @NS@}, spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: @NS@}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}`)
	eventually(t, "the default account", func() (bool, string) { return get(t, north, ns, "v1/ServiceAccount/default") != nil, "" })
	create(t, north, ns, `{apiVersion: v1, kind: Pod, metadata: {generateName: bare-, name: bare-xyz, namespace: @NS@, labels: {app: pod}}, spec: {containers: [{name: a, image: "a:1"}]}}`)
	eventually(t, "the controllers to have made everything", func() (bool, string) {
		pods, err := north.Typed.CoreV1().Pods(ns).List(t.Context(), listAll)
		claims, err2 := north.Typed.CoreV1().PersistentVolumeClaims(ns).List(t.Context(), listAll)
		return err == nil && err2 == nil && len(pods.Items) == 6 && len(claims.Items) >= 2, fmt.Sprintf("%d pods, %d claims", len(pods.Items), len(claims.Items))
	})
	// A claim that a pod makes for itself; its controller is not run here.
	pods, err := north.Typed.CoreV1().Pods(ns).List(t.Context(), listAll)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; strings.HasPrefix(p.Name, "web-") {
			create(t, north, ns, fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: %[1]s-scratch, namespace: @NS@, ownerReferences: [{apiVersion: v1, kind: Pod, name: %[1]s, uid: %[2]s, controller: true}]}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, resources: {requests: {storage: 1Gi}}}}`, p.Name, p.UID))
		}
	}
	v := moving(t, north, west, ns)
	create(t, west, ns, strings.ReplaceAll(classWest, "standard-west", "standard-controlled"))
	v.opts.To.StorageClasses = map[string]string{"premium-east": "standard-controlled"}
	// The default account is made by a controller; there is none at this target.
	v.apply()
	var found []string
	for _, kind := range []string{"pods", "replicasets", "controllerrevisions", "persistentvolumeclaims"} {
		found = append(found, namesOf(t, west, ns, kind)...)
	}
	want := "pods/bare-xyz replicasets/bare persistentvolumeclaims/d-db-0 persistentvolumeclaims/d-db-1"
	if got := strings.Join(found, " "); got != want {
		t.Errorf("at the target: %s, want %s", got, want)
	}
	pod := get(t, west, ns, "v1/Pod/bare-xyz")
	if pod.GetGenerateName() != "" || field(pod, "spec.nodeName") != nil {
		t.Errorf("the pod without a controller: %v", pod.Object)
	}
	if got := fmt.Sprint(v.field("apps/v1/Deployment/web", "spec.template.spec.volumes")); !strings.Contains(got, "storageClassName:standard-controlled") {
		t.Errorf("the class of a pod's own claim is not mapped: %s", got)
	}
	if got := v.field("v1/PersistentVolumeClaim/d-db-0", "spec.storageClassName"); got != "standard-controlled" {
		t.Errorf("class of a StatefulSet's claim: %v", got)
	}
	if got := get(t, west, "", "v1/Namespace/"+ns).GetLabels()["pod-security.kubernetes.io/enforce"]; got != "baseline" {
		t.Errorf("the namespace's security level is %q", got)
	}
	if !v.there("policy/v1/PodDisruptionBudget/web") || !v.there("networking.k8s.io/v1/NetworkPolicy/deny") {
		t.Error("the budget or the network policy is missing")
	}
	v.twice()
}

// An autoscaler's replicas are its own business, whatever kind it is.
func TestAutoscaledWorkloads(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, []string{"keda.sh/v1alpha1/ScaledObject/scaledobjects"}, east, west)
	const ns = "autoscaled"
	deployment := func(name string) string {
		return strings.ReplaceAll(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: NAME, namespace: @NS@}, spec: {replicas: 3, selector: {matchLabels: {app: NAME}}, template: {metadata: {labels: {app: NAME}}, spec: {containers: [{name: a, image: a}]}}}}`, "NAME", name)
	}
	v := move(t, east, west, ns, emptyNamespace+"---\n"+deployment("hpa")+"\n---\n"+deployment("keda")+"\n---\n"+deployment("fixed")+`
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: hpa, namespace: @NS@}, spec: {minReplicas: 2, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: hpa}}}
---
{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: keda, namespace: @NS@}, spec: {scaleTargetRef: {name: keda}}}`)
	v.apply()
	for _, name := range []string{"hpa", "keda", "fixed"} {
		patch(t, west, ns, "apps/v1/Deployment/"+name, "spec: {replicas: 7}")
		readyDeployment(t, west, ns, name)
	}
	v.verify("Deployment " + ns + "/fixed: spec.replicas is 7, should be 3")
	v.apply()
	for name, want := range map[string]int64{"hpa": 7, "keda": 7, "fixed": 3} {
		if got := v.field("apps/v1/Deployment/"+name, "spec.replicas"); got != want {
			t.Errorf("%s has %v replicas, want %d", name, got, want)
		}
	}
}

// Quotas and limits are there before the pods that they shape, and do not stand in the way of anything else.
func TestQuotasBeforePods(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "quotas"
	v := move(t, east, north, ns, emptyNamespace+`---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: q, namespace: @NS@}, spec: {hard: {limits.memory: 1Gi, pods: "3", persistentvolumeclaims: "1", configmaps: "2"}}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: @NS@}, spec: {limits: [{type: Container, default: {memory: 64Mi}}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: @NS@}, spec: {containers: [{name: a, image: a}]}}`)
	v.apply()
	pod := get(t, north, ns, "v1/Pod/one")
	if got := fmt.Sprint(field(pod, "spec.containers")); !strings.Contains(got, "memory:64Mi") {
		t.Errorf("the limit did not shape the pod: %s", got)
	}
	if !v.there("v1/ConfigMap/a") || !v.there("v1/ResourceQuota/q") {
		t.Error("something is missing")
	}
	v.twice()
}

// namesOf lists "plural/name" of a namespace, sorted as the server does.
func namesOf(t *testing.T, c *kube.Client, ns, plural string) []string {
	t.Helper()
	group := ""
	if plural == "replicasets" || plural == "controllerrevisions" {
		group = "apps"
	}
	list, err := c.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}).Namespace(ns).List(t.Context(), listAll)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := range list.Items {
		out = append(out, plural+"/"+list.Items[i].GetName())
	}
	return out
}
