package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

const (
	usualPort      = 5432
	usualDirectory = "/var/lib/postgresql/data" // of the images that set nothing else
)

// site is what is known of a server from its cluster.
type site struct {
	Server
	pod *corev1.Pod
}

// locate finds the pod behind the Service, and the credentials.
func (d *Driver) locate(ctx context.Context, ds dr.Datastore) (*site, error) {
	ref := ds.Postgres
	if ref == nil {
		return nil, fmt.Errorf("datastore %s is no PostgreSQL", ds.Name)
	}
	core := d.client.Typed.CoreV1()
	service, err := core.Services(ref.Namespace).Get(ctx, ref.Service, metav1.GetOptions{})
	if err != nil {
		return nil, d.missing(err, "Service", ref.Namespace, ref.Service)
	}
	if len(service.Spec.Selector) == 0 {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Name the Service that selects the primary's pod.", "Service %s/%s at site %s selects no pods", ref.Namespace, ref.Service, d.client.Site)
	}
	secret, err := core.Secrets(ref.Namespace).Get(ctx, ref.Secret, metav1.GetOptions{})
	if err != nil {
		return nil, d.missing(err, "Secret", ref.Namespace, ref.Secret)
	}
	credentials, err := readCredentials(secret.Data)
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, fmt.Sprintf("It needs %s and %s; %s, %s and %s are optional.", keyUser, keyPassword, keyDatabase, keyTLS, keyCA),
			"Secret %s/%s at site %s is of no use for PostgreSQL", ref.Namespace, ref.Secret, d.client.Site)
	}
	pod, err := d.pod(ctx, service)
	if err != nil {
		return nil, err
	}
	port := portOf(service, pod)
	s := &site{pod: pod, Server: Server{
		Name:        fmt.Sprintf("Service %s/%s at site %s", ref.Namespace, ref.Service, d.client.Site),
		Host:        ref.Service + "." + ref.Namespace + ".svc",
		Credentials: credentials,
		Dial:        func(ctx context.Context) (net.Conn, error) { return d.dial(ctx, pod.Namespace, pod.Name, port) },
	}}
	return s, nil
}

func (d *Driver) missing(err error, kind, namespace, name string) error {
	switch {
	case apierrors.IsNotFound(err):
		return dr.Errorf(dr.ClassUsage, errors.Join(dr.ErrNotFound, err), "Correct its name in the fleet file.", "site %s has no %s %s/%s", d.client.Site, kind, namespace, name)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return dr.Errorf(dr.ClassDenied, err, "Give the account what deploy/rbac names.", "site %s: read %s %s/%s", d.client.Site, kind, namespace, name)
	}
	return dr.Errorf(dr.ClassUnreachable, err, "", "site %s: read %s %s/%s", d.client.Site, kind, namespace, name)
}

// pod is a ready one that the Service selects.
func (d *Driver) pod(ctx context.Context, service *corev1.Service) (*corev1.Pod, error) {
	pods, err := d.client.Typed.CoreV1().Pods(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return nil, d.missing(err, "pods of Service", service.Namespace, service.Name)
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Status.Phase == corev1.PodRunning && kube.PodReady(p) {
			return p, nil
		}
	}
	return nil, dr.Errorf(dr.ClassUnreachable, nil, fmt.Sprintf("Look at its pods: kubectl -n %s get pods -l %s", service.Namespace, labels.SelectorFromSet(service.Spec.Selector)),
		"Service %s/%s at site %s has no pod that is ready", service.Namespace, service.Name, d.client.Site)
}

// portOf is the port of the pod that the Service's first port leads to.
func portOf(service *corev1.Service, pod *corev1.Pod) int {
	if len(service.Spec.Ports) == 0 {
		return usualPort
	}
	p := service.Spec.Ports[0]
	if name := p.TargetPort.StrVal; name != "" {
		for _, c := range pod.Spec.Containers {
			for _, at := range c.Ports {
				if at.Name == name {
					return int(at.ContainerPort)
				}
			}
		}
		return usualPort
	}
	if n := p.TargetPort.IntValue(); n != 0 {
		return n
	}
	return int(p.Port)
}

// claimOf says on which claim, and in which directory of it, a server's data directory lies.
func claimOf(ref *dr.PostgresRef, pod *corev1.Pod, directory string) (claim, below string, err error) {
	if ref.Claim != "" {
		return ref.Claim, ref.Directory, nil
	}
	claims := map[string]string{} // by volume
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			claims[v.Name] = v.PersistentVolumeClaim.ClaimName
		}
	}
	longest := -1
	for _, c := range pod.Spec.Containers {
		at := directory
		if at == "" {
			at = dataDirectory(c)
		}
		for _, m := range c.VolumeMounts {
			rest, inside := strings.CutPrefix(path.Clean(at)+"/", strings.TrimSuffix(path.Clean(m.MountPath), "/")+"/")
			if !inside || len(m.MountPath) <= longest || m.SubPathExpr != "" {
				continue
			}
			longest, claim, below = len(m.MountPath), claims[m.Name], path.Join(m.SubPath, rest)
		}
	}
	if claim == "" {
		return "", "", dr.Errorf(dr.ClassUsage, nil, "Say where it is: postgres: {…, claim: NAME, directory: PATH IN THE CLAIM}.",
			"the data directory of PostgreSQL, pod %s/%s, is on no claim that could be found", pod.Namespace, pod.Name)
	}
	return claim, below, nil
}

// dataDirectory is where a container's server has its data when the server does not say.
func dataDirectory(c corev1.Container) string {
	for _, e := range c.Env {
		if e.Name == "PGDATA" && e.Value != "" {
			return e.Value
		}
	}
	return usualDirectory
}
