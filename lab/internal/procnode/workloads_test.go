package procnode

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

func testDeployment(t *testing.T, w *world) {
	ns, replicas := w.namespace(t), int32(2)
	spec := w.script("")
	spec.Containers[0] = webContainer("one")
	app := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: spec},
	}}
	if _, err := w.client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut := func(version string) {
		t.Helper()
		eventually(t, 60*time.Second, "rollout of version "+version, func(ctx context.Context) error {
			d, err := w.client.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas || s.Replicas != replicas {
				return fmt.Errorf("status %+v", s)
			}
			pods, err := w.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			seen := map[string]bool{}
			for _, p := range pods.Items {
				if p.DeletionTimestamp != nil {
					return fmt.Errorf("pod %s is still going", p.Name)
				}
				if got := get(ctx, "http://"+p.Status.PodIP+":8080/"); got != version {
					return fmt.Errorf("pod %s at %s answers %q", p.Name, p.Status.PodIP, got)
				}
				seen[p.Status.PodIP] = true
			}
			if len(seen) != int(replicas) {
				return fmt.Errorf("addresses %v", seen)
			}
			return nil
		})
	}
	rolledOut("one")
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"VERSION","value":"two"}]}]}}}}`)
	if _, err := w.client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut("two")
}

func get(ctx context.Context, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func testStatefulSet(t *testing.T, w *world) {
	ns, class := w.namespace(t), "by-hand"
	dir := filepath.Join(w.dir, "pv")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-sts"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: modes, StorageClassName: class, ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: "data-db-0"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
	}}
	if _, err := w.client.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	app, group, id := map[string]string{"app": "db"}, int64(4711), int64(4712)
	spec := w.script(`was=$(cat /data/n 2>/dev/null); id -u > /data/n; echo "$(hostname) $was" >> /data/starts; exec sleep 1000`)
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &group}
	_, err := w.client.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: spec},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: size}}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := w.until(t, ns, "db-0", "ready", ready)
	lines := func(n int) string {
		var text string
		eventually(t, 10*time.Second, fmt.Sprintf("%d starts noted in the volume", n), func(context.Context) error {
			raw, err := os.ReadFile(filepath.Join(dir, "starts"))
			if text = string(raw); err == nil && strings.Count(text, "\n") != n {
				err = fmt.Errorf("noted %q", text)
			}
			return err
		})
		return text
	}
	lines(1)
	if err := w.client.CoreV1().Pods(ns).Delete(t.Context(), "db-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until(t, ns, "db-0", "ready again", func(p *corev1.Pod) bool { return p.UID != old.UID && ready(p) })
	text := lines(2)
	if os.Geteuid() != 0 {
		return
	}
	if text != "db-0 \ndb-0 4712\n" { // its own host name, its user, and the first run's data
		t.Errorf("the volume holds %q", text)
	}
	if got := groupOf(dir); got != int(group) {
		t.Errorf("the volume belongs to group %d", got)
	}
}

func testJob(t *testing.T, w *world) {
	ns, never := w.namespace(t), int32(0)
	for name, c := range map[string]struct{ text, condition, phase string }{
		"good": {"echo done", string(batchv1.JobComplete), string(corev1.PodSucceeded)},
		"bad":  {"exit 3", string(batchv1.JobFailed), string(corev1.PodFailed)},
	} {
		spec := w.script(c.text)
		spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := w.client.BatchV1().Jobs(ns).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: batchv1.JobSpec{BackoffLimit: &never, Template: corev1.PodTemplateSpec{Spec: spec}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]batchv1.JobConditionType{"good": batchv1.JobComplete, "bad": batchv1.JobFailed} {
		eventually(t, 40*time.Second, "end of job "+name, func(ctx context.Context) error {
			j, err := w.client.BatchV1().Jobs(ns).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range j.Status.Conditions {
				if c.Type == want && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("status %+v", j.Status)
		})
	}
}

func testCronJob(t *testing.T, w *world) {
	ns, suspend := w.namespace(t), true
	spec := w.script("echo tick")
	spec.RestartPolicy = corev1.RestartPolicyOnFailure
	jobs := w.client.BatchV1().CronJobs(ns)
	cj, err := jobs.Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tick"}, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *", Suspend: &suspend,
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// As if a run had been missed, which makes the controller start one at once instead of in a minute.
	missed := metav1.NewTime(time.Now().Add(-2 * time.Minute))
	cj.Status.LastScheduleTime = &missed
	if _, err = jobs.UpdateStatus(t.Context(), cj, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.Patch(t.Context(), "tick", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 75*time.Second, "a run of the CronJob", func(ctx context.Context) error {
		cj, err := jobs.Get(ctx, "tick", metav1.GetOptions{})
		if err == nil && cj.Status.LastSuccessfulTime == nil {
			err = fmt.Errorf("status %+v", cj.Status)
		}
		return err
	})
}

func testLiveness(t *testing.T, w *world) {
	ns := w.namespace(t)
	spec := w.script(`touch /scratch/alive; sleep 1; rm /scratch/alive; exec sleep 1000`)
	c := &spec.Containers[0]
	spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/scratch"}}
	c.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/scratch/alive"}}}}
	w.pod(t, ns, "p", spec)
	p := w.until(t, ns, "p", "restarted", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount >= 1 && s[0].State.Running != nil
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 128+int32(syscall.SIGTERM) {
		t.Errorf("last state is %+v", p.Status.ContainerStatuses[0].LastTerminationState)
	}
}

func testReadiness(t *testing.T, w *world) {
	ns := w.namespace(t)
	mark := filepath.Join(w.dir, "unready")
	spec := w.script("")
	spec.Containers[0] = webContainer("one")
	spec.Containers[0].Env = append(spec.Containers[0].Env, corev1.EnvVar{Name: "UNREADY", Value: mark})
	spec.Containers[0].ReadinessProbe.FailureThreshold = 1
	w.pod(t, ns, "p", spec)
	w.until(t, ns, "p", "ready", ready)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := w.until(t, ns, "p", "not ready", func(p *corev1.Pod) bool { return !ready(p) })
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.State.Running == nil {
		t.Errorf("a container that is not ready has status %+v", s)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.until(t, ns, "p", "ready again", ready)
}

func testTermination(t *testing.T, w *world) {
	ns := w.namespace(t)
	note := filepath.Join(w.dir, "termination-note")
	spec := w.script(`trap 'echo term >> "$NOTE"; exit 0' TERM; sleep 1000 & (setsid sleep 1001 &) ; touch "$NOTE"; while :; do wait; done`)
	c := &spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "NOTE", Value: note}}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", `echo pre >> "$NOTE"`}}}}
	polite := w.pod(t, ns, "polite", spec)
	one := int64(1)
	deaf := w.script(`trap '' TERM; while :; do sleep 1; done`)
	deaf.TerminationGracePeriodSeconds = &one
	deafPod := w.pod(t, ns, "deaf", deaf)
	w.until(t, ns, "deaf", "ready", ready)
	w.until(t, ns, "polite", "ready", ready)
	eventually(t, 10*time.Second, "the trap", func(context.Context) error { _, err := os.Stat(note); return err })
	for _, name := range []string{"polite", "deaf"} {
		if err := w.client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "end of both pods", func(ctx context.Context) error {
		l, err := w.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d pods left", len(l.Items))
		}
		return err
	})
	if raw, err := os.ReadFile(note); err != nil || string(raw) != "pre\nterm\n" {
		t.Errorf("the polite pod noted %q: %v", raw, err)
	}
	for _, p := range []*corev1.Pod{polite, deafPod} {
		left, err := (family{env: []string{envPod + "=" + string(p.UID)}}).members()
		if err != nil || len(left) > 0 {
			t.Errorf("pod %s left processes behind: %v %v", p.Name, left, err)
		}
	}
}

func testConfigMapUpdate(t *testing.T, w *world) {
	ns := w.namespace(t)
	maps := w.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "one"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := w.script("sleep 1000")
	spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "c", MountPath: "/etc/app"}}
	w.pod(t, ns, "p", spec)
	w.until(t, ns, "p", "ready", ready)
	if got, err := w.output(t, ns, "p", "cat", "/etc/app/k"); err != nil || got != "one" {
		t.Fatalf("at first: %q, %v", got, err)
	}
	if _, err := maps.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "two", "l": "new"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the update in the volume", func(context.Context) error {
		got, err := w.output(t, ns, "p", "cat", "/etc/app/k", "/etc/app/l")
		if err == nil && got != "twonew" {
			err = fmt.Errorf("still %q", got)
		}
		return err
	})
}

func testWaiting(t *testing.T, w *world) {
	ns := w.namespace(t)
	spec := w.script("sleep 1000")
	spec.Containers[0].Image = "registry.test/unknown:v1"
	w.pod(t, ns, "image", spec)
	spec = w.script("sleep 1000")
	spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}}}}
	w.pod(t, ns, "config", spec)
	w.pod(t, ns, "crash", w.script("exit 1"))
	state := func(reason string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == reason
		}
	}
	if p := w.until(t, ns, "image", reasonImage, state(reasonImage)); p.Status.Phase != corev1.PodPending {
		t.Errorf("phase is %s", p.Status.Phase)
	}
	w.until(t, ns, "config", reasonConfig, state(reasonConfig))
	w.until(t, ns, "crash", reasonCrashLoop, func(p *corev1.Pod) bool {
		return state(reasonCrashLoop)(p) && p.Status.ContainerStatuses[0].RestartCount >= 2 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode == 1
	})
	if _, err := w.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "later"}, StringData: map[string]string{"A": "b"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until(t, ns, "config", "ready", ready)
}

func testInit(t *testing.T, w *world) {
	ns := w.namespace(t)
	spec := w.script(`cat /shared/*; echo "$(MY_IP) $MY_NAME $MY_IP $FROM_IMAGE"; sleep 1000`)
	mounts := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared", SubPath: "in"}}
	spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	spec.Containers[0].Env = []corev1.EnvVar{{Name: "MY_NAME", ValueFrom: field("metadata.name")}, {Name: "MY_IP", ValueFrom: field("status.podIP")}}
	spec.Containers[0].VolumeMounts = mounts
	always := corev1.ContainerRestartPolicyAlways
	for i, text := range []string{"echo first > /shared/1", "touch /shared/2; exec sleep 1000", "echo third > /shared/3"} {
		c := corev1.Container{Name: fmt.Sprintf("i%d", i), Image: "sh", Command: []string{"sh", "-c", text}, VolumeMounts: mounts}
		if i == 1 {
			c.RestartPolicy = &always
		}
		spec.InitContainers = append(spec.InitContainers, c)
	}
	w.pod(t, ns, "p", spec)
	p := w.until(t, ns, "p", "ready", ready)
	want := fmt.Sprintf("first\nthird\n%[1]s p %[1]s %[1]s\n", p.Status.PodIP)
	eventually(t, 5*time.Second, "output", func(context.Context) error {
		if got := w.logs(t, ns, "p", corev1.PodLogOptions{Container: "main"}); got != want {
			return fmt.Errorf("log is %q, want %q", got, want)
		}
		return nil
	})
	if s := p.Status.InitContainerStatuses; s[1].State.Running == nil || s[2].State.Terminated == nil || s[2].State.Terminated.Reason != reasonCompleted {
		t.Errorf("init containers are %+v", s)
	}
	if err := w.client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// testView looks at what a pod sees of the machine under one kind of isolation.
func testView(t *testing.T, w *world, iso Isolation) {
	ns := w.namespace(t)
	if _, err := w.client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "front"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}, ClusterIP: w.ip(fmt.Sprintf("14.%d", 40+int(iso)))}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := w.script(`echo data > /data/deep/file; cat /data/deep/file; sleep 1000`)
	spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "d", MountPath: "/data/deep"}, {Name: "d", MountPath: "/var/lib/lifeboat-lab-test/x", ReadOnly: true}}
	spec.Containers[0].WorkingDir = "/data/deep"
	w.pod(t, ns, "p", spec)
	w.until(t, ns, "p", "ready", ready)
	if got, err := w.output(t, ns, "p", "cat", "/data/deep/file"); err != nil || got != "data\n" {
		t.Errorf("exec sees %q: %v", got, err)
	}
	if got, err := w.output(t, ns, "p", "cat", "file"); err != nil || got != "data\n" {
		t.Errorf("the working directory shows %q: %v", got, err)
	}
	if iso == Shared {
		return
	}
	for _, c := range []struct{ script, want string }{
		{"cat /var/lib/lifeboat-lab-test/x/file", "data\n"},
		{"touch /var/lib/lifeboat-lab-test/x/new 2>/dev/null || echo refused", "refused\n"},
		{"test -s /var/run/secrets/kubernetes.io/serviceaccount/token && cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", ns},
		{"hostname", "p\n"},
		{"for n in front front." + ns + " front." + ns + ".svc front." + ns + ".svc.cluster.local; do getent ahostsv4 $n | head -1 | cut -d' ' -f1; done", strings.Repeat(w.ip(fmt.Sprintf("14.%d\n", 40+int(iso))), 4)},
		{"test -e /data/deep/file && test -d /proc/self && test -c /dev/null && echo whole", "whole\n"},
	} {
		eventually(t, 5*time.Second, c.script, func(context.Context) error {
			if got, err := w.output(t, ns, "p", "sh", "-c", c.script); err != nil || got != c.want {
				return fmt.Errorf("got %q, want %q: %w", got, c.want, err)
			}
			return nil
		})
	}
	for _, path := range []string{"/data/deep", "/var/lib/lifeboat-lab-test"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made on the machine itself", path)
		}
	}
}

// testAgentRestart stops the agent, which ends all processes, and lets another take over.
func testAgentRestart(t *testing.T, w *world, stop func(), iso Isolation, programs map[string]Program) {
	ns := w.namespace(t)
	w.pod(t, ns, "p", w.script(`echo run >> /data/runs; sleep 1000`))
	once := w.script("echo once")
	once.RestartPolicy = corev1.RestartPolicyNever
	w.pod(t, ns, "once", once)
	lost := w.script("sleep 1000")
	lost.RestartPolicy = corev1.RestartPolicyNever
	w.pod(t, ns, "lost", lost)
	w.until(t, ns, "p", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	w.until(t, ns, "lost", "ready", ready)
	w.until(t, ns, "once", "done", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	stop()
	w.node(t, fmt.Sprintf("node-%d", iso), int(iso), iso, programs)
	w.until(t, ns, "p", "running again", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return s.RestartCount >= 1 && p.Status.Phase == corev1.PodRunning
	})
	w.until(t, ns, "lost", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if got := w.logs(t, ns, "once", corev1.PodLogOptions{}); got != "once\n" {
		t.Errorf("a finished pod's log is %q", got)
	}
	p := w.until(t, ns, "once", "still done", func(*corev1.Pod) bool { return true })
	if s := p.Status.ContainerStatuses[0]; p.Status.Phase != corev1.PodSucceeded || s.RestartCount != 0 {
		t.Errorf("a finished pod is %s, %+v", p.Status.Phase, s)
	}
	for _, name := range []string{"p", "once", "lost"} {
		if err := w.client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "all pods gone", func(ctx context.Context) error {
		l, err := w.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d pods left, first %+v", len(l.Items), l.Items[0].Status)
		}
		return err
	})
}

func forwardOnce(t *testing.T, w *world, ns, pod string, port int) (string, error) {
	t.Helper()
	tr, upgrader, err := spdy.RoundTripperFor(w.config)
	if err != nil {
		return "", err
	}
	url := w.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("portforward").URL()
	stop, up := make(chan struct{}), make(chan struct{})
	var errOut bytes.Buffer
	fw, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: tr}, "POST", url), []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, up, io.Discard, &errOut)
	if err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- fw.ForwardPorts() }()
	defer func() { close(stop); <-done }()
	select {
	case <-up:
	case <-time.After(10 * time.Second):
		return "", fmt.Errorf("waiting for the forwarded port: %s", errOut.String())
	}
	ports, err := fw.GetPorts()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return get(ctx, "http://"+net.JoinHostPort("127.0.0.1", fmt.Sprint(ports[0].Local))+"/"), nil
}
