package procnode

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// cluster is what the agent knows of the API server's objects, kept current by watches.
type cluster struct {
	factory    informers.SharedInformerFactory
	pods       corelisters.PodLister
	services   corelisters.ServiceLister
	configMaps corelisters.ConfigMapLister
	secrets    corelisters.SecretLister
	claims     corelisters.PersistentVolumeClaimLister
	volumes    corelisters.PersistentVolumeLister
}

// newCluster prepares the watches; start begins them. Pods of every node are watched, since a
// headless Service's names lead to all of its pods.
func newCluster(client kubernetes.Interface) *cluster {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	core := f.Core().V1()
	return &cluster{
		factory: f, pods: core.Pods().Lister(), services: core.Services().Lister(),
		configMaps: core.ConfigMaps().Lister(), secrets: core.Secrets().Lister(),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
	}
}

// trim drops what nobody here reads, which is often most of an object's size.
func trim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// start runs the watches and waits until each has listed once.
func (c *cluster) start(ctx context.Context) error {
	c.factory.Start(ctx.Done())
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for kind, ok := range c.factory.WaitForCacheSync(wait.Done()) {
		if !ok {
			return fmt.Errorf("waiting for the first list of %s from the API server: %w", kind, context.Cause(wait))
		}
	}
	return nil
}

// stop waits for the watches to end, though not for one that sleeps until it tries a dead API server
// again: client-go does not wake it, and it ends by itself within a minute.
func (c *cluster) stop() {
	done := make(chan struct{})
	go func() {
		c.factory.Shutdown()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
}

// onChange calls f for every added, changed or deleted object of an informer.
func onChange(inf cache.SharedIndexInformer, f func(obj any)) error {
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(_, obj any) { f(obj) },
		DeleteFunc: func(obj any) { f(last(obj)) },
	})
	return err
}

// last unwraps what a missed deletion left.
func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}
