package kube

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
)

// balancerPause is the time between two looks at a Service whose load balancer has no address yet.
const balancerPause = 500 * time.Millisecond

// LoadBalancerAddresses are the IP addresses, sorted, that a site's load balancer gave a Service; it waits
// until there is one. ctx must have a deadline. A load balancer that has only a name is resolved.
func LoadBalancerAddresses(ctx context.Context, c *Client, s dr.ServiceRef) (addresses []string, err error) {
	what := fmt.Sprintf("Service %s/%s at site %s to have a load balancer's address", s.Namespace, s.Name, c.Site)
	err = WaitFor(ctx, what, balancerPause, func(ctx context.Context) (bool, string, error) {
		svc, err := c.Typed.CoreV1().Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, "", dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Correct traffic.service of the application.", "site %s has no Service %s/%s", c.Site, s.Namespace, s.Name)
		}
		if err != nil {
			return false, err.Error(), nil
		}
		if svc.Spec.Type != "LoadBalancer" {
			return false, "", dr.Errorf(dr.ClassUsage, nil, "Leave traffic.service out where the site's router serves the host.", "Service %s/%s is of type %s, which has no address outside of site %s", s.Namespace, s.Name, svc.Spec.Type, c.Site)
		}
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			switch {
			case ingress.IP != "":
				addresses = append(addresses, ingress.IP)
			case ingress.Hostname != "":
				found, err := net.DefaultResolver.LookupHost(ctx, ingress.Hostname)
				if err != nil {
					return false, err.Error(), nil
				}
				addresses = append(addresses, found...)
			}
		}
		return len(addresses) > 0, "it has none", nil
	})
	slices.Sort(addresses)
	return slices.Compact(addresses), err
}
