package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/mover"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

const (
	namespace     = "shop"
	password      = "bGlmZWJvYXQncyB0ZXN0cyBuZWVkIGEga2V5IG9mIDMyIGJ5dGVz" // 32 bytes and more, as vaults have: cheap to open
	childVariable = "LIFEBOAT_TEST_MOVER"                                  // makes the test binary a mover
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := mover.Work(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// cluster is an API without nodes: a Job's pod runs as soon as the Job is there, its claim is a directory
// and what is executed in it is a process.
type cluster struct {
	api   *fake.Clientset
	store blob.Store
	base  string
	count atomic.Int32
	state func(*corev1.Pod) // what becomes of a new pod; nil: it runs

	mu   sync.Mutex
	jobs []*batchv1.Job // all that were ever made
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{api: fake.NewClientset(), base: tempDir(t)}
	var err error
	if c.store, err = blob.Create(t.Context(), "file://"+filepath.Join(tempDir(t), "vault"), blob.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), c.store, []byte(password)); err != nil {
		t.Fatal(err)
	}
	c.api.PrependReactor("create", "jobs", c.jobMade)
	c.api.PrependReactor("delete", "jobs", c.jobDeleted)
	return c
}

// tempDir lies in memory where it can: what reaches the disk durably takes its time there.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lifeboat-volume-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (c *cluster) jobMade(action k8stesting.Action) (bool, runtime.Object, error) {
	job, ok := action.(k8stesting.CreateAction).GetObject().(*batchv1.Job)
	if !ok {
		return false, nil, nil
	}
	if job.Name == "" {
		job.Name = fmt.Sprintf("%s%d", job.GenerateName, c.count.Add(1))
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: job.Namespace, Name: job.Name + "-x", Labels: map[string]string{batchv1.JobNameLabel: job.Name}}, Spec: job.Spec.Template.Spec}
	for k, v := range job.Spec.Template.Labels {
		pod.Labels[k] = v
	}
	if c.state != nil {
		c.state(pod)
	} else {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	c.mu.Lock()
	c.jobs = append(c.jobs, job.DeepCopy())
	c.mu.Unlock()
	return false, nil, c.api.Tracker().Add(pod)
}

func (c *cluster) jobDeleted(action k8stesting.Action) (bool, runtime.Object, error) {
	name := action.(k8stesting.DeleteAction).GetName() + "-x"
	return false, nil, c.api.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), name)
}

// exec runs a mover as a process whose volume is the claim's directory.
func (c *cluster) exec(ctx context.Context, ns, pod, name string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if name != container || strings.Join(argv, " ") != "lifeboat mover work" {
		return fmt.Errorf("the mover's pod has no container %s with %q", name, argv)
	}
	p, err := c.api.CoreV1().Pods(ns).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", mountEnv+"="+filepath.Join(c.base, p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe() // so that Wait does not wait for stdin, as an exec over the API does not
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	return cmd.Wait()
}

func (c *cluster) driver(store blob.Store) *Driver {
	d := New(&kube.Client{Site: "east", Typed: c.api}, "registry.example.com/lifeboat:v1",
		&mover.Runner{Store: store, Password: func(context.Context) ([]byte, error) { return []byte(password), nil }})
	d.exec = c.exec
	return d
}

func (c *cluster) Driver(*testing.T) driver.Datastore { return c.driver(c.store) }

func (c *cluster) Broken(*testing.T) driver.Datastore { return c.driver(&failing{Store: c.store}) }

func (c *cluster) New(t *testing.T) dr.Datastore {
	t.Helper()
	name, class := fmt.Sprintf("claim-%d", c.count.Add(1)), "fast"
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u"}}
	claim.Spec.StorageClassName = &class
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if err := errors.Join(c.api.Tracker().Add(claim), os.Mkdir(filepath.Join(c.base, name), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dr.Datastore{Name: name, Volume: &dr.VolumeRef{Namespace: namespace, Claim: name}}
}

func (c *cluster) Missing(*testing.T) dr.Datastore {
	return dr.Datastore{Name: "orders", Volume: &dr.VolumeRef{Namespace: namespace, Claim: "none"}}
}

func (c *cluster) Write(t *testing.T, ds dr.Datastore, key string, value []byte) {
	path := filepath.Join(c.base, ds.Volume.Claim, key)
	if err := errors.Join(os.WriteFile(path+".tmp", value, 0o644), os.Rename(path+".tmp", path)); err != nil {
		t.Error(err)
	}
}

func (c *cluster) Read(t *testing.T, ds dr.Datastore) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	dir := filepath.Join(c.base, ds.Volume.Claim)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if found[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// failing is a store that stops giving out data in the middle.
type failing struct {
	blob.Store
	reads atomic.Int32
}

func (s *failing) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if strings.HasPrefix(name, "data/") && s.reads.Add(1) > 1 {
		return blob.Object{}, io.ErrUnexpectedEOF
	}
	return s.Store.Get(ctx, name, r)
}
