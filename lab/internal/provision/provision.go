// Package provision creates a directory and a PersistentVolume for each claim on a StorageClass of its
// provisioner, and takes them away again as the reclaim policy says.
package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/lab/internal/backends"
)

// Name is the provisioner that the lab's StorageClasses name.
const Name = "dir.lab.lifeboat.dev"

const (
	annotationProvisionedBy = "pv.kubernetes.io/provisioned-by"
	annotationSelectedNode  = "volume.kubernetes.io/selected-node"
	retryAfter              = time.Second // a pass that failed is tried again
)

// Options say where volumes go.
type Options struct {
	Config          *rest.Config
	NodeName        string // volumes are bound to this node
	Dir             string // absolute; each volume is a directory below it
	ProvisionerName string // Name if empty
	Log             *slog.Logger
}

type provisioner struct {
	Options
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
}

// Run provisions until ctx is done. It looks at everything again whenever anything changed, so it needs no
// memory of its own and may be killed at any point.
func Run(ctx context.Context, o Options) error {
	if o.ProvisionerName == "" {
		o.ProvisionerName = Name
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(backends.Slim))
	p := &provisioner{Options: o, client: client, claims: f.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: f.Core().V1().PersistentVolumes().Lister(), classes: f.Storage().V1().StorageClasses().Lister()}
	changed := make(chan struct{}, 1)
	handler := backends.OnChange(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	_, err1 := f.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(handler)
	_, err2 := f.Core().V1().PersistentVolumes().Informer().AddEventHandler(handler)
	_, err3 := f.Storage().V1().StorageClasses().Informer().AddEventHandler(handler)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	for {
		var again <-chan time.Time
		if err := p.pass(ctx); err != nil && ctx.Err() == nil {
			o.Log.Warn("provisioning", "error", err)
			again = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// pass makes what is missing and removes what was released.
func (p *provisioner) pass(ctx context.Context) error {
	claims, err := p.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range claims {
		if err := p.provide(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("volume for claim %s/%s: %w", c.Namespace, c.Name, err))
		}
	}
	volumes, err := p.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if err := p.reclaim(ctx, v); err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (p *provisioner) provide(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	if c.Spec.VolumeName != "" || c.Spec.StorageClassName == nil || c.DeletionTimestamp != nil {
		return nil
	}
	class, err := p.classes.Get(*c.Spec.StorageClassName)
	if err != nil || class.Provisioner != p.ProvisionerName {
		return nil // somebody else's, or a class that is yet to come
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if waits && c.Annotations[annotationSelectedNode] == "" {
		return nil
	}
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		return p.refuse(ctx, c, "this provisioner makes empty volumes alone: it cannot fill one from a snapshot or another claim")
	}
	// The claim's UID makes the name, so a second try finds what the first one made.
	name := "pvc-" + string(c.UID)
	if _, err := p.volumes.Get(name); err == nil {
		return nil
	}
	dir := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	// Pods run as whoever they like; the umask must not keep them out.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, p.volume(name, dir, c, class), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// refuse says why a claim stays pending, where people look for it.
func (p *provisioner) refuse(ctx context.Context, c *corev1.PersistentVolumeClaim, why string) error {
	now := metav1.Now()
	_, err := p.client.CoreV1().Events(c.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: c.Name + "." + string(c.UID), Namespace: c.Namespace}, // once a claim
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
		Type:           corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: why,
		Source: corev1.EventSource{Component: p.ProvisionerName}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) volume(name, dir string, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	kind := corev1.HostPathDirectory
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{annotationProvisionedBy: p.ProvisionerName}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   c.Spec.AccessModes,
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: reclaim,
			VolumeMode:                    c.Spec.VolumeMode,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}},
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.NodeName}}},
			}}}},
		},
	}
}

// reclaim removes a released volume of ours whose policy is Delete: first the data, then the object, so that
// a crash in between leaves something that is found again.
func (p *provisioner) reclaim(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Annotations[annotationProvisionedBy] != p.ProvisionerName || v.Status.Phase != corev1.VolumeReleased ||
		v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || v.DeletionTimestamp != nil {
		return nil
	}
	// A volume restored from another site has that site's path: its directory is not this one's to remove.
	if v.Spec.HostPath == nil || v.Spec.HostPath.Path != filepath.Join(p.Dir, v.Name) {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.Dir, v.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
