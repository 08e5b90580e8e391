package volume

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Labels of movers.
const (
	managedBy = "app.kubernetes.io/managed-by"
	appLabel  = "lifeboat.dev/application"
	dataLabel = "lifeboat.dev/datastore"
)

const (
	container  = "mover"
	mountPath  = "/data"
	mountEnv   = "LIFEBOAT_MOUNT" // tells the mover where its volume is
	startLimit = 3 * time.Minute  // from the Job's creation to a running pod: an image may have to be pulled
	cleanUp    = 15 * time.Second
	lifetime   = 24 * time.Hour // an abandoned mover ends by itself
	look       = 100 * time.Millisecond
)

// job makes and removes the mover of one claim.
type job struct {
	driver *Driver
	claim  *corev1.PersistentVolumeClaim
	labels map[string]string
}

func (j job) selector() string { return labels.SelectorFromSet(j.labels).String() }

// clear ends movers that an earlier process left behind: two at one volume would write over each other.
func (j job) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	api := j.driver.client.Typed
	now, background := int64(0), metav1.DeletePropagationBackground
	opts := metav1.ListOptions{LabelSelector: j.selector()}
	what := fmt.Sprintf("earlier movers of claim %s/%s to end", j.claim.Namespace, j.claim.Name)
	return kube.WaitFor(ctx, what, look, func(ctx context.Context) (bool, string, error) {
		jobs, err := api.BatchV1().Jobs(j.claim.Namespace).List(ctx, opts)
		if err != nil {
			return false, "", j.driver.unreachable(err, "list movers")
		}
		pods, err := api.CoreV1().Pods(j.claim.Namespace).List(ctx, opts)
		if err != nil {
			return false, "", j.driver.unreachable(err, "list movers")
		}
		for _, old := range jobs.Items {
			err := api.BatchV1().Jobs(old.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background})
			if err != nil && !apierrors.IsNotFound(err) {
				return false, "", j.driver.unreachable(err, "remove mover %s", old.Name)
			}
		}
		left := len(pods.Items)
		return len(jobs.Items) == 0 && left == 0, fmt.Sprintf("%d pods left", left), nil
	})
}

func (j job) create(ctx context.Context) (string, error) {
	node, err := j.usedOn(ctx)
	if err != nil {
		return "", err
	}
	made, err := j.driver.client.Typed.BatchV1().Jobs(j.claim.Namespace).Create(ctx, j.manifest(node), metav1.CreateOptions{FieldManager: "lifeboat-volume"})
	if err != nil {
		return "", j.driver.unreachable(err, "create a mover for claim %s/%s", j.claim.Namespace, j.claim.Name)
	}
	return made.Name, nil
}

// usedOn is the node on which a pod uses the claim: one that is ReadWriteOnce can be mounted only there.
func (j job) usedOn(ctx context.Context) (string, error) {
	pods, err := j.driver.client.Typed.CoreV1().Pods(j.claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", j.driver.unreachable(err, "list pods of %s", j.claim.Namespace)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == j.claim.Name {
				return p.Spec.NodeName, nil
			}
		}
	}
	return "", nil
}

func (j job) manifest(node string) *batchv1.Job {
	no, once, ttl, limit, grace, root := false, int32(0), int32(300), int64(lifetime/time.Second), int64(2), int64(0)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "lifeboat-mover-", Namespace: j.claim.Namespace, Labels: j.labels},
		Spec: batchv1.JobSpec{
			BackoffLimit: &once, ActiveDeadlineSeconds: &limit, TTLSecondsAfterFinished: &ttl,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: j.labels},
				Spec: corev1.PodSpec{
					NodeName: node, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
					AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
					SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
					Containers: []corev1.Container{{
						Name: container, Image: j.driver.image, Command: []string{"lifeboat", "mover", "wait"},
						Env: []corev1.EnvVar{{Name: mountEnv, Value: mountPath}},
						// Root without root's rights but those that reading and restoring other users' files take.
						SecurityContext: &corev1.SecurityContext{RunAsUser: &root, AllowPrivilegeEscalation: &no,
							Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}}},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
							corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}},
						VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: mountPath}},
					}},
					Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
						PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: j.claim.Name}}}},
				},
			},
		},
	}
}

// running waits for the mover's pod; when it does not come, the error says what it lacks.
func (j job) running(ctx context.Context, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	api := j.driver.client.Typed
	var pod *corev1.Pod
	err := kube.WaitFor(ctx, fmt.Sprintf("mover %s/%s to run", j.claim.Namespace, name), look, func(ctx context.Context) (bool, string, error) {
		pods, err := api.CoreV1().Pods(j.claim.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + name})
		if err != nil {
			return false, "", j.driver.unreachable(err, "look for mover %s", name)
		}
		if len(pods.Items) == 0 {
			return false, j.refused(ctx, name), nil
		}
		pod = &pods.Items[0]
		if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			return false, "", dr.Errorf(dr.ClassInternal, nil, "", "mover pod %s/%s ended before it was used: %s", pod.Namespace, pod.Name, lacks(pod))
		}
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Running != nil {
				return true, "", nil
			}
		}
		return false, lacks(pod), nil
	})
	return pod, err
}

// refused says why the Job has no pod: an admission rule's words are in its events.
func (j job) refused(ctx context.Context, name string) string {
	events, err := j.driver.client.Typed.CoreV1().Events(j.claim.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",type=Warning"})
	if err != nil || len(events.Items) == 0 {
		return "no pod yet"
	}
	return "no pod: " + events.Items[len(events.Items)-1].Message
}

// lacks says what keeps a pod from running.
func lacks(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return strings.TrimSpace(w.Reason + " " + w.Message)
		}
		if t := s.State.Terminated; t != nil {
			return strings.TrimSpace(fmt.Sprintf("%s, exit code %d %s", t.Reason, t.ExitCode, t.Message))
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "not scheduled: " + c.Message
		}
	}
	return strings.TrimSpace(fmt.Sprintf("phase %s %s", p.Status.Phase, p.Status.Message))
}

func (j job) remove(ctx context.Context, name string) error {
	now, background := int64(0), metav1.DeletePropagationBackground
	err := j.driver.client.Typed.BatchV1().Jobs(j.claim.Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return j.driver.unreachable(err, "remove mover %s/%s", j.claim.Namespace, name)
	}
	return nil
}

// tail keeps the end of what a mover says on standard error.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 2048

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = t.text[over:]
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return "; it said: " + strings.TrimSpace(string(t.text))
}
