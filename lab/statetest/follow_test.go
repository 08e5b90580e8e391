package statetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// kept is a Store that remembers its checkpoints.
type kept struct {
	*memory
	mu          sync.Mutex
	checkpoints []moment
	fail        error // of the next Commit
}

type moment struct {
	capture.Checkpoint
	docs map[string][]byte
}

func (k *kept) Paths() iter.Seq[string] { return slices.Values(slices.Collect(maps.Keys(k.docs))) }

func (k *kept) Commit(_ context.Context, c capture.Checkpoint) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	k.memory.mu.Lock()
	defer k.memory.mu.Unlock()
	k.checkpoints = append(k.checkpoints, moment{c, maps.Clone(k.docs)})
	if n := len(k.docs) - 1; n != c.Objects { // one is the description
		return fmt.Errorf("%d documents, but %d objects are described", n, c.Objects)
	}
	return nil
}

func (k *kept) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.checkpoints)
}

func (k *kept) last() moment {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.checkpoints) == 0 {
		return moment{}
	}
	return k.checkpoints[len(k.checkpoints)-1]
}

// following is a capture that goes on in the background.
type following struct {
	*kept
	t    *testing.T
	stop func() error
}

// follow begins to follow namespaces, with checkpoints as fast as they may come.
func follow(t *testing.T, c *kube.Client, k *kept, namespaces ...string) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- capture.Follow(ctx, c, capture.Scope{Application: namespaces[0], Namespaces: namespaces}, k,
			capture.FollowOptions{Interval: 300 * time.Millisecond, Say: t.Logf})
	}()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-time.After(30 * time.Second):
			return errors.New("it did not end within 30 s")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return &following{kept: k, t: t, stop: stop}
}

// until waits for a checkpoint that fits.
func (f *following) until(what string, fits func(moment) bool) moment {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	var found moment
	err := kube.WaitFor(ctx, what, 50*time.Millisecond, func(context.Context) (bool, string, error) {
		found = f.last()
		return found.docs != nil && fits(found), fmt.Sprintf("%d checkpoints, missing %v", f.count(), found.Missing), nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return found
}

func (c moment) has(path string) bool { return c.docs[path] != nil }

func TestFollowKeepsUp(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "follow"
	create(t, east, ns, application)
	k := &kept{memory: newMemory()}
	f := follow(t, east, k, ns)
	first := f.until("the first checkpoint", func(moment) bool { return true })
	full, result := captured(t, east, ns)
	if !slices.Equal(slices.Sorted(maps.Keys(full.docs)), slices.Sorted(maps.Keys(first.docs))) || first.Objects != result.Objects || len(first.Missing) > 0 {
		t.Errorf("followed:\n%v\ncaptured at once:\n%v\nmissing %v", slices.Sorted(maps.Keys(first.docs)), slices.Sorted(maps.Keys(full.docs)), first.Missing)
	}
	for path, doc := range full.docs {
		if string(first.docs[path]) != string(doc) {
			t.Errorf("%s:\nfollowed %s\ncaptured %s", path, first.docs[path], doc)
		}
	}
	time.Sleep(2 * time.Second)
	if n := f.count(); n != 1 {
		t.Errorf("a quiet application has %d checkpoints", n)
	}

	began := time.Now()
	patch(t, east, ns, "v1/ConfigMap/web", "data: {title: Another shop}")
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: new, namespace: @NS@}}`)
	remove(t, east, ns, "v1/Secret/key")
	changed := f.until("the changes", func(c moment) bool {
		return strings.Contains(string(c.docs["namespaces/follow/core/configmaps/web.json"]), "Another shop") &&
			c.has("namespaces/follow/core/configmaps/new.json") && !c.has("namespaces/follow/core/secrets/key.json")
	})
	if changed.Time.Before(began) || changed.Time.After(time.Now()) {
		t.Errorf("a checkpoint of changes after %s is of %s", began, changed.Time)
	}
	// Only metadata that is not kept changes: no checkpoint.
	n := f.count()
	patch(t, east, ns, "v1/ConfigMap/web", "data: {title: Another shop}")
	time.Sleep(time.Second)
	if f.count() != n {
		t.Error("a change of nothing makes a checkpoint")
	}

	// What is needed of the cluster comes and goes with what needs it.
	create(t, east, ns, `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-low}, value: 10}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: @NS@-sandbox}, handler: sandbox}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: low, namespace: @NS@}, template: {spec: {priorityClassName: @NS@-low, runtimeClassName: @NS@-sandbox, containers: [{name: a, image: a}]}}}
`)
	low := "cluster/scheduling.k8s.io/priorityclasses/follow-low.json"
	f.until("the pod template", func(c moment) bool { return c.has("namespaces/follow/core/podtemplates/low.json") })
	create(t, east, ns, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: low, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: low}}, template: {metadata: {labels: {app: low}},
  spec: {priorityClassName: @NS@-low, runtimeClassName: @NS@-sandbox, containers: [{name: a, image: a}]}}}}`)
	f.until("the classes that came to be needed", func(c moment) bool {
		return c.has(low) && c.has("cluster/node.k8s.io/runtimeclasses/follow-sandbox.json")
	})
	remove(t, east, ns, "apps/v1/Deployment/low")
	f.until("the classes to be needed no longer", func(c moment) bool {
		return !c.has(low) && !c.has("cluster/node.k8s.io/runtimeclasses/follow-sandbox.json") && c.has("cluster/scheduling.k8s.io/priorityclasses/follow-high.json")
	})
	if err := f.stop(); err != nil {
		t.Error(err)
	}

	// A process that begins again goes on from what is kept.
	before := f.count()
	remove(t, east, ns, "v1/ConfigMap/new")
	f = follow(t, east, k, ns)
	f.until("what happened meanwhile", func(c moment) bool { return !c.has("namespaces/follow/core/configmaps/new.json") })
	if got := f.count() - before; got != 1 {
		t.Errorf("%d checkpoints after a restart, want 1", got)
	}
	if c := f.last(); c.Changed > 3 {
		t.Errorf("%d changes after a restart", c.Changed)
	}
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestFollowNewKindsAndOldOnes(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "kinds"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}`)
	f := follow(t, east, &kept{memory: newMemory()}, ns)
	f.until("the first checkpoint", func(moment) bool { return true })
	crd, object := "cluster/apiextensions.k8s.io/customresourcedefinitions/toys.kinds.example.com.json", "namespaces/kinds/kinds.example.com/toys/ball.json"
	toy := `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: toys.@NS@.example.com}, spec: {group: @NS@.example.com, scope: Namespaced,
  names: {kind: Toy, listKind: ToyList, plural: toys, singular: toy}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
---
{apiVersion: @NS@.example.com/v1, kind: Toy, metadata: {name: ball, namespace: @NS@}, size: 3}
`
	create(t, east, ns, toy)
	f.until("a new kind", func(c moment) bool { return c.has(object) && c.has(crd) && len(c.Missing) == 0 })
	remove(t, east, "", "apiextensions.k8s.io/v1/CustomResourceDefinition/toys.kinds.example.com")
	f.until("the kind to go", func(c moment) bool { return !c.has(object) && !c.has(crd) && len(c.Missing) == 0 })
	east.Mapper.Reset()
	create(t, east, ns, toy)
	f.until("the kind again", func(c moment) bool { return c.has(object) && c.has(crd) && len(c.Missing) == 0 })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestFollowANamespaceThatGoes(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "goes"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}}
`)
	f := follow(t, east, &kept{memory: newMemory()}, ns)
	f.until("the first checkpoint", func(c moment) bool { return c.has("namespaces/goes/core/configmaps/a.json") })
	remove(t, east, "", "v1/Namespace/goes")
	f.until("the namespace to be named", func(c moment) bool { return slices.Contains(c.Missing, "namespace goes: it is being deleted") })
	// No controller empties it here.
	remove(t, east, ns, "v1/ConfigMap/a")
	emptied, err := east.Typed.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	emptied.Spec.Finalizers = nil
	if _, err := east.Typed.CoreV1().Namespaces().Finalize(t.Context(), emptied, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := f.until("the namespace to be gone", func(c moment) bool { return slices.Contains(c.Missing, "namespace goes: it does not exist") })
	if gone.has("cluster/core/namespaces/goes.json") || gone.has("namespaces/goes/core/configmaps/a.json") {
		t.Error("it is still there")
	}
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: @NS@}}
`)
	f.until("the namespace again", func(c moment) bool { return len(c.Missing) == 0 && c.has("namespaces/goes/core/configmaps/b.json") })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

// front stands before an API server and lets a test spoil its answers.
type front struct {
	mu    sync.Mutex
	spoil func(w http.ResponseWriter, r *http.Request) bool // true: the answer was given
	live  chan struct{}                                     // closed when the connections are cut
}

// set spoils answers from now on, and cuts the connections that there are.
func (f *front) set(spoil func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spoil = spoil
	close(f.live)
	f.live = make(chan struct{})
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request, next http.Handler) {
	f.mu.Lock()
	spoil, live := f.spoil, f.live
	f.mu.Unlock()
	if spoil != nil && spoil(w, r) {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-live:
			cancel()
		case <-ctx.Done():
		}
	}()
	next.ServeHTTP(w, r.WithContext(ctx))
}

// fronted returns a client that reaches a site through a front.
func fronted(t *testing.T, c *kube.Client) (*kube.Client, *front) {
	t.Helper()
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1, ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	f := &front{live: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.ServeHTTP(w, r, proxy) }))
	t.Cleanup(func() { f.set(nil); server.Close() })
	path := filepath.Join(t.TempDir(), "config")
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: server.URL}}, AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {}},
		Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "c",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	through, err := kube.Connect(t.Context(), dr.Site{Name: c.Site, Cluster: dr.Cluster{Kubeconfig: path}})
	if err != nil {
		t.Fatal(err)
	}
	return through, f
}

func status(w http.ResponseWriter, code int, reason string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"spoiled","code":%d}`, reason, code)
	return true
}

func TestFollowThroughFaults(t *testing.T) {
	slow(t)
	// Not beside others: a kind that another test takes away during an outage cannot be told from one that failed.
	east, _ := connect(t)
	const ns = "faults"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: goes, namespace: @NS@}}
---
{apiVersion: v1, kind: Secret, metadata: {name: stays, namespace: @NS@}}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: stays, namespace: @NS@}, template: {spec: {containers: [{name: a, image: a}]}}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: stays, namespace: @NS@}, spec: {limits: [{type: Container}]}}
`)
	through, faults := fronted(t, east)
	f := follow(t, through, &kept{memory: newMemory()}, ns)
	stays, goes := "namespaces/faults/core/configmaps/stays.json", "namespaces/faults/core/configmaps/goes.json"
	f.until("the first checkpoint", func(c moment) bool { return c.has(stays) && c.has(goes) })
	isList := func(r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/namespaces/faults/configmaps") && r.URL.Query().Get("watch") == ""
	}
	isWatch := func(r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/namespaces/faults/configmaps") && r.URL.Query().Get("watch") != ""
	}

	// Cut watches go on where they were: nothing is listed again, and nothing is lost.
	listed := make(chan string, 100)
	faults.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if isList(r) {
			listed <- r.URL.Path
		}
		return false
	})
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: cut, namespace: @NS@}}`)
	f.until("what came after the cut", func(c moment) bool {
		return c.has("namespaces/faults/core/configmaps/cut.json") && len(c.Missing) == 0
	})
	if len(listed) > 0 {
		t.Errorf("%d lists after watches were cut", len(listed))
	}

	// The versions that watches go on from are too old, and lists are refused, fail, break off or make no
	// sense: what is kept stays, and is called missing.
	spoilt := map[string]func(http.ResponseWriter) bool{
		"configmaps": func(w http.ResponseWriter) bool { return status(w, http.StatusForbidden, "Forbidden") },
		"secrets":    func(w http.ResponseWriter) bool { return status(w, http.StatusInternalServerError, "InternalError") },
		"podtemplates": func(w http.ResponseWriter) bool {
			_, _ = w.Write([]byte(`{"kind":"PodTemplateList","metadata":{"resourceVersion":"5"},"items":[`))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"limitranges": func(w http.ResponseWriter) bool { _, _ = w.Write([]byte(`<html>welcome</html>`)); return true },
	}
	all := func(c moment) bool {
		for kind := range spoilt {
			if !c.has("namespaces/faults/core/" + kind + "/stays.json") {
				return false
			}
		}
		return true
	}
	faults.set(func(w http.ResponseWriter, r *http.Request) bool {
		kind, in := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/faults/")
		switch spoil := spoilt[kind]; {
		case !in || spoil == nil:
			return false
		case r.URL.Query().Get("watch") != "":
			return status(w, http.StatusGone, "Expired")
		default:
			return spoil(w)
		}
	})
	broken := f.until("the kinds whose lists are spoilt to be named", func(c moment) bool {
		for kind := range spoilt {
			if !slices.ContainsFunc(c.Missing, func(s string) bool { return strings.HasPrefix(s, kind+" of namespace faults: ") }) {
				return false
			}
		}
		return len(c.Missing) == len(spoilt)
	})
	if !all(broken) || !broken.has(goes) {
		t.Error("spoilt lists delete what is kept")
	}
	faults.set(nil)
	f.until("everything to be whole again", func(c moment) bool { return len(c.Missing) == 0 && all(c) && c.has(goes) })

	// What was deleted while no watch could see it is told by a complete list.
	faults.set(func(w http.ResponseWriter, r *http.Request) bool {
		return (isWatch(r) || isList(r)) && status(w, http.StatusGone, "Expired")
	})
	remove(t, east, ns, "v1/ConfigMap/goes")
	time.Sleep(time.Second)
	faults.set(nil)
	f.until("the deletion", func(c moment) bool { return c.has(stays) && !c.has(goes) && len(c.Missing) == 0 })

	// The whole site goes away and comes back: no checkpoint meanwhile, none that is incomplete afterwards.
	faults.set(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	create(t, east, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: outage, namespace: @NS@}}`)
	n := f.count()
	time.Sleep(13 * time.Second) // longer than a watch is given to go on
	if f.count() != n {
		t.Errorf("a checkpoint of a site that does not answer: missing %v", f.last().Missing)
	}
	faults.set(nil)
	back := f.until("the site to be back", func(c moment) bool { return c.has("namespaces/faults/core/configmaps/outage.json") })
	if len(back.Missing) > 0 || !back.has(stays) {
		t.Errorf("after the outage %v are missing", back.Missing)
	}
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithItsStore(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "store"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}`)
	full := errors.New("the vault is full")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := capture.Follow(ctx, east, capture.Scope{Application: ns, Namespaces: []string{ns}}, &kept{memory: newMemory(), fail: full}, capture.FollowOptions{})
	if !errors.Is(err, full) {
		t.Errorf("ended with %v", err)
	}
	k := &kept{memory: newMemory()}
	for range 2 { // once, and once more when there is nothing new
		if err := capture.Follow(ctx, east, capture.Scope{Application: ns, Namespaces: []string{ns}}, k, capture.FollowOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
	}
	if k.count() != 1 {
		t.Errorf("%d checkpoints of one state", k.count())
	}
	err = capture.Follow(ctx, east, capture.Scope{Application: ns, Namespaces: []string{"nowhere"}}, k, capture.FollowOptions{Once: true})
	if !errors.Is(err, dr.ErrNotFound) || dr.ClassOf(err) != dr.ClassUsage {
		t.Errorf("a namespace that is not there: %v", err)
	}
}
