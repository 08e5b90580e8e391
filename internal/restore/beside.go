package restore

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
	"lifeboat.dev/lifeboat/internal/kube"
)

// original says why a copy leaves an object alone that is there and not its own, or nothing.
func (a *applier) original(it *item) string {
	if a.opts.Copy == "" || it.key.Namespace != "" || it.key.GroupKind == namespaceKind {
		return ""
	}
	return "it is there already, and a copy changes nothing outside of its namespaces; kept"
}

// leftAlone looks whether an object is the original's, before anything that it needs is waited for.
func (a *applier) leftAlone(ctx context.Context, it *item) (why string, err error) {
	reason := a.original(it)
	if reason == "" {
		return "", nil
	}
	live, err := a.read(ctx, it)
	if err != nil || live == nil || a.ours(live) {
		return "", err
	}
	return reason, nil
}

// ready completes options with what they need of the target: who has which host name.
func (o Options) ready(ctx context.Context, c *kube.Client) (Options, error) {
	o = o.withDefaults()
	if o.Hosts == dr.HostsKeep {
		return o, nil
	}
	o.taken = map[string]key{}
	for _, kind := range []gk{routeKind, ingressKind} {
		r, err := c.Resource(kind.WithVersion("v1"), "")
		if err != nil {
			continue // not served: nobody has a host by it
		}
		next := ""
		for {
			list, err := r.List(ctx, metav1.ListOptions{Limit: 500, Continue: next})
			if err != nil {
				return o, fmt.Errorf("listing who has which host name at site %s: %w", c.Site, err)
			}
			for i := range list.Items {
				for _, host := range hostsOf(&list.Items[i]) {
					o.taken[host] = keyOf(&list.Items[i])
				}
			}
			if next = list.GetContinue(); next == "" {
				break
			}
		}
	}
	return o, nil
}

func hostsOf(o *unstructured.Unstructured) []string {
	if keyOf(o).GroupKind == routeKind {
		return []string{str(o.Object, "spec", "host")}
	}
	var out []string
	for _, rule := range maps(o.Object, "spec", "rules") {
		out = append(out, str(rule, "host"))
	}
	return out
}

// hosting is the part of a transform that is about host names which somebody else has.
type hosting struct{ *transform }

// all follows the policy for host names that somebody else has.
func (t hosting) all() {
	if len(t.opts.taken) == 0 {
		return
	}
	switch t.item.key.GroupKind {
	case routeKind:
		t.takenHost(dig(t.obj.Object, "spec"), nil)
	case ingressKind:
		for _, rule := range maps(t.obj.Object, "spec", "rules") {
			t.takenHost(rule, maps(t.obj.Object, "spec", "tls"))
		}
	}
}

func (t hosting) takenHost(m map[string]any, tls []map[string]any) {
	host, _ := m["host"].(string)
	by, taken := t.opts.taken[host]
	if host == "" || !taken || by == t.item.key {
		return
	}
	domain := t.opts.To.Ingress.Domain
	switch {
	case t.opts.Hosts == dr.HostsRefuse:
		t.form.fault = fmt.Errorf("host %s is taken by %s", host, by)
	case t.opts.Hosts == dr.HostsSkip, domain == "" && t.item.key.GroupKind == ingressKind:
		t.form.left = fmt.Sprintf("host %s is taken by %s", host, by)
	case domain == "":
		delete(m, "host")
		t.note("host %s is taken by %s; the target gives it another", host, by)
	default:
		m["host"] = fmt.Sprintf("%s-%s.%s", t.item.key.Name, t.item.key.Namespace, domain)
		for _, entry := range tls {
			hosts, _ := entry["hosts"].([]any)
			for i := range hosts {
				if hosts[i] == host {
					hosts[i] = m["host"]
				}
			}
		}
		t.note("host %s is taken by %s; it becomes %s", host, by, m["host"])
	}
}

// edits carries out the changes that the user declared.
func (t *transform) edits() {
	notes, err := t.opts.Edits.Apply(t.obj, edit.Context{Application: t.opts.Application, From: t.opts.From, To: t.opts.To})
	if err != nil {
		t.form.fault = err
	}
	for _, n := range notes {
		t.note("%s", n)
	}
	for _, n := range t.opts.moved(t.item.key) {
		t.note("%s", n)
	}
}

// moved are the notes of an object's move into another namespace.
func (o Options) moved(k key) []string {
	if o.Moved == nil {
		return nil
	}
	return o.Moved.notesOf(k)
}
