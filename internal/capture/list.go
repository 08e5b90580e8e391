package capture

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"lifeboat.dev/lifeboat/internal/capture/rawjson"
	"lifeboat.dev/lifeboat/internal/kube"
)

// listOnce lists a shelf for a capture that does not go on. What the server refuses or cannot serve becomes
// missing; an error is a site or a sink that went away.
func (e *engine) listOnce(ctx context.Context, s *shelf) error {
	_, err := e.list(ctx, s)
	if err == nil {
		return nil
	}
	switch judge(ctx, err) {
	case fatal:
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("listing %s at site %s: %w", s.what(), e.client.Site, err)
	case lost:
		// It may be one aggregated server that breaks off, behind a site that answers.
		if apierrors.IsUnauthorized(err) || e.reader.ping(ctx) != nil {
			return siteError(e.client.Site, "listing "+s.what(), err)
		}
	case gone: // the kind went away since it was discovered, or never was a list
		return nil
	}
	e.missing.set(s.what(), why(err))
	return nil
}

// list reads a shelf in pages into the sink, and takes out of it what a list that ended well did not have. It
// returns what a watch goes on from.
func (e *engine) list(ctx context.Context, s *shelf) (resourceVersion string, err error) {
	release, err := e.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	q := s.query(e.scope.LabelSelector)
	q.limit = pageSize
	round := e.held.begin(s)
	w := e.worker(s)
	for tries, broke := 0, 0; ; {
		p, err := e.reader.page(ctx, q, func(raw []byte) error { return w.take(ctx, raw) })
		switch {
		case err == nil:
			broke = 0
		case judge(ctx, err) == lost && !apierrors.IsUnauthorized(err) && broke < retries:
			broke++ // what was read of it is put again
			continue
		case judge(ctx, err) == expired && tries < restarts:
			tries++
			round, q.continueAt = e.held.begin(s), ""
			continue
		default:
			return "", err
		}
		if q.continueAt = p.continueAt; q.continueAt == "" {
			return p.resourceVersion, w.sweep(ctx, round)
		}
	}
}

// worker makes documents of the objects of a shelf, one after the other.
type worker struct {
	e    *engine
	s    *shelf
	doc  rawjson.Doc
	out  []byte
	set  []rawjson.Member
	refs []reference
}

func (e *engine) worker(s *shelf) *worker {
	kind, version := mustText(s.kindName), mustText(s.GroupVersion().String())
	return &worker{e: e, s: s, set: []rawjson.Member{{Name: "apiVersion", Value: version}, {Name: "kind", Value: kind}}}
}

// mustText encodes a name, which needs no escapes.
func mustText(s string) []byte { return []byte(`"` + s + `"`) }

// take captures one object.
func (w *worker) take(ctx context.Context, raw []byte) error {
	if err := w.doc.Parse(raw); err != nil {
		return fmt.Errorf("an object of %s: %w", w.s.what(), err)
	}
	return w.object(ctx, w.doc.Root())
}

func (w *worker) object(ctx context.Context, o rawjson.Value) error {
	w.e.gate.RLock()
	defer w.e.gate.RUnlock()
	name := o.Get("metadata", "name").Text()
	if name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("an object of %s: %w: it has no name", w.s.what(), rawjson.ErrSyntax)
	}
	if !w.e.held.wants(w.s, name, o) || !wanted(w.s.GroupResource(), o) {
		return w.remove(ctx, name)
	}
	var err error
	w.out, err = w.document(w.out[:0], o)
	if err != nil {
		return fmt.Errorf("encoding %s %s: %w", w.s.what(), name, err)
	}
	changed, err := w.e.sink.Put(ctx, w.s.path(name), w.out)
	if err != nil {
		return &sinkError{fmt.Errorf("writing %s %s: %w", w.s.what(), name, err)}
	}
	w.refs = appendReferences(w.refs[:0], w.s.resource, o)
	w.e.held.add(w.s, name, w.refs)
	w.e.noteNamespace(w.s, o)
	if changed {
		w.e.changed()
	}
	return nil
}

// drop takes an object out that is not there any more, or not needed.
func (w *worker) drop(ctx context.Context, name string) error {
	w.e.gate.RLock()
	defer w.e.gate.RUnlock()
	return w.remove(ctx, name)
}

// remove is drop for those who hold the gate.
func (w *worker) remove(ctx context.Context, name string) error {
	if !w.e.held.has(w.s, name) {
		return nil
	}
	if err := w.e.sink.Delete(ctx, w.s.path(name)); err != nil {
		return &sinkError{fmt.Errorf("deleting %s %s: %w", w.s.what(), name, err)}
	}
	w.e.held.remove(w.s, name)
	w.e.changed()
	return nil
}

// sweep takes out what a complete list did not have.
func (w *worker) sweep(ctx context.Context, round uint32) error {
	for _, name := range w.e.held.end(w.s, round) {
		w.e.held.forget(w.s, name)
		if err := w.drop(ctx, name); err != nil {
			return err
		}
	}
	w.e.noteNamespace(w.s, rawjson.Value{})
	return nil
}

// document writes the canonical form of an object, without what differs from read to read though nobody
// changed it. The uid stays: owner references are resolved with it.
func (w *worker) document(dst []byte, o rawjson.Value) ([]byte, error) {
	if w.s.GroupResource() == (schema.GroupResource{Resource: "services"}) {
		if explicit := explicitFields(o); explicit != "" {
			return markExplicit(dst, o, explicit)
		}
	}
	dst = w.doc.Append(dst, rawjson.Rewrite{Set: w.set, In: "metadata", Drop: []string{"managedFields", "resourceVersion", "selfLink"}})
	return append(dst, '\n'), nil
}

// noteNamespace says of a namespace that is going away, or has gone, that it is.
func (e *engine) noteNamespace(s *shelf, o rawjson.Value) {
	what, reason := "namespace "+s.only, ""
	switch {
	case s.only == "":
		return
	case !e.held.has(s, s.only):
		reason = "it does not exist"
	case o.Get("status", "phase").IsText("Terminating"):
		reason = "it is being deleted"
	case !o.Exists():
		return // it was seen before this
	}
	if reason != "" && e.missing.set(what, reason) || reason == "" && e.missing.clear(what) {
		e.changed()
	}
}

// wanted leaves out what controllers make by themselves all the time, and Lifeboat's own helpers.
func wanted(r schema.GroupResource, o rawjson.Value) bool {
	labels, annotations := o.Get("metadata", "labels"), o.Get("metadata", "annotations")
	if labels.Get(kube.LabelTransient).Exists() {
		return false
	}
	switch r.String() {
	case "endpoints":
		return !annotations.Get("endpoints.kubernetes.io/last-change-trigger-time").Exists() &&
			!annotations.Get("control-plane.alpha.kubernetes.io/leader").Exists() && labels.Get("endpoints.kubernetes.io/managed-by").Text() == ""
	case "endpointslices.discovery.k8s.io":
		return !strings.HasSuffix(labels.Get("endpointslice.kubernetes.io/managed-by").Text(), ".k8s.io")
	case "configmaps":
		return !annotations.Get("control-plane.alpha.kubernetes.io/leader").Exists()
	}
	return true
}
