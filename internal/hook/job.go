package hook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

const (
	look = 200 * time.Millisecond
	// start is how long a Job's pod may take to run, on top of the hook's time-out.
	start = 3 * time.Minute
	// kept is how long a Job stays: as long as somebody may resume the run, and ask whether it ran.
	kept = 7 * 24 * time.Hour
	// patience bounds the reading of a failed pod's log.
	patience = 5 * time.Second
)

// Done looks for the Job of a hook that an earlier process ran to its end; nil: there is none. Of a command
// in a pod nothing is left to be found.
func (r Runner) Done(ctx context.Context, h dr.Hook) (*dr.HookOutput, error) {
	if h.Job == nil {
		return nil, nil
	}
	ns, name := r.namespace(h.Job.Namespace), r.jobName(h)
	job, err := r.Client.Typed.BatchV1().Jobs(ns).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, r.failed(err, "look for Job %s/%s", ns, name)
	}
	if ended(job) != batchv1.JobComplete {
		return nil, nil
	}
	return &dr.HookOutput{Ran: "Job " + ns + "/" + name}, nil
}

// job makes the hook's Job, or finds the one that an earlier process made, and waits for its end.
func (r Runner) job(ctx context.Context, h dr.Hook) (dr.HookOutput, error) {
	api := r.Client.Typed.BatchV1().Jobs(r.namespace(h.Job.Namespace))
	name := r.jobName(h)
	out := dr.HookOutput{Ran: "Job " + r.namespace(h.Job.Namespace) + "/" + name}
	limited, cancel := context.WithTimeout(ctx, h.Timeout+start)
	defer cancel()
	if err := r.clear(limited, h, name); err != nil {
		return out, err
	}
	_, err := api.Create(limited, r.manifest(h, name), metav1.CreateOptions{FieldManager: kube.FieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return out, r.failed(err, "make %s", out.Ran)
	}
	r.say("%s runs", out.Ran)
	var job *batchv1.Job
	err = kube.WaitFor(limited, out.Ran+" to end", look, func(ctx context.Context) (bool, string, error) {
		now, err := api.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, "", fmt.Errorf("somebody deleted it")
		}
		if err != nil {
			return false, "the site does not answer: " + err.Error(), nil
		}
		job = now
		return ended(now) != "", fmt.Sprintf("%d pods active", now.Status.Active), nil
	})
	if err != nil {
		return out, err
	}
	if ended(job) == batchv1.JobComplete {
		return out, nil
	}
	out.Tail = r.log(ctx, job)
	return out, fmt.Errorf("%s failed: %s%s", out.Ran, reason(job), lastWords(out.Tail))
}

// clear removes the Job of an earlier, failed try of the same run.
func (r Runner) clear(ctx context.Context, h dr.Hook, name string) error {
	ns := r.namespace(h.Job.Namespace)
	api := r.Client.Typed.BatchV1().Jobs(ns)
	job, err := api.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && ended(job) != batchv1.JobFailed {
		return nil
	}
	if err != nil {
		return r.failed(err, "look for Job %s/%s", ns, name)
	}
	background := metav1.DeletePropagationBackground
	err = api.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &job.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return r.failed(err, "remove the failed Job %s/%s", ns, name)
	}
	return kube.WaitFor(ctx, fmt.Sprintf("the failed Job %s/%s to be gone", ns, name), look, func(ctx context.Context) (bool, string, error) {
		now, err := api.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && now.UID != job.UID, "it is still there", nil
	})
}

// jobName is the same for every process that works on the run.
func (r Runner) jobName(h dr.Hook) string {
	sum := sha256.Sum256([]byte(r.Run))
	return "lifeboat-" + h.Name + "-" + hex.EncodeToString(sum[:4])
}

func (r Runner) manifest(h dr.Hook, name string) *batchv1.Job {
	image := h.Job.Image
	if r.Image != nil {
		image = r.Image(image)
	}
	labels := map[string]string{"app.kubernetes.io/managed-by": "lifeboat", kube.LabelTransient: "hook", "lifeboat.dev/hook": h.Name}
	var env []corev1.EnvVar
	for _, k := range slices.Sorted(maps.Keys(h.Job.Env)) {
		env = append(env, corev1.EnvVar{Name: k, Value: h.Job.Env[k]})
	}
	no, once := false, int32(0)
	ttl, limit := int32(kept/time.Second), max(int64((h.Timeout+start)/time.Second), 1)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: r.namespace(h.Job.Namespace), Labels: labels,
			Annotations: map[string]string{"lifeboat.dev/run": r.Run, "lifeboat.dev/application": r.Application}},
		Spec: batchv1.JobSpec{
			BackoffLimit: &once, ActiveDeadlineSeconds: &limit, TTLSecondsAfterFinished: &ttl,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, ServiceAccountName: h.Job.Account,
					SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
					Containers: []corev1.Container{{Name: "hook", Image: image, Command: h.Job.Command, Env: env,
						SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
				},
			},
		},
	}
}

// ended is Complete, Failed or nothing.
func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func reason(job *batchv1.Job) string {
	for _, c := range job.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			return c.Reason + ": " + c.Message
		}
	}
	return "for no reason that it gives"
}

// log is the end of what the Job's pod said; nothing where it cannot be read.
func (r Runner) log(ctx context.Context, job *batchv1.Job) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods, err := r.Client.Typed.CoreV1().Pods(job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
	if err != nil || len(pods.Items) == 0 {
		return ""
	}
	size, lines := int64(tailSize), int64(10)
	raw, err := r.Client.Typed.CoreV1().Pods(job.Namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{TailLines: &lines, LimitBytes: &size}).DoRaw(ctx)
	if err != nil {
		return ""
	}
	var t tail
	if _, err := t.Write(raw); err != nil {
		return ""
	}
	return t.String()
}
