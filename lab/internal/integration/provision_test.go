package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/lab/internal/provision"
)

// testProvision follows claims of both binding modes to their directories, and one volume to its end.
func testProvision(t *testing.T, e *env) {
	dir := t.TempDir()
	const provisioner = "test.lab.lifeboat.dev"
	start := func() func() {
		return run(t, "provisioner", func(ctx context.Context) error {
			return provision.Run(ctx, provision.Options{Config: e.cfg, NodeName: "east", Dir: dir, ProvisionerName: provisioner, Log: quiet()})
		})
	}
	e.class(t, "now-"+e.ns, provisioner, storagev1.VolumeBindingImmediate)
	e.class(t, "later-"+e.ns, provisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	e.class(t, "other-"+e.ns, "somebody.else", storagev1.VolumeBindingImmediate)
	now, later, other := e.claim(t, "now"), e.claim(t, "later"), e.claim(t, "other")
	stop := start()
	pv := e.volumeOf(t, now)
	if pv.Spec.HostPath == nil || filepath.Dir(pv.Spec.HostPath.Path) != dir || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != now.UID {
		t.Fatalf("volume %+v", pv.Spec)
	}
	if st, err := os.Stat(pv.Spec.HostPath.Path); err != nil || st.Mode().Perm() != 0o777 {
		t.Errorf("directory: %v %v", st, err)
	}
	for _, c := range []*corev1.PersistentVolumeClaim{later, other} {
		if _, err := e.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-"+string(c.UID), metav1.GetOptions{}); err == nil {
			t.Errorf("claim %s got a volume that it should not", c.Name)
		}
	}
	stop()
	start() // finds what the first one made, and makes it no second time
	later.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "east"}
	if _, err := e.CoreV1().PersistentVolumeClaims(e.ns).Update(t.Context(), later, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.volumeOf(t, later)

	if err := os.WriteFile(filepath.Join(pv.Spec.HostPath.Path, "f"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	pv.Status.Phase = corev1.VolumeReleased // as the volume controller would, which does not run here
	if _, err := e.CoreV1().PersistentVolumes().UpdateStatus(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the released volume's directory goes", func() error {
		if _, err := os.Stat(pv.Spec.HostPath.Path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

func (e *env) class(t *testing.T, name, provisioner string, mode storagev1.VolumeBindingMode) {
	t.Helper()
	if _, err := e.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name},
		Provisioner: provisioner, VolumeBindingMode: &mode}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// claim makes a claim on the class of the same name.
func (e *env) claim(t *testing.T, name string) *corev1.PersistentVolumeClaim {
	t.Helper()
	c, err := e.CoreV1().PersistentVolumeClaims(e.ns).Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr(name + "-" + e.ns), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (e *env) volumeOf(t *testing.T, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	t.Helper()
	var pv *corev1.PersistentVolume
	eventually(t, "a volume for claim "+c.Name, func() (err error) {
		pv, err = e.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-"+string(c.UID), metav1.GetOptions{})
		return err
	})
	return pv
}
