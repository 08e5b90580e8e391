// Package statetest shows capture, restore and fencing on real API servers.
package statetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/lab/internal/apiserver"
)

// sites are two API servers that all tests share, each test with namespaces of its own.
type sites struct {
	east, west *apiserver.Server
	err        error
}

var start = sync.OnceValue(func() sites {
	var s sites
	binary, err := apiserver.Binary()
	if err != nil {
		return sites{err: err}
	}
	dir, err := os.MkdirTemp("", "statetest-")
	if err != nil {
		return sites{err: err}
	}
	var g errgroup.Group
	for name, server := range map[string]**apiserver.Server{"east": &s.east, "west": &s.west} {
		g.Go(func() (err error) {
			path := filepath.Join(dir, name)
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			// The servers outlive the test that happens to start them.
			*server, err = apiserver.Start(context.Background(), binary, path)
			return err
		})
	}
	s.err = g.Wait()
	cleanUp = func() error {
		var errs []error
		for _, server := range []*apiserver.Server{s.east, s.west} {
			if server != nil {
				errs = append(errs, server.Stop())
			}
		}
		return errors.Join(append(errs, os.RemoveAll(dir))...)
	}
	return s
})

var cleanUp = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(cleanUp(), cleanUpNorth()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// slow leaves a test that takes long to make e2e.
func slow(t *testing.T) {
	t.Helper()
	if os.Getenv("LIFEBOAT_E2E") == "" {
		t.Skip("takes long: run with make e2e")
	}
}

// connect returns clients of both sites.
func connect(t *testing.T) (east, west *kube.Client) {
	t.Helper()
	s := start()
	if errors.Is(s.err, apiserver.ErrNoBinary) && os.Getenv("LIFEBOAT_CI") == "" {
		t.Skip(s.err)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return client(t, "east", s.east.Kubeconfig), client(t, "west", s.west.Kubeconfig)
}

func client(t *testing.T, site, kubeconfig string) *kube.Client {
	t.Helper()
	c, err := kube.Connect(t.Context(), dr.Site{Name: site, Cluster: dr.Cluster{Kubeconfig: kubeconfig}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// deadline is what every wait of a test gets.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// memory is a Sink and a Source.
type memory struct {
	mu    sync.Mutex
	docs  map[string][]byte
	twice []string
}

func newMemory() *memory { return &memory{docs: map[string][]byte{}} }

func (m *memory) Put(_ context.Context, path string, doc []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	is, there := m.docs[path]
	if there {
		m.twice = append(m.twice, path)
	}
	m.docs[path] = bytes.Clone(doc)
	return !bytes.Equal(is, doc), nil
}

func (m *memory) Delete(_ context.Context, path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs, path)
	return nil
}

func (m *memory) Walk(_ context.Context, fn func(string, []byte) error) error {
	for _, path := range slices.Sorted(maps.Keys(m.docs)) {
		if err := fn(path, m.docs[path]); err != nil {
			return err
		}
	}
	return nil
}

// create applies YAML documents in order, as their owner would: with a field manager of their own. @NS@
// becomes the namespace.
func create(t *testing.T, c *kube.Client, ns, docs string) {
	t.Helper()
	for doc := range strings.SplitSeq(strings.ReplaceAll(docs, "@NS@", ns), "\n---\n") {
		var m map[string]any
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if m == nil {
			continue
		}
		obj := &unstructured.Unstructured{Object: m}
		ctx := deadline(t)
		err := kube.WaitFor(ctx, kube.Name(obj)+" to be made", 150*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			r, err := c.Resource(obj.GroupVersionKind(), obj.GetNamespace())
			if err == nil {
				_, err = r.Create(ctx, obj, metav1.CreateOptions{FieldManager: "kubectl-create"})
			}
			if apierrors.IsAlreadyExists(err) && obj.GetKind() == "ServiceAccount" {
				return true, "", nil // a controller was quicker
			}
			if err != nil { // a CRD may not be established yet
				return false, err.Error(), nil
			}
			return true, "", nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// get reads an object by "GROUP/VERSION/KIND/NAME" (core: "v1/KIND/NAME"), nil when it is not there.
func get(t *testing.T, c *kube.Client, ns, what string) *unstructured.Unstructured {
	t.Helper()
	r, name := resource(t, c, ns, what)
	obj, err := r.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return obj
}

type getter interface {
	Get(ctx context.Context, name string, options metav1.GetOptions, subresources ...string) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions, subresources ...string) error
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*unstructured.Unstructured, error)
}

func resource(t *testing.T, c *kube.Client, ns, what string) (getter, string) {
	t.Helper()
	parts := strings.Split(what, "/")
	n := len(parts)
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion(strings.Join(parts[:n-2], "/"))
	obj.SetKind(parts[n-2])
	r, err := c.Resource(obj.GroupVersionKind(), ns)
	if err != nil {
		t.Fatal(err)
	}
	return r, parts[n-1]
}

// patch changes an object, or its subresource, as a controller or a person would.
func patch(t *testing.T, c *kube.Client, ns, what, merge string, subresource ...string) {
	t.Helper()
	r, name := resource(t, c, ns, what)
	raw, err := yaml.YAMLToJSON([]byte(merge))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Patch(t.Context(), name, types.MergePatchType, raw, metav1.PatchOptions{FieldManager: "kubectl-edit"}, subresource...); err != nil {
		t.Fatalf("patching %s: %v", what, err)
	}
}

// field reads "spec.replicas".
func field(obj *unstructured.Unstructured, path string) any {
	if obj == nil {
		return nil
	}
	v, _, _ := unstructured.NestedFieldNoCopy(obj.Object, strings.Split(path, ".")...)
	return v
}

func captured(t *testing.T, c *kube.Client, namespaces ...string) (*memory, capture.Result) {
	t.Helper()
	m := newMemory()
	r, err := capture.Run(t.Context(), c, capture.Scope{Application: namespaces[0], Namespaces: namespaces}, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.twice) > 0 {
		t.Errorf("put twice: %v", m.twice)
	}
	return m, r
}

func loaded(t *testing.T, m *memory) *restore.Set {
	t.Helper()
	s, err := restore.Load(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// prepared are the objects that would be applied.
func prepared(t *testing.T, set *restore.Set, opts restore.Options) (out []*unstructured.Unstructured) {
	t.Helper()
	p, err := set.Prepare(t.Context(), opts)
	if err == nil {
		err = p.Each(t.Context(), func(o *unstructured.Unstructured) error {
			out = append(out, o)
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// options restore from east to west with the application named as its namespace.
func options(ns string) restore.Options {
	return restore.Options{
		Application: ns, Point: "point-1", GateTimeout: 10 * time.Second,
		From: dr.Site{Name: "east", Registry: "registry.east.test"},
		To: dr.Site{Name: "west", Registry: "registry.west.test", Ingress: dr.Ingress{Domain: "apps.west.test"},
			StorageClasses: map[string]string{"premium-east": "standard-west"}},
	}
}
