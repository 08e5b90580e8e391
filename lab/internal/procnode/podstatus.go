package procnode

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// statusBatch is how long changes of a pod's status are gathered before they are written.
const statusBatch = 15 * time.Millisecond

// writeStatus writes the pod's status whenever it changes, until ctx ends.
func (p *podRun) writeStatus(ctx context.Context) {
	for retry := 0; ; {
		news := p.dirty.changed()
		var again <-chan time.Time
		if err := p.patchStatus(ctx); err != nil && ctx.Err() == nil {
			p.a.opts.Log.Warn("writing a pod's status; trying again", "pod", p.key(), "error", err)
			again = time.After(backoff(retry))
			retry++
		} else {
			retry = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
			select {
			case <-ctx.Done():
				return
			case <-time.After(statusBatch):
			}
		case <-again:
		}
	}
}

// flushStatus writes the last status, so that it is known before the object goes.
func (p *podRun) flushStatus(ctx context.Context) {
	for retry := 0; ctx.Err() == nil && !closed(p.gone); retry++ {
		err := p.patchStatus(ctx)
		if err == nil {
			return
		}
		p.a.opts.Log.Warn("writing a pod's last status; trying again", "pod", p.key(), "error", err)
		select {
		case <-ctx.Done():
		case <-p.gone:
		case <-time.After(backoff(retry)):
		}
	}
}

func (p *podRun) computeStatus() corev1.PodStatus {
	v := podView{podIP: p.ip(), hostIP: p.a.opts.NodeIP}
	for _, c := range p.containers {
		v.containers = append(v.containers, containerView{role: c.role, status: c.snapshot()})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v.pod, v.started, v.prepared, v.reason, v.message = p.pod, p.started, p.prepared, p.reason, p.message
	old := p.pod.Status
	if p.sent != nil {
		old = *p.sent
	}
	return podStatus(v, old, time.Now())
}

// patchStatus writes the status if it differs from what was last written. The patch holds all that
// a node says of a pod and the pod's UID, so it neither needs the newest version nor hits a namesake.
func (p *podRun) patchStatus(ctx context.Context) error {
	want := p.computeStatus()
	p.mu.Lock()
	same := p.sent != nil && !p.stale && apiequality.Semantic.DeepEqual(*p.sent, want)
	p.stale = false
	pod := p.pod
	p.mu.Unlock()
	if same {
		return nil
	}
	patch, err := statusPatch(p.uid, want)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = p.a.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return err
	}
	p.mu.Lock()
	p.sent = &want
	p.mu.Unlock()
	return nil
}

func statusPatch(uid types.UID, s corev1.PodStatus) ([]byte, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	for _, name := range []string{"reason", "message"} {
		if _, ok := fields[name]; !ok {
			fields[name] = nil
		}
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": fields})
}

// deleteObject removes the pod's object now that nothing of it runs.
func (p *podRun) deleteObject(ctx context.Context) {
	now := int64(0)
	opts := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.uid}}
	for retry := 0; ctx.Err() == nil && !closed(p.gone); retry++ {
		pod := p.current()
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := p.a.client.CoreV1().Pods(pod.Namespace).Delete(limit, pod.Name, opts)
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		p.a.opts.Log.Warn("deleting a pod's object; trying again", "pod", p.key(), "error", fmt.Errorf("pod %s: %w", pod.Name, err))
		select {
		case <-ctx.Done():
		case <-p.gone:
		case <-time.After(backoff(retry)):
		}
	}
}
