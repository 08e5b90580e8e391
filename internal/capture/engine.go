package capture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// parallel bounds the requests under way at once; the server's flow control queues beyond that anyway.
const parallel = 16

// engine is what a capture and a continuous one have in common.
type engine struct {
	client  *kube.Client
	reader  *reader
	scope   Scope
	sink    Sink
	held    *held
	missing *missing
	limit   chan struct{}
	changed func()       // told whenever a document changes, or what is missing
	gate    sync.RWMutex // held for reading while an object is put or taken out: a checkpoint is of one moment
}

// newEngine reads the application's namespaces before anything else, so that a name that was mistyped stops
// the capture instead of making an empty checkpoint.
func newEngine(ctx context.Context, c *kube.Client, scope Scope, sink Sink) (*engine, error) {
	r, err := newReader(ctx, c)
	if err != nil {
		return nil, err
	}
	e := &engine{client: c, reader: r, scope: scope, sink: sink, held: newHeld(scope.Namespaces), missing: newMissing(),
		limit: make(chan struct{}, parallel), changed: func() {}}
	for _, name := range scope.Namespaces {
		_, err := c.Typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Correct spec.namespaces of the application, or make the namespace.",
				"application %s: namespace %s does not exist at site %s", scope.Application, name, c.Site)
		}
		if err != nil {
			return nil, siteError(c.Site, fmt.Sprintf("reading namespace %s", name), err)
		}
	}
	return e, nil
}

// missing is what cannot be read now, and why.
type missing struct {
	mu   sync.Mutex
	what map[string]string
}

func newMissing() *missing { return &missing{what: map[string]string{}} }

// set notes that something cannot be read, and says whether that is news.
func (m *missing) set(what, why string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.what[what]
	m.what[what] = why
	return !known
}

// clear notes that something can be read again, and says whether that is news.
func (m *missing) clear(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.what[what]
	delete(m.what, what)
	return known
}

// of returns what is missing whose names begin so.
func (m *missing) of(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for what := range m.what {
		if strings.HasPrefix(what, prefix) {
			out = append(out, what)
		}
	}
	return out
}

func (m *missing) list() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, what := range slices.Sorted(maps.Keys(m.what)) {
		out = append(out, what+": "+m.what[what])
	}
	return out
}

// acquire waits for a place among the requests under way.
func (e *engine) acquire(ctx context.Context) (release func(), err error) {
	select {
	case e.limit <- struct{}{}:
		return func() { <-e.limit }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sinkError is a failure to write, not to read.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// verdict sorts the reasons why something cannot be read.
type verdict int

const (
	fatal   verdict = iota // the capture ends: it was called off, or the sink failed
	lost                   // the site does not answer, or rejects us
	refused                // the site answers that it cannot, or may not, give it
	gone                   // there is no such thing
	expired                // what a list or a watch would go on from is too old
	well                   // it can
)

func judge(ctx context.Context, err error) verdict {
	var sink *sinkError
	var transport *url.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &sink):
		return fatal
	case err == nil:
		return well
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return expired
	case apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err):
		return gone
	case apierrors.IsUnauthorized(err), errors.As(err, &transport):
		return lost
	}
	return refused
}

// why words a refusal for the list of what is missing.
func why(err error) string {
	if apierrors.IsForbidden(err) {
		return "forbidden: " + err.Error()
	}
	return err.Error()
}

// siteError says that the site itself stopped answering, or rejects us.
func siteError(site, doing string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s at site %s: %w", doing, site, err)
	case apierrors.IsUnauthorized(err):
		return dr.Errorf(dr.ClassDenied, err, "Log in to the cluster again.", "%s at site %s", doing, site)
	case apierrors.IsForbidden(err):
		return dr.Errorf(dr.ClassDenied, err, "Give the user of this site's kubeconfig the right to do so.", "%s at site %s", doing, site)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		return dr.Errorf(dr.ClassUnreachable, err, "Check that the cluster is up and that this machine can reach its API server.", "%s at site %s", doing, site)
	}
	return fmt.Errorf("%s at site %s: %w", doing, site, err)
}
