package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/kube"
)

// MetaPath is where a checkpoint describes itself; it is written last.
const MetaPath = "meta.json"

// Scope says what belongs to the application.
type Scope struct {
	Application   string
	Namespaces    []string
	LabelSelector string // of namespaced objects; empty: all
}

// Sink takes the documents of a checkpoint. Its methods are called concurrently, but not for the same path.
type Sink interface {
	// Put takes a document, in the place of an earlier one of that path, and says whether it differs from
	// that one. doc is the sink's during the call alone.
	Put(ctx context.Context, path string, doc []byte) (changed bool, err error)
	// Delete takes a document out; one that is not there is no error.
	Delete(ctx context.Context, path string) error
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
	e, err := newEngine(ctx, c, scope, sink)
	if err != nil {
		return Result{}, err
	}
	found, err := e.discover(ctx)
	if err != nil {
		return Result{}, err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range e.namespaceShelves() {
		g.Go(func() error { return e.listOnce(gctx, s) })
	}
	for _, s := range e.namespacedShelves(found.served) {
		g.Go(func() error { return e.listOnce(gctx, s) })
	}
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	if err := e.clusterOnce(ctx, found.served); err != nil {
		return Result{}, err
	}
	r, _, err := e.describe(ctx)
	return r, err
}

// describe writes what a checkpoint says of itself, which depends on what was captured alone.
func (e *engine) describe(ctx context.Context) (r Result, changed bool, err error) {
	r = e.result()
	doc, err := encode(r)
	if err != nil {
		return Result{}, false, fmt.Errorf("encoding the checkpoint's description: %w", err)
	}
	if changed, err = e.sink.Put(ctx, MetaPath, doc); err != nil {
		return Result{}, false, &sinkError{fmt.Errorf("writing the checkpoint's description: %w", err)}
	}
	return r, changed, nil
}

func (e *engine) result() Result {
	r := Result{
		Application: e.scope.Application, Site: e.client.Site, ServerVersion: e.client.Version, LabelSelector: e.scope.LabelSelector,
		Namespaces: slices.Sorted(slices.Values(e.scope.Namespaces)),
		Counts:     map[string]int{}, APIVersions: map[string][]string{},
		Missing: e.missing.list(),
	}
	e.held.describe(&r)
	return r
}

// clusterOnce reads the cluster-scoped objects that the captured ones need.
func (e *engine) clusterOnce(ctx context.Context, served []resource) error {
	shelves := e.clusterShelves(served)
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range shelves {
		// ClusterRoles come last: the bindings say which of them are needed.
		if selectsByContent(s.kind()) && s.kind() != kindClusterRole {
			g.Go(func() error { return e.listOnce(gctx, s) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range shelves {
		if s.kind() == kindClusterRole {
			if err := e.listOnce(ctx, s); err != nil {
				return err
			}
		}
	}
	return e.settle(ctx, shelves)
}

// encode writes JSON with sorted keys, so that an unchanged object is an unchanged document.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
