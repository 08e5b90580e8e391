package procnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// agent is one node.
type agent struct {
	opts      Options
	root      bool
	isolation Isolation
	stages    string // where new roots are put together
	nsenter   string // the system's tool that joins user namespaces, if it is there
	client    kubernetes.Interface
	cluster   *cluster
	hosts     *hostsFiles
	addresses *addresses
	capacity  corev1.ResourceList
	events    record.EventRecorder

	mu      sync.Mutex
	pods    map[types.UID]*podRun
	running sync.WaitGroup
}

// Run is a node until ctx ends; then all its pods' processes are ended, though to the API server the
// pods stay, as they do when a machine is switched off. What an earlier agent of the same directory
// left running is ended first.
func Run(ctx context.Context, o Options) error { return run(ctx, o, DetectIsolation) }

type detector func(ctx context.Context, launcher []string, dir string) Isolation

func run(ctx context.Context, o Options, detect detector) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	a, err := newAgent(ctx, o, detect)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	a.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "process-node", Host: o.NodeName})

	var tasks sync.WaitGroup
	start := func(what string, f func(context.Context) error) {
		tasks.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("process node %s: %s: %w", o.NodeName, what, err))
			}
		})
	}
	start("kubelet API", kubeletAPI{a}.serve)
	start("registering", a.heartbeat)
	start("watching", func(ctx context.Context) error {
		if err := a.watch(ctx); err != nil {
			return err
		}
		return a.hosts.run(ctx)
	})
	<-ctx.Done()
	tasks.Wait()
	a.mu.Lock()      // whoever observes a pod from here on sees that ctx has ended
	a.mu.Unlock()    //nolint:staticcheck // an empty section is what is meant
	a.running.Wait() // each pod's end has its own bound
	a.cluster.stop()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func newAgent(ctx context.Context, o Options, detect detector) (*agent, error) {
	a := &agent{
		opts: o, root: os.Geteuid() == 0, addresses: newAddresses(o.PodCIDR), capacity: machineCapacity(o.PodCIDR),
		stages: filepath.Join(o.Dir, "stages"), pods: map[types.UID]*podRun{},
	}
	if err := os.RemoveAll(a.stages); err != nil {
		return nil, fmt.Errorf("process node: %w", err)
	}
	for _, dir := range []string{o.Dir, a.stages, filepath.Join(o.Dir, "pods")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("process node: %w", err)
		}
	}
	left := family{env: []string{envNode + "=" + o.Dir}}
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := left.end(limit); err != nil {
		return nil, fmt.Errorf("process node: ending what an earlier agent left: %w", err)
	}
	a.nsenter, _ = exec.LookPath("nsenter") // every Debian has it; we can do without
	a.isolation = detect(ctx, o.Launcher, o.Dir)
	o.Log.Info("process node", "name", o.NodeName, "isolation", a.isolation.String())
	config := rest.CopyConfig(o.Config)
	config.QPS, config.Burst = 100, 200 // statuses and events come in bursts
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("process node: client: %w", err)
	}
	a.client = client
	a.cluster = newCluster(client)
	a.hosts = &hostsFiles{dir: o.HostsDir, nameserver: o.Nameserver, cluster: a.cluster, namespaces: map[string]bool{}}
	return a, nil
}

// watch begins the watches and acts on what they bring, until ctx ends.
func (a *agent) watch(ctx context.Context) error {
	core := a.cluster.factory.Core().V1()
	for _, inf := range []cache.SharedIndexInformer{core.ConfigMaps().Informer(), core.Secrets().Informer(), core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer()} {
		if err := onChange(inf, a.wake); err != nil {
			return err
		}
	}
	for _, inf := range []cache.SharedIndexInformer{core.Services().Informer(), core.Pods().Informer()} {
		if err := onChange(inf, func(any) { a.hosts.news.fire() }); err != nil {
			return err
		}
	}
	if err := a.cluster.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	a.sweep()
	// Only now: a pod that starts finds the objects it refers to.
	_, err := core.Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.observe(ctx, obj) },
		UpdateFunc: func(_, obj any) { a.observe(ctx, obj) },
		DeleteFunc: func(obj any) { a.forget(last(obj)) },
	})
	return err
}

// sweep removes the directories of pods that are no more.
func (a *agent) sweep() {
	dirs, err := os.ReadDir(filepath.Join(a.opts.Dir, "pods"))
	if err != nil {
		return // made at the start; there is nothing to sweep
	}
	known := map[string]bool{}
	for _, obj := range a.cluster.factory.Core().V1().Pods().Informer().GetStore().List() {
		known[string(obj.(*corev1.Pod).UID)] = true
	}
	for _, d := range dirs {
		if !known[d.Name()] {
			if err := os.RemoveAll(filepath.Join(a.opts.Dir, "pods", d.Name())); err != nil {
				a.opts.Log.Warn("removing what a pod left", "uid", d.Name(), "error", err)
			}
		}
	}
}

// observe takes in a pod that was added or changed.
func (a *agent) observe(ctx context.Context, obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName != a.opts.NodeName {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if p := a.pods[pod.UID]; p != nil {
		p.observe(pod)
		return
	}
	p, err := newPodRun(ctx, a, pod)
	if err != nil {
		a.opts.Log.Error("taking a pod", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		return
	}
	if pod.DeletionTimestamp != nil {
		p.delete()
	}
	a.pods[pod.UID] = p
	a.running.Go(func() { p.run(ctx) })
}

// forget takes in that a pod's object is gone.
func (a *agent) forget(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[pod.UID]; p != nil {
		delete(a.pods, pod.UID)
		p.vanish()
	}
}

// wake tells the pods that may wait for an object, or show it, that it changed.
func (a *agent) wake(obj any) {
	m, ok := obj.(metav1.Object)
	if !ok {
		return
	}
	for _, p := range a.list() {
		if ns := m.GetNamespace(); ns == "" || ns == p.current().Namespace {
			p.news.fire()
		}
	}
}

func (a *agent) list() []*podRun {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*podRun, 0, len(a.pods))
	for _, p := range a.pods {
		out = append(out, p)
	}
	return out
}

// lookup finds a pod by name, and by UID unless that is empty.
func (a *agent) lookup(namespace, name, uid string) (*podRun, error) {
	for _, p := range a.list() {
		if pod := p.current(); pod.Namespace == namespace && pod.Name == name && (uid == "" || uid == string(pod.UID)) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s is not on this node", namespace, name)
}

func (a *agent) programNames() []string {
	out := make([]string, 0, len(a.opts.Programs))
	for name := range a.opts.Programs {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (a *agent) newTokens() *tokenSource {
	return &tokenSource{held: map[string]heldToken{}, now: time.Now, request: func(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return a.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
	}}
}
