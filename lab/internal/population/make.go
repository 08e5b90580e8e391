package population

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/internal/kube"
)

// Workers is how many requests Make and Change have under way.
const Workers = 32

// Make fills a cluster: the CRD and the namespaces, then every object, many at once. What is there already
// is an error.
func Make(ctx context.Context, c *kube.Client, s Spec) error {
	if err := MakeFoundation(ctx, c, s); err != nil {
		return err
	}
	return each(ctx, s.Objects, func(ctx context.Context, i int) error { return Create(ctx, c, s.At(i)) })
}

// MakeFoundation makes the namespaces and the CRD, and waits until its kind is served.
func MakeFoundation(ctx context.Context, c *kube.Client, s Spec) error {
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := c.Dynamic.Resource(crds).Create(ctx, Definition(), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the CRD: %w", err)
	}
	for _, name := range s.Names() {
		if _, err := c.Dynamic.Resource(core("namespaces")).Create(ctx, object("v1", "Namespace", "", name, map[string]any{}), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	widgets := schema.GroupVersionResource{Group: Group, Version: "v1", Resource: "widgets"}
	err := kube.WaitFor(ctx, "the widgets to be served", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		_, err := c.Dynamic.Resource(widgets).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, fmt.Sprint(err), nil
	})
	c.Mapper.Reset()
	return err
}

// Create makes one object, and writes its status where it has one: a bare POST, and a PUT of the status.
func Create(ctx context.Context, c *kube.Client, o Object) error {
	raw, err := json.Marshal(o.Body.Object)
	if err != nil {
		return err
	}
	made, err := send(ctx, c.Discovery.RESTClient().Post().AbsPath(collection(o)), raw)
	if err != nil || !o.Status {
		return err
	}
	var is unstructured.Unstructured
	if err := json.Unmarshal(made, &is.Object); err != nil {
		return err
	}
	is.Object["status"] = o.Body.Object["status"]
	if raw, err = json.Marshal(is.Object); err != nil {
		return err
	}
	_, err = send(ctx, c.Discovery.RESTClient().Put().AbsPath(collection(o), o.Body.GetName(), "status"), raw)
	return err
}

func send(ctx context.Context, r *rest.Request, body []byte) ([]byte, error) {
	out, err := r.SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.URL().Path, err)
	}
	return out, nil
}

func collection(o Object) string {
	path := "/apis/" + o.Resource.Group
	if o.Resource.Group == "" {
		path = "/api"
	}
	return strings.Join([]string{path, o.Resource.Version, "namespaces", o.Body.GetNamespace(), o.Resource.Resource}, "/")
}

// Change changes one object of every step: 100 changes one in a hundred, of all kinds. Round tells one change
// from the next. It returns how many it changed.
func Change(ctx context.Context, c *kube.Client, s Spec, step, round int) (int, error) {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"population.example.com/round":"%d"}}}`, round)
	n := s.Objects / step
	return n, each(ctx, n, func(ctx context.Context, k int) error {
		o := s.At(k*step + (k*7+round*13)%step)
		r := c.Discovery.RESTClient().Verb(http.MethodPatch).AbsPath(collection(o), o.Body.GetName())
		return r.SetHeader("Content-Type", "application/merge-patch+json").Body(patch).Do(ctx).Error()
	})
}

// each calls fn for the numbers below n, many at once.
func each(ctx context.Context, n int, fn func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range Workers {
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := fn(ctx, i); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}
