package volume

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/drivertest"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

func TestVolumesKeepTheContract(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	drivertest.Datastore(t, c)
	t.Cleanup(func() { wantNoMovers(context.WithoutCancel(t.Context()), t, c) }) // after the parallel cases
}

func wantNoMovers(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	jobs, err := c.api.BatchV1().Jobs("").List(ctx, metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 0 {
		t.Errorf("%d movers are left, %v", len(jobs.Items), err)
	}
}

func protectRequest(ds dr.Datastore) driver.ProtectRequest {
	return driver.ProtectRequest{Application: "shop", Point: "p1", Datastore: ds, Beacon: dr.Beacon{Application: "shop", Datastore: ds.Name, Site: "east"}}
}

// TestMoverPod: what the mover may do, and where it runs.
func TestMoverPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ds := c.New(t)
	user := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop-0"}}
	user.Spec.NodeName = "node-7"
	user.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: ds.Volume.Claim}}}}
	left := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "left", Labels: map[string]string{
		managedBy: "lifeboat", "lifeboat.dev/transient": "mover", appLabel: "shop", dataLabel: ds.Name}}}
	if err := c.api.Tracker().Add(user); err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.BatchV1().Jobs(namespace).Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Driver(t).Protect(t.Context(), protectRequest(ds)); err != nil {
		t.Fatal(err)
	}
	wantNoMovers(t.Context(), t, c)
	job := c.jobs[len(c.jobs)-1]
	spec, box := job.Spec.Template.Spec, job.Spec.Template.Spec.Containers[0]
	for what, ok := range map[string]bool{
		"runs where the volume is in use":     spec.NodeName == "node-7",
		"has no token":                        !*spec.AutomountServiceAccountToken,
		"may gain no privilege":               !*box.SecurityContext.AllowPrivilegeEscalation,
		"drops all capabilities":              box.SecurityContext.Capabilities.Drop[0] == "ALL",
		"has the runtime's seccomp profile":   spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"is tried once":                       *job.Spec.BackoffLimit == 0 && spec.RestartPolicy == corev1.RestartPolicyNever,
		"ends by itself":                      *job.Spec.ActiveDeadlineSeconds > 0 && *job.Spec.TTLSecondsAfterFinished > 0,
		"says whose it is":                    job.Labels[managedBy] == "lifeboat" && job.Labels[appLabel] == "shop" && job.Labels[dataLabel] == ds.Name,
		"knows where its volume is":           box.Env[0].Value == box.VolumeMounts[0].MountPath,
		"asks for its share":                  !box.Resources.Requests.Memory().IsZero(),
		"holds nothing secret":                !strings.Contains(job.String(), password),
		"waits for its order, and is itself ": strings.Join(box.Command, " ") == "lifeboat mover wait" && box.Image == "registry.example.com/lifeboat:v1",
	} {
		if !ok {
			t.Errorf("a mover's pod %s: it does not; %+v", what, spec)
		}
	}
}

func TestMoverThatDoesNotStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, says string
		state      func(*corev1.Pod)
	}{
		{"image", "ImagePullBackOff no such image", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}}
		}},
		{"node", "not scheduled: 0/3 nodes are available", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.state = tc.state
			ds := c.New(t)
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			_, err := c.Driver(t).Restore(ctx, driver.RestoreRequest{Application: "shop", Point: "p1", Datastore: ds})
			if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got error %v, want one of class incomplete that says %q", err, tc.says)
			}
			if s, err := c.Driver(t).Inspect(t.Context(), ds); err != nil || s.Restoring != "" {
				t.Errorf("the claim is marked %q, %v, although nothing began", s.Restoring, err)
			}
			wantNoMovers(t.Context(), t, c)
		})
	}
}

// TestProtectCalledOff: the mover clears its lock away and goes.
func TestProtectCalledOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ds := c.New(t)
	c.Write(t, ds, "a", make([]byte, 4<<20))
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("the lease was lost")
	d := c.driver(&calledOff{Store: c.store, cancel: func() { cancel(lost) }})
	if _, err := d.Protect(ctx, protectRequest(ds)); !errors.Is(err, lost) {
		t.Errorf("got error %v, want the cause", err)
	}
	wantNoMovers(t.Context(), t, c)
	for info, err := range c.store.List(t.Context(), "locks/") {
		t.Errorf("it left %s, %v", info.Name, err)
	}
}

// calledOff is a store in which the work is called off once data is to be stored.
type calledOff struct {
	blob.Store
	cancel func()
}

func (s *calledOff) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	if strings.HasPrefix(name, "data/") {
		s.cancel()
	}
	return s.Store.Put(ctx, name, data, cond)
}

func TestAnotherBeaconThanThePoints(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	source, target := c.New(t), c.New(t)
	p, err := c.Driver(t).Protect(t.Context(), protectRequest(source))
	if err != nil {
		t.Fatal(err)
	}
	p.Beacon.Sequence += 5
	_, err = c.Driver(t).Restore(t.Context(), driver.RestoreRequest{Application: "shop", Point: "p1", Datastore: target, Data: p})
	if dr.ClassOf(err) != dr.ClassIncomplete || !strings.Contains(err.Error(), "beacon") {
		t.Errorf("got error %v, want one of class incomplete about the beacon", err)
	}
}
