package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
)

// eventBuffer is what a watch has at first: most events are small, and watches are many.
const eventBuffer = 4 << 10

// watch follows a shelf from where it was left until the watch ends, which is no error.
func (f *follower) watch(ctx context.Context, src *source) error {
	q := src.shelf.query(f.scope.LabelSelector)
	q.resourceVersion, q.watch = src.version, watchFor+rand.N(watchFor)
	ctx, cancel := context.WithTimeout(ctx, q.watch+watchDeadline)
	defer cancel()
	body, err := f.reader.open(ctx, q)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // what was not read is not wanted
	f.well(src)
	stream, w := rawjson.NewStream(body, eventBuffer), f.worker(src.shelf)
	var event rawjson.Doc
	for {
		raw, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(q.path, err)
		}
		if err := event.Parse(raw); err != nil {
			return fmt.Errorf("an event of %s: %w", src.shelf.what(), err)
		}
		object := event.Root().Get("object")
		if err := f.event(ctx, src, w, event.Root().Get("type").Text(), object); err != nil {
			return err
		}
		if v := object.Get("metadata", "resourceVersion").Text(); v != "" {
			src.version = v
		}
	}
}

// event does what a watch says.
func (f *follower) event(ctx context.Context, src *source, w *worker, kind string, object rawjson.Value) error {
	if k := src.shelf.kind(); kind != "BOOKMARK" && (k == kindDefinition || k == kindAPIService) {
		f.lookAgain(debounce) // there may be new kinds
	}
	switch kind {
	case "ADDED", "MODIFIED":
		w.s.turn.Lock()
		defer w.s.turn.Unlock()
		return w.take(ctx, object.Raw())
	case "DELETED":
		w.s.turn.Lock()
		defer w.s.turn.Unlock()
		name := object.Get("metadata", "name").Text()
		f.held.forget(w.s, name)
		if err := w.drop(ctx, name); err != nil {
			return err
		}
		f.noteNamespace(w.s, rawjson.Value{})
		return nil
	case "BOOKMARK":
		return nil
	case "ERROR":
		var status metav1.Status
		if err := json.Unmarshal(object.Raw(), &status); err != nil {
			return fmt.Errorf("a watch of %s ended: %s", w.s.what(), object.Raw())
		}
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("a watch of %s said %q", w.s.what(), kind)
}
