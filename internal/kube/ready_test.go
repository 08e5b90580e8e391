package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, doc string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := utiljson.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: m}
}

func TestReady(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		doc   string
		ready bool
		state string
	}{
		"a Deployment not yet seen":       {"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 2}, spec: {replicas: 1}, status: {observedGeneration: 1, readyReplicas: 1}}", false, "not yet seen"},
		"a Deployment coming up":          {"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, spec: {replicas: 3}, status: {observedGeneration: 1, updatedReplicas: 3, readyReplicas: 1}}", false, "1 of 3 replicas ready"},
		"a Deployment with old replicas":  {"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 2}, spec: {replicas: 1}, status: {observedGeneration: 2, updatedReplicas: 0, readyReplicas: 1, availableReplicas: 1}}", false, "0 of 1 replicas up to date"},
		"a Deployment that is stuck":      {"{apiVersion: apps/v1, kind: Deployment, metadata: {}, spec: {}, status: {conditions: [{type: Progressing, status: 'False', message: too late}]}}", false, "too late"},
		"a Deployment":                    {"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, spec: {replicas: 2}, status: {observedGeneration: 1, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}}", true, "2 replicas ready"},
		"a Deployment of none":            {"{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, spec: {replicas: 0}, status: {observedGeneration: 1}}", true, "0 replicas"},
		"a StatefulSet coming up":         {"{apiVersion: apps/v1, kind: StatefulSet, metadata: {}, spec: {}, status: {}}", false, "0 of 1"},
		"a DaemonSet":                     {"{apiVersion: apps/v1, kind: DaemonSet, metadata: {generation: 1}, status: {observedGeneration: 1, desiredNumberScheduled: 2, numberReady: 2}}", true, "2 nodes"},
		"a Job that failed":               {"{apiVersion: batch/v1, kind: Job, metadata: {}, status: {conditions: [{type: Failed, status: 'True', reason: BackoffLimitExceeded}]}}", false, "BackoffLimitExceeded"},
		"a Job that runs":                 {"{apiVersion: batch/v1, kind: Job, metadata: {}, status: {active: 1, ready: 1}}", true, "running"},
		"a Job whose pod does not start":  {"{apiVersion: batch/v1, kind: Job, metadata: {}, status: {active: 1, ready: 0}}", false, "no pod"},
		"a claim that waits":              {"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {}, status: {phase: Pending}}", false, "Pending"},
		"a claim":                         {"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {}, spec: {volumeName: v}, status: {phase: Bound}}", true, "bound to v"},
		"a pod whose image is missing":    {"{apiVersion: v1, kind: Pod, metadata: {}, status: {phase: Pending, conditions: [{type: Ready, status: 'False'}], containerStatuses: [{name: a, state: {waiting: {reason: ImagePullBackOff}}}]}}", false, "container a: ImagePullBackOff"},
		"a pod that ended":                {"{apiVersion: v1, kind: Pod, metadata: {}, status: {phase: Succeeded}}", true, "succeeded"},
		"a namespace that goes":           {"{apiVersion: v1, kind: Namespace, metadata: {}, status: {phase: Terminating, conditions: [{type: NamespaceFinalizersRemaining, status: 'True', message: x.example in 1 resource}]}}", false, "x.example"},
		"a CRD whose names are taken":     {"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {}, status: {conditions: [{type: NamesAccepted, status: 'False', message: plural in use}]}}", false, "plural in use"},
		"a CRD":                           {"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {}, status: {conditions: [{type: Established, status: 'True'}]}}", true, "established"},
		"a Route nobody admitted":         {"{apiVersion: route.openshift.io/v1, kind: Route, metadata: {}, status: {}}", false, "not admitted by any router yet"},
		"a Route whose host is taken":     {"{apiVersion: route.openshift.io/v1, kind: Route, metadata: {}, status: {ingress: [{routerName: default, conditions: [{type: Admitted, status: 'False', reason: HostAlreadyClaimed, message: route a/b has it}]}]}}", false, "HostAlreadyClaimed: route a/b has it"},
		"a Route":                         {"{apiVersion: route.openshift.io/v1, kind: Route, metadata: {}, status: {ingress: [{conditions: [{type: Admitted, status: 'True'}]}]}}", true, "admitted"},
		"a kind without readiness":        {"{apiVersion: v1, kind: ConfigMap, metadata: {}}", true, "present"},
		"a ReplicationController waiting": {"{apiVersion: v1, kind: ReplicationController, metadata: {}, spec: {replicas: 1}}", false, "0 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ready, state := Ready(object(t, c.doc))
			if ready != c.ready || !strings.Contains(state, c.state) {
				t.Errorf("%v, %q; want %v, %q", ready, state, c.ready, c.state)
			}
		})
	}
}

func TestFencePatches(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		doc         string
		stop, start string // merge patches; empty: nothing to do
	}{
		"running":            {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: 3}}", `{"metadata":{"annotations":{"lifeboat.dev/replicas":"3"}},"spec":{"replicas":0}}`, ""},
		"fenced":             {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, annotations: {lifeboat.dev/replicas: '3'}}, spec: {replicas: 0}}", "", `{"metadata":{"annotations":{"lifeboat.dev/replicas":null}},"spec":{"replicas":3}}`},
		"at zero by itself":  {"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {replicas: 0}}", "", ""},
		"of a Deployment":    {"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x, ownerReferences: [{kind: Deployment, name: d, controller: true}]}, spec: {replicas: 3}}", "", ""},
		"a CronJob":          {"{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {}}", `{"metadata":{"annotations":{"lifeboat.dev/suspended":"false"}},"spec":{"suspend":true}}`, ""},
		"suspended by hand":  {"{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {suspend: true}}", "", ""},
		"a suspended Job":    {"{apiVersion: batch/v1, kind: Job, metadata: {name: x, annotations: {lifeboat.dev/suspended: 'false'}}, spec: {suspend: true}}", "", `{"metadata":{"annotations":{"lifeboat.dev/suspended":null}},"spec":{"suspend":false}}`},
		"a finished Job":     {"{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {}, status: {conditions: [{type: Complete, status: 'True'}]}}", "", ""},
		"a DaemonSet":        {"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x}, spec: {template: {spec: {}}}}", `{"spec":{"template":{"spec":{"nodeSelector":{"lifeboat.dev/fenced":"true"}}}}}`, ""},
		"a fenced DaemonSet": {"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x}, spec: {template: {spec: {nodeSelector: {lifeboat.dev/fenced: 'true'}}}}}", "", `{"spec":{"template":{"spec":{"nodeSelector":{"lifeboat.dev/fenced":null}}}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			obj := object(t, c.doc)
			if got := stopPatchOf(t, obj); got != c.stop {
				t.Errorf("stopped with %s, want %s", got, c.stop)
			}
			got, err := UnfencePatch(obj)
			if err != nil || string(got) != c.start {
				t.Errorf("started with %s (%v), want %s", got, err, c.start)
			}
		})
	}
}

// stopPatchOf is what Fence would do to an object.
func stopPatchOf(t *testing.T, obj *unstructured.Unstructured) string {
	t.Helper()
	for _, s := range stoppers() {
		if s.gvr.Resource != strings.ToLower(obj.GetKind())+"s" {
			continue
		}
		patch := s.stop(obj)
		if patch == nil {
			return ""
		}
		raw, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	t.Fatalf("nothing stops a %s", obj.GetKind())
	return ""
}
