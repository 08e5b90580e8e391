// Package backends finds the ready pods behind a Service from its selector, because the API server takes
// no Endpoints on loopback, where a lab's pods may live.
package backends

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// syncTimeout bounds the wait for the first complete list.
const syncTimeout = time.Minute

// Set knows all Services and pods of a site.
type Set struct {
	services corelisters.ServiceLister
	pods     corelisters.PodLister
}

// Start watches Services and pods until ctx is done, and returns when both are known. Changed, if not nil,
// is called (from several goroutines, it must not block) whenever any of them changed.
func Start(ctx context.Context, client kubernetes.Interface, changed func()) (*Set, error) {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(Slim))
	s := &Set{services: f.Core().V1().Services().Lister(), pods: f.Core().V1().Pods().Lister()}
	for _, i := range []cache.SharedIndexInformer{f.Core().V1().Services().Informer(), f.Core().V1().Pods().Informer()} {
		if changed == nil {
			continue
		}
		if _, err := i.AddEventHandler(OnChange(changed)); err != nil {
			return nil, fmt.Errorf("watching Services and pods: %w", err)
		}
	}
	f.Start(ctx.Done())
	wait, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	for kind, ok := range f.WaitForCacheSync(wait.Done()) {
		if !ok {
			return nil, fmt.Errorf("waiting for the first list of %s: %w", kind, context.Cause(wait))
		}
	}
	return s, nil
}

// OnChange calls changed for every event.
func OnChange(changed func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	}
}

// Slim is an informer's transform that drops what nobody here reads.
func Slim(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// Services returns all Services, in no order.
func (s *Set) Services() []*corev1.Service {
	all, err := s.services.List(labels.Everything())
	if err != nil { // a lister over a cache does not fail
		return nil
	}
	return all
}

// Service returns one Service.
func (s *Set) Service(namespace, name string) (*corev1.Service, bool) {
	svc, err := s.services.Services(namespace).Get(name)
	return svc, err == nil
}

// Pods returns the pods a Service selects that have an address, ready or not, sorted by name. A Service
// without a selector has none.
func (s *Set) Pods(svc *corev1.Service) []*corev1.Pod {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	pods, err := s.pods.Pods(svc.Namespace).List(labels.SelectorFromSet(svc.Spec.Selector))
	if err != nil { // as above
		return nil
	}
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		return p.Status.PodIP == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return pods
}

// Ready says whether a pod takes traffic.
func Ready(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
		return false
	}
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Backends returns where a Service's port leads: the ready pods (all pods where the Service publishes
// addresses that are not ready), in the order of their names.
func (s *Set) Backends(svc *corev1.Service, port corev1.ServicePort) []netip.AddrPort {
	var list []netip.AddrPort
	for _, p := range s.Pods(svc) {
		if !svc.Spec.PublishNotReadyAddresses && !Ready(p) {
			continue
		}
		a, err := netip.ParseAddr(p.Status.PodIP)
		if n := TargetPort(p, port); err == nil && n != 0 {
			list = append(list, netip.AddrPortFrom(a, n))
		}
	}
	return list
}

// TargetPort returns the pod's port behind a Service's port; 0 where the pod has none of that name.
func TargetPort(p *corev1.Pod, port corev1.ServicePort) uint16 {
	if port.TargetPort.Type == intstr.String && port.TargetPort.StrVal != "" {
		for _, c := range p.Spec.Containers {
			for _, cp := range c.Ports {
				if cp.Name == port.TargetPort.StrVal && protocol(cp.Protocol) == protocol(port.Protocol) {
					return uint16(cp.ContainerPort)
				}
			}
		}
		return 0
	}
	if port.TargetPort.IntVal != 0 {
		return uint16(port.TargetPort.IntVal)
	}
	return uint16(port.Port)
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}
