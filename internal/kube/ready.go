package kube

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ready judges an object as the API server shows it: whether it does what it is for, and its state in a
// few words ("1 of 3 replicas ready"). Kinds without a notion of readiness are ready.
func Ready(obj *unstructured.Unstructured) (ready bool, state string) {
	if f, ok := readiness()[obj.GroupVersionKind().GroupKind()]; ok {
		return f(obj)
	}
	return true, "present"
}

// PodReady says whether a pod is ready, and stays.
func PodReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// HasReadiness says whether Ready can say anything but yes of this kind.
func HasReadiness(gk schema.GroupKind) bool {
	_, ok := readiness()[gk]
	return ok
}

func readiness() map[schema.GroupKind]func(*unstructured.Unstructured) (bool, string) {
	return map[schema.GroupKind]func(*unstructured.Unstructured) (bool, string){
		{Group: "apps", Kind: "Deployment"}:                               deploymentReady,
		{Group: "apps", Kind: "StatefulSet"}:                              statefulSetReady,
		{Group: "apps", Kind: "DaemonSet"}:                                daemonSetReady,
		{Group: "apps", Kind: "ReplicaSet"}:                               replicasReady,
		{Group: "", Kind: "ReplicationController"}:                        replicasReady,
		{Group: "apps.openshift.io", Kind: "DeploymentConfig"}:            replicasReady,
		{Group: "batch", Kind: "Job"}:                                     jobReady,
		{Group: "", Kind: "PersistentVolumeClaim"}:                        claimReady,
		{Group: "", Kind: "Service"}:                                      serviceReady,
		{Group: "", Kind: "Pod"}:                                          podReady,
		{Group: "", Kind: "Namespace"}:                                    namespaceReady,
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: crdReady,
		{Group: "route.openshift.io", Kind: "Route"}:                      routeReady,
	}
}

func deploymentReady(o *unstructured.Unstructured) (bool, string) {
	if !observed(o) {
		return false, "not yet seen by its controller"
	}
	if status, _, why := condition(o, "Progressing"); status == "False" {
		return false, "does not progress: " + why
	}
	want := number(o, 1, "spec", "replicas")
	for _, f := range []struct{ field, word string }{
		{"updatedReplicas", "up to date"}, {"readyReplicas", "ready"}, {"availableReplicas", "available"},
	} {
		if n := number(o, 0, "status", f.field); n < want {
			return false, fmt.Sprintf("%d of %d replicas %s", n, want, f.word)
		}
	}
	return true, fmt.Sprintf("%d replicas ready", want)
}

func statefulSetReady(o *unstructured.Unstructured) (bool, string) {
	if !observed(o) {
		return false, "not yet seen by its controller"
	}
	want := number(o, 1, "spec", "replicas")
	if n := number(o, 0, "status", "readyReplicas"); n < want {
		return false, fmt.Sprintf("%d of %d replicas ready", n, want)
	}
	// A partitioned roll-out never updates the rest: ready replicas are all that can be asked.
	return true, fmt.Sprintf("%d replicas ready", want)
}

func daemonSetReady(o *unstructured.Unstructured) (bool, string) {
	if !observed(o) {
		return false, "not yet seen by its controller"
	}
	want := number(o, 0, "status", "desiredNumberScheduled")
	if n := number(o, 0, "status", "numberReady"); n < want {
		return false, fmt.Sprintf("ready on %d of %d nodes", n, want)
	}
	return true, fmt.Sprintf("ready on %d nodes", want)
}

func replicasReady(o *unstructured.Unstructured) (bool, string) {
	if !observed(o) {
		return false, "not yet seen by its controller"
	}
	want := number(o, 1, "spec", "replicas")
	if n := number(o, 0, "status", "readyReplicas"); n < want {
		return false, fmt.Sprintf("%d of %d replicas ready", n, want)
	}
	return true, fmt.Sprintf("%d replicas ready", want)
}

// jobReady: a Job serves when it is complete, or when its pods run (it may run for hours).
func jobReady(o *unstructured.Unstructured) (bool, string) {
	if status, _, _ := condition(o, "Complete"); status == "True" {
		return true, "complete"
	}
	if status, reason, _ := condition(o, "Failed"); status == "True" {
		return false, "failed: " + reason
	}
	if suspended, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend"); suspended {
		return true, "suspended"
	}
	if n := number(o, 0, "status", "ready"); n > 0 {
		return true, fmt.Sprintf("%d pods running", n)
	}
	if n := number(o, 0, "status", "succeeded"); n > 0 {
		return true, fmt.Sprintf("%d pods succeeded", n)
	}
	return false, "no pod of it runs yet"
}

func claimReady(o *unstructured.Unstructured) (bool, string) {
	phase := text(o, "status", "phase")
	if phase == "Bound" {
		return true, "bound to " + text(o, "spec", "volumeName")
	}
	if phase == "" {
		phase = "not yet seen by its controller"
	}
	return false, phase
}

// serviceReady: one that asks for a load balancer waits for its address; a class of its own may be nobody's.
func serviceReady(o *unstructured.Unstructured) (bool, string) {
	if text(o, "spec", "type") != "LoadBalancer" {
		return true, "present"
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "loadBalancer", "ingress")
	if len(list) == 0 {
		return false, "has no load balancer's address yet"
	}
	return true, "has a load balancer's address"
}

func podReady(o *unstructured.Unstructured) (bool, string) {
	phase := text(o, "status", "phase")
	if phase == "Succeeded" {
		return true, "succeeded"
	}
	status, reason, why := condition(o, "Ready")
	if status == "True" {
		return true, "ready"
	}
	if w := containerTrouble(o); w != "" {
		return false, w
	}
	if why != "" {
		return false, fmt.Sprintf("%s: %s", phase, why)
	}
	return false, fmt.Sprintf("%s %s", phase, reason)
}

// containerTrouble names the first container that waits for something other than its turn.
func containerTrouble(o *unstructured.Unstructured) string {
	for _, field := range []string{"initContainerStatuses", "containerStatuses"} {
		list, _, _ := unstructured.NestedSlice(o.Object, "status", field)
		for _, item := range list {
			c, ok := item.(map[string]any)
			if !ok {
				continue
			}
			reason, _, _ := unstructured.NestedString(c, "state", "waiting", "reason")
			if reason != "" && reason != "PodInitializing" && reason != "ContainerCreating" {
				return fmt.Sprintf("container %v: %s", c["name"], reason)
			}
		}
	}
	return ""
}

func namespaceReady(o *unstructured.Unstructured) (bool, string) {
	if phase := text(o, "status", "phase"); phase != "Active" {
		return false, phase + NamespaceBlockers(o)
	}
	return true, "active"
}

// NamespaceBlockers says why a namespace that is being deleted does not go away, or nothing.
func NamespaceBlockers(o *unstructured.Unstructured) string {
	out := ""
	for _, c := range []string{"NamespaceDeletionDiscoveryFailure", "NamespaceDeletionContentFailure", "NamespaceContentRemaining", "NamespaceFinalizersRemaining"} {
		if status, _, why := condition(o, c); status == "True" {
			out += ": " + why
		}
	}
	return out
}

// NamesTaken begins the state of a CRD whose names another one has.
const NamesTaken = "its names are taken"

func crdReady(o *unstructured.Unstructured) (bool, string) {
	if status, _, why := condition(o, "NamesAccepted"); status == "False" {
		return false, NamesTaken + ": " + why
	}
	status, _, why := condition(o, "Established")
	if status == "True" {
		return true, "established"
	}
	return false, "not established " + why
}

// routeReady: a Route serves when a router admitted it and none refused.
func routeReady(o *unstructured.Unstructured) (bool, string) {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "ingress")
	admitted := 0
	for _, item := range list {
		ingress, ok := item.(map[string]any)
		if !ok {
			continue
		}
		status, reason, why := conditionIn(ingress, "Admitted")
		switch status {
		case "True":
			admitted++
		case "False":
			return false, fmt.Sprintf("refused by router %v: %s: %s", ingress["routerName"], reason, why)
		}
	}
	if admitted == 0 {
		return false, "not admitted by any router yet"
	}
	return true, fmt.Sprintf("admitted by %d routers", admitted)
}

// observed says whether the controller has acted on the newest spec.
func observed(o *unstructured.Unstructured) bool {
	return number(o, 0, "status", "observedGeneration") >= o.GetGeneration()
}

func condition(o *unstructured.Unstructured, kind string) (status, reason, message string) {
	s, _, _ := unstructured.NestedMap(o.Object, "status")
	return conditionIn(s, kind)
}

// conditionIn finds a condition in something that has a list of them.
func conditionIn(holder map[string]any, kind string) (status, reason, message string) {
	list, _, _ := unstructured.NestedSlice(holder, "conditions")
	for _, item := range list {
		if c, ok := item.(map[string]any); ok && c["type"] == kind {
			status, _ = c["status"].(string)
			reason, _ = c["reason"].(string)
			message, _ = c["message"].(string)
			return status, reason, message
		}
	}
	return "", "", ""
}

func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// number reads an integer; missing says what its absence means.
func number(o *unstructured.Unstructured, missing int64, path ...string) int64 {
	v, ok, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
	if !ok {
		return missing
	}
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return missing
}
