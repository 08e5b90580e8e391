package statetest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "b"}}
}

const runs = `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: @NS@}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: @NS@}, spec: {replicas: 2, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: a}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: @NS@}, spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: a, image: a}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: job, namespace: @NS@}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: @NS@}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: a}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: mover, namespace: @NS@, labels: {lifeboat.dev/transient: mover}}, spec: {containers: [{name: a, image: a}]}}
`

func TestFence(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "fenced"
	create(t, east, ns, runs)
	m, _ := captured(t, east, ns) // as it ran
	n, err := kube.Fence(deadline(t), east, []string{ns, "not-there"})
	if err != nil || n != 6 {
		t.Fatalf("%d stopped, error %v", n, err)
	}
	state := func(kind, path string) any { return field(get(t, east, ns, kind), path) }
	if state("apps/v1/Deployment/web", "spec.replicas") != int64(0) || state("apps/v1/StatefulSet/db", "spec.replicas") != int64(0) ||
		state("batch/v1/CronJob/nightly", "spec.suspend") != true || state("batch/v1/Job/job", "spec.suspend") != true || get(t, east, ns, "v1/Pod/bare") != nil {
		t.Error("something still runs")
	}
	if get(t, east, ns, "v1/Pod/mover") == nil {
		t.Error("a mover was stopped")
	}
	if n, err := kube.Fence(deadline(t), east, []string{ns}); err != nil || n != 0 {
		t.Errorf("a second time: %d stopped, error %v", n, err)
	}
	fenced, _ := captured(t, east, ns)
	for name, m := range map[string]*memory{"a checkpoint from before": m, "one of the fenced site": fenced} {
		for _, o := range prepared(t, loaded(t, m), options(ns)) {
			if o.GetName() == "web" && field(o, "spec.replicas") != int64(3) || o.GetName() == "nightly" && field(o, "spec.suspend") != false || strings.HasPrefix(o.GetName(), "mover") {
				t.Errorf("%s holds %s %v", name, o.GetName(), o.Object["spec"])
			}
		}
	}
	// Restoring to the fenced site itself undoes the fence.
	opts := options(ns)
	opts.To = dr.Site{Name: "east"}
	set := loaded(t, m)
	if out, err := set.Apply(t.Context(), east, opts, nil); err != nil {
		t.Fatalf("%v: %+v", err, out)
	}
	for kind, want := range map[string]any{"apps/v1/Deployment/web": int64(3), "apps/v1/StatefulSet/db": int64(2)} {
		if got := state(kind, "spec.replicas"); got != want || get(t, east, ns, kind).GetAnnotations()[kube.AnnotationReplicas] != "" {
			t.Errorf("%s has %v replicas, want %v", kind, got, want)
		}
	}
	if state("apps/v1/DaemonSet/agent", "spec.template.spec.nodeSelector") != nil || state("batch/v1/CronJob/nightly", "spec.suspend") != false || get(t, east, ns, "v1/Pod/bare") == nil {
		t.Error("the DaemonSet, the CronJob or the pod is still fenced")
	}
	nothingChanges(t, set, east, opts)
}

func TestUnfence(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "unfenced"
	create(t, east, ns, runs)
	if _, err := kube.Fence(deadline(t), east, []string{ns}); err != nil {
		t.Fatal(err)
	}
	n, err := kube.Unfence(t.Context(), east, []string{ns})
	if err != nil || n != 5 {
		t.Errorf("%d started, error %v", n, err)
	}
	if field(get(t, east, ns, "apps/v1/Deployment/web"), "spec.replicas") != int64(3) || field(get(t, east, ns, "batch/v1/Job/job"), "spec.suspend") != false {
		t.Error("not as before")
	}
	if n, err := kube.Unfence(t.Context(), east, []string{ns}); err != nil || n != 0 {
		t.Errorf("a second time: %d started, error %v", n, err)
	}
}

func TestFenceNamesThePodsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "stuck"
	create(t, east, ns, runs)
	patch(t, east, ns, "v1/Pod/bare", "metadata: {finalizers: [example.com/wait]}")
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	_, err := kube.Fence(ctx, east, []string{ns})
	if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), "stuck/bare") {
		t.Errorf("error %v", err)
	}
	patch(t, east, ns, "v1/Pod/bare", "metadata: {finalizers: null}")
}

// A webhook at the target whose backend does not answer yet is waited for, not bypassed.
func TestAWebhookThatComesUpLate(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "hooked"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}}
`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	create(t, west, ns, strings.ReplaceAll(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@-late}, webhooks: [{name: late.example.com, sideEffects: None, admissionReviewVersions: [v1],
  timeoutSeconds: 1, clientConfig: {url: "https://@ADDRESS@/"}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: @NS@}}, rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}]}`, "@ADDRESS@", address))
	waits := make(chan string, 1000)
	done := make(chan error, 1)
	m, _ := captured(t, east, ns)
	set := loaded(t, m)
	go func() {
		_, err := set.Apply(t.Context(), west, options(ns), func(p restore.Progress) {
			if p.Waiting != "" {
				waits <- p.Object + ": " + p.Waiting
			}
		})
		done <- err
	}()
	if w := <-waits; !strings.HasPrefix(w, "ConfigMap hooked/a: ") || !strings.Contains(w, "failed calling webhook") {
		t.Errorf("waits with %q", w)
	}
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(t, w, r)
	}))
	backend.Listener, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	backend.StartTLS()
	t.Cleanup(backend.Close)
	trust(t, west, ns+"-late", backend)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if get(t, west, ns, "v1/ConfigMap/a") == nil {
		t.Error("not restored")
	}
}
