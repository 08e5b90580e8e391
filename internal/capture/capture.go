package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// parallel bounds the lists under way at once; the server's flow control queues beyond that anyway.
const parallel = 16

// MetaPath is where a checkpoint describes itself; it is written last.
const MetaPath = "meta.json"

// Scope says what belongs to the application.
type Scope struct {
	Application   string
	Namespaces    []string
	LabelSelector string // of namespaced objects; empty: all
}

// Sink takes the documents of a checkpoint. Put is called concurrently, once for each path.
type Sink interface {
	Put(ctx context.Context, path string, doc []byte) error
}

// Result tells what a capture found. It is also the content of meta.json.
type Result struct {
	Application   string         `json:"application"`
	Site          string         `json:"site"`
	ServerVersion string         `json:"serverVersion"`
	Namespaces    []string       `json:"namespaces"`
	LabelSelector string         `json:"labelSelector,omitempty"`
	Objects       int            `json:"objects"`
	Counts        map[string]int `json:"counts"` // by plural.group
	// APIVersions are the versions that the site served of each kind that was captured, preferred first.
	APIVersions map[string][]string `json:"apiVersions"`
	// DefaultStorageClass is what claims that name no class get at the site.
	DefaultStorageClass string `json:"defaultStorageClass,omitempty"`
	// Missing names what could not be read, and why. A checkpoint with any is incomplete.
	Missing []string `json:"missing,omitempty"`
}

// Run captures the scope into sink. A namespace that does not exist is an error before anything is
// written; whatever else cannot be read is named in Result.Missing. Other errors are the sink's, or those
// of a site that went away.
func Run(ctx context.Context, c *kube.Client, scope Scope, sink Sink) (Result, error) {
	p := &pass{client: c, scope: scope, sink: sink, refs: newReferences(), limit: make(chan struct{}, parallel)}
	p.result = Result{
		Application: scope.Application, Site: c.Site, ServerVersion: c.Version, LabelSelector: scope.LabelSelector,
		Namespaces: slices.Sorted(slices.Values(scope.Namespaces)),
		Counts:     map[string]int{}, APIVersions: map[string][]string{},
	}
	namespaces, err := p.readNamespaces(ctx)
	if err != nil {
		return Result{}, err
	}
	served, err := p.discover(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := p.lists(ctx, served, namespaces); err != nil {
		return Result{}, err
	}
	if err := p.clusterObjects(ctx, served); err != nil {
		return Result{}, err
	}
	slices.Sort(p.result.Missing)
	doc, err := encode(p.result)
	if err != nil {
		return Result{}, fmt.Errorf("encoding the checkpoint's description: %w", err)
	}
	if err := sink.Put(ctx, MetaPath, doc); err != nil {
		return Result{}, fmt.Errorf("writing the checkpoint's description: %w", err)
	}
	return p.result, nil
}

// pass is the state of one Run; what its mutex guards is written by many lists at once.
type pass struct {
	client *kube.Client
	scope  Scope
	sink   Sink
	limit  chan struct{}

	mu     sync.Mutex
	result Result
	refs   *references
}

// readNamespaces reads the application's namespaces before anything else, so that a name that was
// mistyped stops the capture instead of making an empty checkpoint.
func (p *pass) readNamespaces(ctx context.Context) ([]corev1.Namespace, error) {
	var found []corev1.Namespace
	for _, name := range p.result.Namespaces {
		ns, err := p.client.Typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Correct spec.namespaces of the application, or make the namespace.",
				"application %s: namespace %s does not exist at site %s", p.scope.Application, name, p.client.Site)
		}
		if err != nil {
			return nil, siteError(p.client.Site, fmt.Sprintf("reading namespace %s", name), err)
		}
		if ns.Status.Phase == corev1.NamespaceTerminating {
			p.missing("namespace %s: it is being deleted", name)
		}
		found = append(found, *ns)
	}
	return found, nil
}

func (p *pass) missing(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Missing = append(p.result.Missing, fmt.Sprintf(format, args...))
}

// lists reads every kind of every namespace, as many at once as the limit allows.
func (p *pass) lists(ctx context.Context, served []resource, namespaces []corev1.Namespace) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range namespaces {
		ns := &namespaces[i]
		g.Go(func() error { return p.putNamespace(ctx, ns) })
		for _, r := range served {
			if !r.namespaced || skipKind(r.GroupResource()) {
				continue
			}
			g.Go(func() error {
				return p.list(ctx, r, ns.Name, metav1.ListOptions{LabelSelector: p.scope.LabelSelector}, nil)
			})
		}
	}
	return g.Wait()
}

// acquire waits for a place among the requests under way.
func (p *pass) acquire(ctx context.Context) (release func(), err error) {
	select {
	case p.limit <- struct{}{}:
		return func() { <-p.limit }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
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

func objectPath(r resource, namespace, name string) string {
	group := r.Group
	if group == "" {
		group = "core"
	}
	if namespace == "" {
		return strings.Join([]string{"cluster", group, r.Resource, name + ".json"}, "/")
	}
	return strings.Join([]string{"namespaces", namespace, group, r.Resource, name + ".json"}, "/")
}
