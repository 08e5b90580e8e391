package procnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const clusterDomain = "cluster.local"

// hostsFiles are what pods see as /etc/hosts: one file per namespace, with the Services by all their
// names. Each keeps its inode, for it is mounted into running containers.
type hostsFiles struct {
	dir        string
	nameserver string
	cluster    *cluster
	news       broadcast

	mu         sync.Mutex
	namespaces map[string]bool // those that have pods here
}

// add makes the files of a namespace, if they are not there.
func (h *hostsFiles) add(namespace string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.namespaces[namespace] {
		return nil
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return fmt.Errorf("hosts files: %w", err)
	}
	if h.nameserver != "" {
		text := fmt.Sprintf("nameserver %s\nsearch %[2]s.svc.%[3]s svc.%[3]s %[3]s\noptions ndots:5\n", h.nameserver, namespace, clusterDomain)
		if err := overwrite(filepath.Join(h.dir, namespace+".resolv"), text); err != nil {
			return err
		}
	}
	if err := h.write(namespace); err != nil {
		return err
	}
	h.namespaces[namespace] = true
	return nil
}

// mounts are those of a container in the namespace.
func (h *hostsFiles) mounts(namespace string) []mount {
	out := []mount{{Source: filepath.Join(h.dir, namespace), Target: "/etc/hosts"}}
	if h.nameserver != "" {
		out = append(out, mount{Source: filepath.Join(h.dir, namespace+".resolv"), Target: "/etc/resolv.conf"})
	}
	return out
}

// run rewrites the files as Services and pods change, until ctx ends.
func (h *hostsFiles) run(ctx context.Context) error {
	for {
		news := h.news.changed()
		h.mu.Lock()
		var errs []error
		for ns := range h.namespaces {
			errs = append(errs, h.write(ns))
		}
		h.mu.Unlock()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
		select { // changes come in groups
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (h *hostsFiles) write(namespace string) error {
	services, err := h.cluster.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("listing services: %w", err)
	}
	text, err := hostsText(namespace, services, func(s *corev1.Service) ([]*corev1.Pod, error) {
		return h.cluster.pods.Pods(s.Namespace).List(labels.SelectorFromSet(s.Spec.Selector))
	})
	if err != nil {
		return err
	}
	return overwrite(filepath.Join(h.dir, namespace), text)
}

// hostsText is the hosts file of a namespace. Services that are another name of something outside
// (ExternalName) have no address and are left out.
func hostsText(namespace string, services []*corev1.Service, podsOf func(*corev1.Service) ([]*corev1.Pod, error)) (string, error) {
	lines := []string{}
	for _, s := range services {
		names := serviceNames(s.Name, s.Namespace, namespace)
		if ip := s.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
			lines = append(lines, ip+"\t"+names)
			continue
		}
		if s.Spec.ClusterIP != corev1.ClusterIPNone || len(s.Spec.Selector) == 0 {
			continue
		}
		pods, err := podsOf(s)
		if err != nil {
			return "", fmt.Errorf("listing the pods of service %s/%s: %w", s.Namespace, s.Name, err)
		}
		for _, p := range pods {
			up := conditionTrue(p.Status.Conditions, corev1.PodReady) || s.Spec.PublishNotReadyAddresses
			if p.Status.PodIP == "" || !up || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			lines = append(lines, p.Status.PodIP+"\t"+names)
			if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
				lines = append(lines, p.Status.PodIP+"\t"+serviceNames(p.Spec.Hostname+"."+s.Name, s.Namespace, namespace))
			}
		}
	}
	sort.Strings(lines)
	return "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + strings.Join(lines, "\n") + "\n", nil
}

func serviceNames(name, of, seenFrom string) string {
	full := name + "." + of
	names := []string{full + ".svc." + clusterDomain, full + ".svc", full}
	if of == seenFrom {
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// overwrite changes a file's content in place, and not at all if it is the same.
func overwrite(path, text string) error {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == text {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hosts files: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("hosts files: %w", err)
	}
	// The new text first and the cut after it, so that a reader never finds the file empty.
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}
