package statetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
)

// populate makes the application at east, with what controllers would add.
func populate(t *testing.T, east, west *kube.Client, ns string) {
	t.Helper()
	populateWith(t, east, west, ns, application)
}

func populateWith(t *testing.T, east, west *kube.Client, ns, docs string) {
	t.Helper()
	for c, doc := range map[*kube.Client]string{east: classEast, west: classWest} {
		obj := &unstructured.Unstructured{}
		if strings.Contains(doc, "premium") {
			obj.SetName("premium-east")
		} else {
			obj.SetName("standard-west")
		}
		obj.SetAPIVersion("storage.k8s.io/v1")
		obj.SetKind("StorageClass")
		obj.Object["provisioner"] = "dir.example"
		if _, err := c.Apply(t.Context(), obj); err != nil { // every test does it
			t.Fatal(err)
		}
	}
	create(t, east, ns, docs)
	discount := get(t, east, ns, ns+".example.com/v1/Discount/spring")
	create(t, east, ns, fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: owned, namespace: @NS@,
		ownerReferences: [{apiVersion: @NS@.example.com/v1, kind: Discount, name: spring, uid: %s}]}, stringData: {a: b}}`, discount.GetUID()))
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: @NS@}, data: {ca.crt: x}}`)
	patch(t, east, ns, ns+".example.com/v1/Discount/spring", "status: {phase: Active, observedGeneration: 1}", "status")
	patch(t, east, ns, "batch/v1/Job/finished", `status: {startTime: "2026-01-01T00:00:00Z", completionTime: "2026-01-01T00:01:00Z", succeeded: 1, conditions: [
		{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}]}`, "status")
	patch(t, east, ns, "v1/PersistentVolumeClaim/data", "metadata: {annotations: {pv.kubernetes.io/bind-completed: 'yes', lifeboat.dev/restored: older}}")
}

// serve sets the statuses that controllers would set.
func serve(t *testing.T, c *kube.Client, ns string) {
	t.Helper()
	for _, d := range []string{"web", "twice"} {
		obj := get(t, c, ns, "apps/v1/Deployment/"+d)
		patch(t, c, ns, "apps/v1/Deployment/"+d, fmt.Sprintf("status: {observedGeneration: %d, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}", obj.GetGeneration()), "status")
	}
	patch(t, c, ns, "apps/v1/StatefulSet/db", fmt.Sprintf("status: {observedGeneration: %d, replicas: 1, readyReplicas: 1}", get(t, c, ns, "apps/v1/StatefulSet/db").GetGeneration()), "status")
	patch(t, c, ns, "batch/v1/Job/running", "status: {active: 1, ready: 1}", "status")
	patch(t, c, ns, "v1/PersistentVolumeClaim/data", "status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}", "status")
}

func TestCaptureAndRestoreElsewhere(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "elsewhere"
	populate(t, east, west, ns)
	m, result := captured(t, east, ns)
	if len(result.Missing) > 0 || result.Objects != len(m.docs)-1 {
		t.Fatalf("%d objects, %d documents, missing %v", result.Objects, len(m.docs), result.Missing)
	}
	for _, path := range []string{
		"cluster/core/namespaces/elsewhere.json", "cluster/apiextensions.k8s.io/customresourcedefinitions/discounts.elsewhere.example.com.json",
		"cluster/storage.k8s.io/storageclasses/premium-east.json", "cluster/rbac.authorization.k8s.io/clusterroles/elsewhere:nodes.json",
		"cluster/rbac.authorization.k8s.io/clusterrolebindings/elsewhere:nodes.json", "cluster/scheduling.k8s.io/priorityclasses/elsewhere-high.json",
		"cluster/admissionregistration.k8s.io/validatingwebhookconfigurations/elsewhere-hook.json",
		"namespaces/elsewhere/apps/deployments/web.json", "namespaces/elsewhere/core/secrets/key.json", "namespaces/elsewhere/elsewhere.example.com/discounts/spring.json",
	} {
		if m.docs[path] == nil {
			t.Errorf("not captured: %s", path)
		}
	}
	for path, doc := range m.docs {
		if strings.Contains(string(doc), "managedFields") || strings.Contains(string(doc), `"resourceVersion"`) {
			t.Errorf("%s holds what changes by itself", path)
		}
	}
	again, _ := captured(t, east, ns)
	for path, doc := range m.docs {
		if string(again.docs[path]) != string(doc) {
			t.Errorf("%s differs between two captures", path)
		}
	}

	set, opts := loaded(t, m), options(ns)
	opts.Stage = dr.StageFoundation
	out, err := set.Apply(t.Context(), west, opts, nil)
	if err != nil {
		t.Fatalf("%v\n%+v", err, out)
	}
	if get(t, west, ns, "apps/v1/Deployment/web") != nil || get(t, west, ns, ns+".example.com/v1/Discount/spring") != nil {
		t.Error("the foundation started something")
	}
	nothingChanges(t, set, west, opts)
	checkFoundation(t, west, ns)

	opts.Stage = dr.StageWorkloads
	workloads(t, set, west, opts)
	checkWorkloads(t, west, ns)
	nothingChanges(t, set, west, opts)
	opts.Stage = dr.StageFoundation // after the workloads too, owners included
	nothingChanges(t, set, west, opts)
	opts.Stage = ""
	verified(t, set, west, opts)
}

// workloads applies that stage while the webhook's backend becomes ready.
func workloads(t *testing.T, set *restore.Set, west *kube.Client, opts restore.Options) {
	t.Helper()
	waited := make(chan restore.Progress, 1000)
	type ended struct {
		out dr.RestoreOutput
		err error
	}
	done := make(chan ended, 1)
	go func() {
		out, err := set.Apply(t.Context(), west, opts, func(p restore.Progress) {
			if p.Waiting != "" {
				waited <- p
			}
		})
		done <- ended{out, err}
	}()
	select {
	case p := <-waited:
		if p.Object != "ValidatingWebhookConfiguration "+opts.Application+"-hook" || !strings.Contains(p.Waiting, "Deployment "+opts.Application+"/web") {
			t.Errorf("%s waits for %s", p.Object, p.Waiting)
		}
	case e := <-done:
		t.Fatalf("the webhook did not wait for its backend: %+v", e)
	}
	obj := get(t, west, opts.Application, "apps/v1/Deployment/web")
	patch(t, west, opts.Application, "apps/v1/Deployment/web", fmt.Sprintf("status: {observedGeneration: %d, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}", obj.GetGeneration()), "status")
	if e := <-done; e.err != nil {
		t.Fatalf("%v\n%+v", e.err, e.out)
	}
}

func nothingChanges(t *testing.T, set *restore.Set, c *kube.Client, opts restore.Options) {
	t.Helper()
	out, err := set.Apply(t.Context(), c, opts, nil)
	if err != nil || out.Created+out.Updated > 0 || out.Unchanged == 0 {
		t.Errorf("a second %s: created %d, updated %d, unchanged %d, notes %q, error %v", opts.Stage, out.Created, out.Updated, out.Unchanged, out.Notes, err)
	}
}

func checkFoundation(t *testing.T, c *kube.Client, ns string) {
	t.Helper()
	claim := get(t, c, ns, "v1/PersistentVolumeClaim/data")
	if field(claim, "spec.storageClassName") != "standard-west" || claim.GetAnnotations()["pv.kubernetes.io/bind-completed"] != "" || claim.GetAnnotations()["lifeboat.dev/restored"] != "" {
		t.Errorf("claim %v", claim)
	}
	if claim.GetLabels()[kube.LabelApplication] != ns || claim.GetAnnotations()[kube.AnnotationPoint] != "point-1" {
		t.Errorf("marks of the claim: %v %v", claim.GetLabels(), claim.GetAnnotations())
	}
	if got := get(t, c, "", "v1/Namespace/"+ns).GetAnnotations()["openshift.io/sa.scc.uid-range"]; got != "1000680000/10000" {
		t.Errorf("uid range %q", got)
	}
	if got := field(get(t, c, ns, "v1/Service/db"), "spec.clusterIP"); got != "None" {
		t.Errorf("headless Service has address %v", got)
	}
	if get(t, c, ns, "v1/ConfigMap/kube-root-ca.crt") != nil {
		t.Error("the old cluster's CA was restored")
	}
	if data := field(get(t, c, ns, "v1/Secret/key"), "data"); fmt.Sprint(data) != "map[key:YWFyZHZhcms=]" {
		t.Errorf("secret %v", data)
	}
	if owned := get(t, c, ns, "v1/Secret/owned"); len(owned.GetOwnerReferences()) > 0 {
		t.Errorf("owned by what is not there yet: %v", owned.GetOwnerReferences())
	}
}

func checkWorkloads(t *testing.T, c *kube.Client, ns string) {
	t.Helper()
	if got := fmt.Sprint(field(get(t, c, ns, "apps/v1/Deployment/web"), "spec.template.spec.containers")); !strings.Contains(got, "image:registry.west.test/web:1") {
		t.Errorf("containers %s", got)
	}
	if got := fmt.Sprint(field(get(t, c, ns, "apps/v1/Deployment/twice"), "spec.template.spec.containers")); strings.Count(got, "SAME") != 2 {
		t.Errorf("a variable that is there twice was lost: %s", got)
	}
	if get(t, c, ns, "batch/v1/Job/finished") != nil || get(t, c, ns, "batch/v1/Job/running") == nil {
		t.Error("a finished Job came back, or a running one did not")
	}
	discount := get(t, c, ns, ns+".example.com/v1/Discount/spring")
	if field(discount, "status.phase") != "Active" || len(discount.GetFinalizers()) > 0 {
		t.Errorf("custom resource %v", discount)
	}
	owned := get(t, c, ns, "v1/Secret/owned").GetOwnerReferences()
	if len(owned) != 1 || owned[0].UID != discount.GetUID() {
		t.Errorf("owners %v, want the new uid %s", owned, discount.GetUID())
	}
}

// verified waits for readiness, then changes things at the target and expects them to be found.
func verified(t *testing.T, set *restore.Set, c *kube.Client, opts restore.Options) {
	t.Helper()
	ns := opts.Application
	serve(t, c, ns)
	out, err := set.AwaitReady(deadline(t), c, opts, nil)
	if err != nil || len(out.Problems) > 0 {
		t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	patch(t, c, ns, "v1/ConfigMap/web", "data: {title: Another shop}")
	patch(t, c, ns, "apps/v1/StatefulSet/db", "status: {readyReplicas: 0}", "status")
	patch(t, c, ns, "apps/v1/Deployment/web", "spec: {replicas: 5}") // its autoscaler's business, but not ready
	r, name := resource(t, c, ns, "v1/Secret/key")
	if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	found, err := set.Verify(t.Context(), c, opts)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ConfigMap elsewhere/web: data.title differs", "Deployment elsewhere/web: not yet seen by its controller", "Secret elsewhere/key: missing", "StatefulSet elsewhere/db: 0 of 1 replicas ready"}
	if !slices.Equal(found.Problems, want) {
		t.Errorf("problems %q, want %q", found.Problems, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = set.AwaitReady(ctx, c, opts, nil)
	if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), "StatefulSet elsewhere/db: 0 of 1 replicas ready") {
		t.Errorf("a wait in vain: %v", err)
	}
}

func TestKilledAndResumed(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "resumed"
	populate(t, east, west, ns)
	m, _ := captured(t, east, ns)
	delete(m.docs, "cluster/admissionregistration.k8s.io/validatingwebhookconfigurations/resumed-hook.json") // waits for a backend
	m.docs["meta.json"] = []byte(fmt.Sprintf(`{"namespaces":["resumed"],"objects":%d}`, len(m.docs)-1))
	set, opts := loaded(t, m), options(ns)
	created := 0
	for stop := 3; ; stop += 4 {
		ctx, kill := context.WithCancelCause(t.Context())
		killed := errors.New("killed")
		out, err := set.Apply(ctx, west, opts, func(p restore.Progress) {
			if p.Done >= stop {
				kill(killed)
			}
		})
		created += out.Created
		if err == nil {
			if out.Unchanged == 0 {
				t.Error("nothing was found done")
			}
			break
		}
		if !errors.Is(err, killed) {
			t.Fatal(err)
		}
		if stop > 100 {
			t.Fatal("it never ends")
		}
	}
	serve(t, west, ns)
	out, err := set.Verify(t.Context(), west, opts)
	if err != nil || len(out.Problems) > 0 {
		t.Errorf("error %v, problems %q", err, out.Problems)
	}
	// A kill may come between an effect and its being counted, never the other way round.
	if total := len(prepared(t, set, opts)); created > total {
		t.Errorf("%d objects were created of %d", created, total)
	}
	nothingChanges(t, set, west, opts)
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "preflight"
	populate(t, east, west, ns)
	m, _ := captured(t, east, ns)
	set, opts := loaded(t, m), options(ns)
	opts.To.StorageClasses = nil
	out, err := set.Apply(t.Context(), west, opts, nil)
	if dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "storage class premium-east does not exist at site west") {
		t.Errorf("error %v", err)
	}
	if out.Created > 0 || get(t, west, "", "v1/Namespace/"+ns) != nil {
		t.Error("something was changed")
	}
	create(t, west, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}`)
	r, name := resource(t, west, "", "v1/Namespace/"+ns)
	if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	patch(t, west, "", "v1/Namespace/"+ns, `status: {conditions: [{type: NamespaceFinalizersRemaining, status: "True", message: "x.example/wait in 1 resource", lastTransitionTime: "2026-01-01T00:00:00Z"}]}`, "status")
	opts = options(ns)
	found, err := set.Preflight(t.Context(), west, opts)
	if err != nil || len(found) != 1 || !strings.Contains(found[0], "x.example/wait") {
		t.Errorf("found %q, error %v", found, err)
	}
	opts.GateTimeout = 300 * time.Millisecond
	if _, err := set.Apply(t.Context(), west, opts, nil); dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "x.example/wait") {
		t.Errorf("a namespace that does not go away: %v", err)
	}
}

func TestObjectsThatAreThere(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "existing"
	const docs = `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, namespace: @NS@}, data: {a: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed, namespace: @NS@}, immutable: true, data: {a: "1"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: git, namespace: @NS@, labels: {argocd.argoproj.io/instance: x}}, data: {a: "1"}}
`
	create(t, east, ns, docs)
	create(t, west, ns, strings.ReplaceAll(docs, `"1"`, `"2"`))
	patch(t, west, ns, "v1/ConfigMap/plain", "data: {b: kept}")
	m, _ := captured(t, east, ns)
	set := loaded(t, m)
	value := func(name string) any { return field(get(t, west, ns, "v1/ConfigMap/"+name), "data.a") }

	opts := options(ns)
	opts.Existing = restore.Keep
	out, err := set.Apply(t.Context(), west, opts, nil)
	if err != nil || out.Updated > 0 || value("plain") != "2" || !strings.Contains(strings.Join(out.Skipped, "\n"), "ConfigMap existing/plain: it is there and differs (data.a differs); kept") {
		t.Errorf("keep: %+v, %v", out, err)
	}
	opts.Existing = "" // patch
	out, err = set.Apply(t.Context(), west, opts, nil)
	if dr.ClassOf(err) != dr.ClassIncomplete || len(out.Problems) != 1 || !strings.Contains(out.Problems[0], "ConfigMap existing/fixed") {
		t.Errorf("patch: an immutable object: %+v, %v", out, err)
	}
	if value("plain") != "1" || field(get(t, west, ns, "v1/ConfigMap/plain"), "data.b") != "kept" || !strings.Contains(strings.Join(out.Notes, "\n"), "ConfigMap existing/plain: it was there and differed") {
		t.Errorf("patch: %+v", out)
	}
	if value("git") != "2" || !strings.Contains(strings.Join(out.Skipped, "\n"), "managed by Argo CD") {
		t.Errorf("an object of Argo CD's was touched: %+v", out)
	}
	opts.Existing = restore.Replace
	uid := get(t, west, ns, "v1/ConfigMap/fixed").GetUID()
	out, err = set.Apply(t.Context(), west, opts, nil)
	if err != nil || value("fixed") != "1" || get(t, west, ns, "v1/ConfigMap/fixed").GetUID() == uid {
		t.Errorf("replace: %+v, %v", out, err)
	}
	nothingChanges(t, set, west, opts)
}
