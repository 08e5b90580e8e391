package svcproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// portsAnnotation says at which ports a Service is served where its own may not be bound.
const portsAnnotation = "lab.lifeboat.dev/ports"

// allocate gives each Service of type LoadBalancer an address of the pool, which it keeps, and takes it
// from one that is of that type no more. The statuses are all there is to remember.
func (p *proxy) allocate(ctx context.Context, services []*corev1.Service) error {
	// A fixed order makes the outcome the same after a restart, and lets the older Service keep an address.
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	taken := map[netip.Addr]bool{}
	var without []*corev1.Service
	var errs []error
	for _, svc := range services {
		has := p.address(svc)
		switch {
		case ptr.Deref(svc.Spec.LoadBalancerClass, "") != p.Class:
			// another's, and nothing of ours is on it
		case svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
			if has.IsValid() {
				errs = append(errs, p.setAddress(ctx, svc, netip.Addr{}))
			}
		case has.IsValid() && !taken[has]:
			taken[has] = true
		default:
			without = append(without, svc)
		}
	}
	for _, svc := range without {
		a, ok := p.free(taken)
		if !ok {
			errs = append(errs, fmt.Errorf("service %s/%s: no address is left in %s", svc.Namespace, svc.Name, p.Pool))
			continue
		}
		taken[a] = true
		errs = append(errs, p.setAddress(ctx, svc, a))
	}
	errs = append(errs, p.present(ctx, taken))
	return errors.Join(errs...)
}

// present makes the given addresses exist and the others of this proxy's not.
func (p *proxy) present(ctx context.Context, want map[netip.Addr]bool) error {
	var errs []error
	for a := range want {
		if p.AddAddress == nil || p.added[a] {
			continue
		}
		if err := p.AddAddress(ctx, a); err != nil {
			errs = append(errs, err)
			continue
		}
		p.added[a] = true
	}
	for a := range p.added {
		if want[a] {
			continue
		}
		if p.RemoveAddress != nil {
			if err := p.RemoveAddress(ctx, a); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		delete(p.added, a)
	}
	return errors.Join(errs...)
}

// address is the Service's address of the pool, if it has one.
func (p *proxy) address(svc *corev1.Service) netip.Addr {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil && p.Pool.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// free is the lowest free address of the pool; its first is the network's, the last may be a broadcast.
func (p *proxy) free(taken map[netip.Addr]bool) (netip.Addr, bool) {
	for a := p.Pool.Masked().Addr().Next(); p.Pool.Contains(a) && p.Pool.Contains(a.Next()); a = a.Next() {
		if !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (p *proxy) setAddress(ctx context.Context, svc *corev1.Service, a netip.Addr) error {
	next := svc.DeepCopy()
	next.Status.LoadBalancer.Ingress = nil
	if a.IsValid() {
		next.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: a.String()}}
	}
	_, err := p.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("address of service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// tellPorts notes on a Service which of its ports are served elsewhere, because this user may not bind
// them: "80=8080". The annotation goes when they all are served where they should be.
func (p *proxy) tellPorts(ctx context.Context, svc *corev1.Service) error {
	moved := map[string]bool{}
	for d, s := range p.open {
		if s.behind.namespace == svc.Namespace && s.behind.service == svc.Name && s.port != int(d.addr.Port()) {
			moved[fmt.Sprintf("%d=%d", d.addr.Port(), s.port)] = true
		}
	}
	text := strings.Join(slices.Sorted(maps.Keys(moved)), ",")
	if svc.Annotations[portsAnnotation] == text {
		return nil
	}
	value := "null"
	if text != "" {
		value = strconv.Quote(text)
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, portsAnnotation, value)
	_, err := p.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotating service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}
