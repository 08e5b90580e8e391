// Package volume protects and restores PersistentVolumeClaims: a mover pod beside the volume reads or
// writes its files, and is made for that one copy.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Annotations of a claim.
const (
	// restoringAnnotation holds the id of the recovery point whose restore is due, or has begun, and has not
	// ended.
	restoringAnnotation = kube.AnnotationRestoring
	// restoredAnnotation holds what the last restore that ended left, as JSON.
	restoredAnnotation = "lifeboat.dev/restored"
)

// Driver implements driver.Datastore for the claims of one site.
type Driver struct {
	client *kube.Client
	image  string // of the mover: lifeboat itself
	mover  driver.Mover
	exec   execFunc
}

// execFunc runs a command in a pod, as kube.Client does.
type execFunc func(ctx context.Context, namespace, pod, container string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error

var _ driver.Datastore = (*Driver)(nil)

// New returns the driver of a site. Movers run from image.
func New(client *kube.Client, image string, mover driver.Mover) *Driver {
	return &Driver{client: client, image: image, mover: mover, exec: client.Exec}
}

// restored is the content of restoredAnnotation.
type restored struct {
	Point  string        `json:"point"`
	Output dr.DataOutput `json:"output"`
}

func (d *Driver) claim(ctx context.Context, ds dr.Datastore) (*corev1.PersistentVolumeClaim, error) {
	if ds.Volume == nil {
		return nil, fmt.Errorf("datastore %s is no volume", ds.Name)
	}
	pvc, err := d.client.Typed.CoreV1().PersistentVolumeClaims(ds.Volume.Namespace).Get(ctx, ds.Volume.Claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, dr.Errorf(dr.ClassUsage, errors.Join(dr.ErrNotFound, err), "Correct the claim's name in the fleet file.",
			"site %s has no claim %s/%s", d.client.Site, ds.Volume.Namespace, ds.Volume.Claim)
	}
	if err != nil {
		return nil, d.unreachable(err, "read claim %s/%s", ds.Volume.Namespace, ds.Volume.Claim)
	}
	return pvc, nil
}

// unreachable gives an error of the API server its class, so that a passing fault is tried again.
func (d *Driver) unreachable(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return dr.Errorf(dr.ClassDenied, err, "Give the account what deploy/rbac names.", "site %s: %s", d.client.Site, what)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && !apierrors.IsServerTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsServiceUnavailable(err) {
		return fmt.Errorf("site %s: %s: %w", d.client.Site, what, err)
	}
	return dr.Errorf(dr.ClassUnreachable, err, "", "site %s: %s", d.client.Site, what)
}

// Inspect implements driver.Datastore.
func (d *Driver) Inspect(ctx context.Context, ds dr.Datastore) (driver.DataState, error) {
	pvc, err := d.claim(ctx, ds)
	if err != nil {
		return driver.DataState{}, err
	}
	size := pvc.Status.Capacity[corev1.ResourceStorage]
	class := "none"
	if pvc.Spec.StorageClassName != nil {
		class = *pvc.Spec.StorageClassName
	}
	return driver.DataState{
		Description: fmt.Sprintf("claim %s/%s, %s, class %s, %s", pvc.Namespace, pvc.Name, size.String(), class, pvc.Status.Phase),
		Bytes:       size.Value(),
		Restoring:   pvc.Annotations[restoringAnnotation],
	}, nil
}

// Protect implements driver.Datastore. The copy is of the live volume: files are read one after the other
// while the application may write.
func (d *Driver) Protect(ctx context.Context, req driver.ProtectRequest) (dr.DataPoint, error) {
	pvc, err := d.claim(ctx, req.Datastore)
	if err != nil {
		return dr.DataPoint{}, err
	}
	if point := pvc.Annotations[restoringAnnotation]; point != "" {
		return dr.DataPoint{}, dr.Errorf(dr.ClassBlocked, nil, "Finish the restore first.",
			"claim %s/%s holds a restore of %s that has not ended", pvc.Namespace, pvc.Name, point)
	}
	report, err := d.move(ctx, pvc, req.Datastore.Name, req.Application, driver.MoverOrder{
		Verb: driver.MoverProtect, Host: d.client.Site, Parent: req.Parent, Beacon: req.Beacon,
		Labels: map[string]string{"application": req.Application, "datastore": req.Datastore.Name, "point": req.Point},
	}, nil, req.Progress)
	if err != nil {
		return dr.DataPoint{}, fmt.Errorf("copy claim %s/%s into the vault: %w", pvc.Namespace, pvc.Name, err)
	}
	return dr.DataPoint{Datastore: req.Datastore.Name, Snapshot: report.Snapshot, Consistency: dr.LiveCopy, Beacon: report.Beacon,
		Bytes: report.Bytes, StoredBytes: report.StoredBytes, Files: report.Files}, nil
}

// Restored implements driver.Datastore.
func (d *Driver) Restored(ctx context.Context, req driver.RestoreRequest) (*dr.DataOutput, error) {
	pvc, err := d.claim(ctx, req.Datastore)
	if errors.Is(err, dr.ErrNotFound) {
		return nil, nil // its claim is yet to be restored
	}
	if err != nil {
		return nil, err
	}
	text, ok := pvc.Annotations[restoredAnnotation]
	if !ok || pvc.Annotations[restoringAnnotation] != "" {
		return nil, nil
	}
	var r restored
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Point != req.Point {
		return nil, nil //nolint:nilerr // an annotation that is not ours to read says nothing
	}
	return &r.Output, nil
}

// Restore implements driver.Datastore.
func (d *Driver) Restore(ctx context.Context, req driver.RestoreRequest) (dr.DataOutput, error) {
	pvc, err := d.claim(ctx, req.Datastore)
	if err != nil {
		return dr.DataOutput{}, err
	}
	// The claim is marked once the mover is there, and what it said before comes back when the mover refuses.
	before := map[string]any{restoringAnnotation: annotation(pvc, restoringAnnotation), restoredAnnotation: annotation(pvc, restoredAnnotation)}
	report, err := d.move(ctx, pvc, req.Datastore.Name, req.Application, driver.MoverOrder{
		Verb: driver.MoverRestore, Host: d.client.Site, Snapshot: req.Data.Snapshot, Point: req.Point, Last: req.Last,
		Labels: map[string]string{"application": req.Application, "datastore": req.Datastore.Name, "point": req.Point},
	}, func() error {
		return d.annotate(ctx, pvc, map[string]any{restoringAnnotation: req.Point, restoredAnnotation: nil})
	}, req.Progress)
	if err != nil {
		err = fmt.Errorf("restore claim %s/%s: %w", pvc.Namespace, pvc.Name, err)
		if errors.Is(err, driver.ErrUntouched) {
			// The mark goes even when the work was called off; the bound is its own.
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			err = errors.Join(err, d.annotate(bounded, pvc, before))
		}
		return dr.DataOutput{}, err
	}
	if !same(report.Beacon, req.Data.Beacon) {
		return dr.DataOutput{}, dr.Errorf(dr.ClassIncomplete, nil, "Restore from another recovery point.",
			"claim %s/%s holds beacon %d of %s after the restore, and the recovery point says %d of %s", pvc.Namespace, pvc.Name,
			report.Beacon.Sequence, report.Beacon.Time.Format(time.RFC3339), req.Data.Beacon.Sequence, req.Data.Beacon.Time.Format(time.RFC3339))
	}
	out := dr.DataOutput{Bytes: report.Bytes, Files: report.Files, Beacon: report.Beacon, Warnings: report.Warnings}
	text, err := json.Marshal(restored{Point: req.Point, Output: out})
	if err != nil {
		return dr.DataOutput{}, fmt.Errorf("note the restore of claim %s/%s: %w", pvc.Namespace, pvc.Name, err)
	}
	return out, d.annotate(ctx, pvc, map[string]any{restoringAnnotation: nil, restoredAnnotation: string(text)})
}

func same(a, b dr.Beacon) bool {
	equal := a.Time.Equal(b.Time)
	a.Time, b.Time = time.Time{}, time.Time{}
	return equal && a == b
}

// annotation is a value for annotate: nil when the claim has none.
func annotation(pvc *corev1.PersistentVolumeClaim, name string) any {
	if v, ok := pvc.Annotations[name]; ok {
		return v
	}
	return nil
}

// annotate sets annotations of a claim; nil removes one.
func (d *Driver) annotate(ctx context.Context, pvc *corev1.PersistentVolumeClaim, set map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pvc.UID, "annotations": set}})
	if err != nil {
		return fmt.Errorf("annotate claim %s/%s: %w", pvc.Namespace, pvc.Name, err)
	}
	_, err = d.client.Typed.CoreV1().PersistentVolumeClaims(pvc.Namespace).Patch(ctx, pvc.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "lifeboat-volume"})
	if err != nil {
		return d.unreachable(err, "annotate claim %s/%s", pvc.Namespace, pvc.Name)
	}
	return nil
}

// move makes a mover beside the volume, lets it do one order, and takes it away again. begin, if there is
// one, is called when the mover runs and before it gets its order.
func (d *Driver) move(ctx context.Context, pvc *corev1.PersistentVolumeClaim, datastore, app string, order driver.MoverOrder, begin func() error, progress func(driver.Progress)) (report driver.MoverReport, err error) {
	j := job{driver: d, claim: pvc, labels: map[string]string{managedBy: "lifeboat", kube.LabelTransient: "mover", appLabel: app, dataLabel: datastore}}
	if err := j.clear(ctx); err != nil {
		return report, err
	}
	name, err := j.create(ctx)
	if err != nil {
		return report, err
	}
	defer func() {
		// The mover goes even when the work was called off; the bound is its own.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(err, j.remove(bounded, name))
	}()
	pod, err := j.running(ctx, name)
	if err != nil {
		return report, err
	}
	if begin != nil {
		if err := begin(); err != nil {
			return report, err
		}
	}
	return d.talk(ctx, pod, order, progress)
}

// talk joins the mover's standard streams with the vault.
func (d *Driver) talk(ctx context.Context, pod *corev1.Pod, order driver.MoverOrder, progress func(driver.Progress)) (driver.MoverReport, error) {
	toPod, fromUs := io.Pipe()
	toUs, fromPod := io.Pipe()
	said := &tail{}
	ended := make(chan error, 1)
	// A mover that is called off is told so over the stream, which stays until Run is done with it.
	hold, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	go func() {
		err := d.exec(hold, pod.Namespace, pod.Name, container, []string{"lifeboat", "mover", "work"}, toPod, fromPod, said)
		_ = fromPod.CloseWithError(io.EOF) // closing a pipe cannot fail
		_ = fromUs.Close()
		ended <- err
	}()
	report, err := d.mover.Run(ctx, stream{toUs, fromUs}, order, progress)
	_, _ = fromUs.Close(), toUs.Close() // as above
	timer := time.NewTimer(cleanUp)
	defer timer.Stop()
	select {
	case execErr := <-ended:
		if err != nil && execErr != nil {
			err = fmt.Errorf("%w (the mover: %w%s)", err, execErr, said)
		}
	case <-timer.C: // its pod is removed in any case
	}
	return report, err
}

// stream is the two pipes as one.
type stream struct {
	*io.PipeReader
	w *io.PipeWriter
}

// Write implements io.Writer.
func (s stream) Write(p []byte) (int, error) { return s.w.Write(p) }

// Close implements io.Closer.
func (s stream) Close() error { return errors.Join(s.PipeReader.Close(), s.w.Close()) }
