package procnode

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containerView is what a pod's status is made of, per container.
type containerView struct {
	role   role
	status corev1.ContainerStatus
}

// podView is what a pod's status is made of.
type podView struct {
	pod             *corev1.Pod
	podIP, hostIP   string
	started         time.Time
	prepared        bool   // volumes and address are there
	reason, message string // why the pod was ended before its time, if it was: it has failed then
	containers      []containerView
}

// podStatus computes a pod's status; old, as last written, keeps the times of what did not change.
func podStatus(v podView, old corev1.PodStatus, now time.Time) corev1.PodStatus {
	start := metav1.NewTime(v.started.Truncate(time.Second))
	s := corev1.PodStatus{
		ObservedGeneration: v.pod.Generation,
		Phase:              phase(v),
		Reason:             v.reason, Message: v.message,
		HostIP: v.hostIP, HostIPs: []corev1.HostIP{{IP: v.hostIP}},
		PodIP: v.podIP, StartTime: &start,
	}
	if v.podIP != "" {
		s.PodIPs = []corev1.PodIP{{IP: v.podIP}}
	}
	var unready []string
	initialized := true
	for _, c := range v.containers {
		switch c.role {
		case roleMain:
			s.ContainerStatuses = append(s.ContainerStatuses, c.status)
		default:
			s.InitContainerStatuses = append(s.InitContainerStatuses, c.status)
		}
		switch {
		case c.role == roleInit:
			initialized = initialized && done(c.status)
		case c.role == roleSidecar:
			initialized = initialized && (c.status.Started != nil && *c.status.Started || c.status.RestartCount > 0)
			fallthrough
		default:
			if !c.status.Ready {
				unready = append(unready, c.status.Name)
			}
		}
	}
	if s.Phase == corev1.PodSucceeded {
		initialized = true
	}
	s.Conditions = conditions(v, s.Phase, initialized, unready, old.Conditions, metav1.NewTime(now.Truncate(time.Second)))
	return s
}

func done(s corev1.ContainerStatus) bool {
	return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
}

// phase sums up the containers' states.
func phase(v podView) corev1.PodPhase {
	if v.reason != "" {
		return corev1.PodFailed
	}
	var waiting, running, failed, total int
	for _, c := range v.containers {
		t := c.status.State.Terminated
		if c.role == roleInit && t != nil && t.ExitCode != 0 && v.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			return corev1.PodFailed
		}
		if c.role != roleMain {
			continue
		}
		total++
		switch {
		case c.status.State.Running != nil:
			running++
		case t != nil:
			if t.ExitCode != 0 {
				failed++
			}
		case c.status.LastTerminationState.Terminated != nil:
			running++ // between two runs
		default:
			waiting++
		}
	}
	stopping := v.pod.DeletionTimestamp != nil
	switch {
	case waiting > 0:
		return corev1.PodPending
	case running > 0 || total == 0:
		return corev1.PodRunning
	case failed == 0 && (stopping || v.pod.Spec.RestartPolicy != corev1.RestartPolicyAlways):
		return corev1.PodSucceeded
	case stopping || v.pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning // to be restarted
}

func conditions(v podView, ph corev1.PodPhase, initialized bool, unready []string, old []corev1.PodCondition, now metav1.Time) []corev1.PodCondition {
	reason, message := "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	ready := len(unready) == 0
	switch ph {
	case corev1.PodSucceeded:
		ready, reason, message = false, "PodCompleted", ""
	case corev1.PodFailed:
		ready, reason, message = false, "PodFailed", ""
	}
	podReady, podReason, podMessage := ready, reason, message
	for _, gate := range v.pod.Spec.ReadinessGates {
		if podReady && !conditionTrue(v.pod.Status.Conditions, gate.ConditionType) {
			podReady, podReason, podMessage = false, "ReadinessGatesNotReady", fmt.Sprintf("condition %q is not true", gate.ConditionType)
		}
	}
	initReason := ""
	if !initialized {
		initReason = "ContainersNotInitialized"
	}
	live := v.prepared && ph != corev1.PodSucceeded && ph != corev1.PodFailed
	out := []corev1.PodCondition{
		condition(corev1.PodReadyToStartContainers, live, "", ""),
		condition(corev1.PodInitialized, initialized, initReason, ""),
		condition(corev1.PodReady, podReady, podReason, podMessage),
		condition(corev1.ContainersReady, ready, reason, message),
	}
	for i := range out {
		out[i].ObservedGeneration = v.pod.Generation
		out[i].LastTransitionTime = now
		for _, o := range old {
			if o.Type == out[i].Type && o.Status == out[i].Status && !o.LastTransitionTime.IsZero() {
				out[i].LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return out
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	if ok {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

func conditionTrue(list []corev1.PodCondition, t corev1.PodConditionType) bool {
	for _, c := range list {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
