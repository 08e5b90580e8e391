package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
)

// The kinds of the whole cluster of which an application may need some objects.
const (
	kindDefinition            = "customresourcedefinitions.apiextensions.k8s.io"
	kindVolume                = "persistentvolumes"
	kindPriorityClass         = "priorityclasses.scheduling.k8s.io"
	kindRuntimeClass          = "runtimeclasses.node.k8s.io"
	kindStorageClass          = "storageclasses.storage.k8s.io"
	kindIngressClass          = "ingressclasses.networking.k8s.io"
	kindClusterRole           = "clusterroles.rbac.authorization.k8s.io"
	kindClusterBinding        = "clusterrolebindings.rbac.authorization.k8s.io"
	kindValidatingWebhook     = "validatingwebhookconfigurations.admissionregistration.k8s.io"
	kindMutatingWebhook       = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
	kindPolicy                = "validatingadmissionpolicies.admissionregistration.k8s.io"
	kindPolicyBinding         = "validatingadmissionpolicybindings.admissionregistration.k8s.io"
	kindMutatingPolicy        = "mutatingadmissionpolicies.admissionregistration.k8s.io"
	kindMutatingPolicyBinding = "mutatingadmissionpolicybindings.admissionregistration.k8s.io"
	kindAPIService            = "apiservices.apiregistration.k8s.io"
	kindConstraints           = "securitycontextconstraints.security.openshift.io"
)

// selects says whether some objects of a kind may be needed.
func selects(kind string) bool {
	switch kind {
	case kindDefinition, kindVolume, kindPriorityClass, kindRuntimeClass, kindPolicy, kindMutatingPolicy:
		return true
	}
	return selectsByContent(kind)
}

// selectsByContent: kinds of which every object has to be looked at, because its content says who needs it.
func selectsByContent(kind string) bool {
	switch kind {
	case kindStorageClass, kindIngressClass, kindClusterRole, kindClusterBinding, kindValidatingWebhook, kindMutatingWebhook, kindAPIService, kindConstraints,
		kindPolicyBinding, kindMutatingPolicyBinding:
		return true
	}
	return false
}

// fewGets is up to how many objects are read one by one; more are picked from a list.
const fewGets = 20

// settle captures the cluster-scoped objects that have come to be needed, and takes out those that are needed
// no longer.
func (e *engine) settle(ctx context.Context, shelves []*shelf) error {
	const deep = 4 // a binding needs a role, which needs a constraint
	for range deep {
		more, err := e.settleOnce(ctx, shelves)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// settleOnce says whether it captured anything, which may need other objects.
func (e *engine) settleOnce(ctx context.Context, shelves []*shelf) (more bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	e.held.need()
	for _, s := range shelves {
		fetch, drop := e.held.compare(s)
		more = more || len(fetch) > 0
		if len(fetch) > fewGets {
			g.Go(func() error { return e.listOnce(ctx, s) })
			fetch = nil
		}
		for _, name := range fetch {
			g.Go(func() error { return e.get(ctx, s, name) })
		}
		w := e.worker(s)
		for _, name := range drop {
			if err := w.drop(ctx, name); err != nil {
				return more, err
			}
		}
	}
	return more, g.Wait()
}

// get captures one object. One that is not there is not missed: the kind was built in, or the reference
// dangles at the site as well.
func (e *engine) get(ctx context.Context, s *shelf, name string) error {
	release, err := e.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	s.turn.Lock()
	defer s.turn.Unlock()
	what := s.kind() + " " + name
	raw, err := e.reader.object(ctx, s.query("").path, name)
	if err == nil {
		e.missing.clear(what)
		return e.worker(s).take(ctx, raw)
	}
	switch judge(ctx, err) {
	case fatal:
		return fmt.Errorf("reading %s at site %s: %w", what, e.client.Site, context.Cause(ctx))
	case lost:
		return siteError(e.client.Site, "reading "+what, err)
	case gone:
		e.held.isAbsent(s, name)
		return nil
	}
	e.missing.set(what, why(err))
	return nil
}

// wants says whether an object is captured. Of a kind of the whole cluster it is one that is needed; what has
// to be known of it is noted on the way.
func (h *held) wants(s *shelf, name string, o rawjson.Value) bool {
	if s.namespace != "" || s.only != "" {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	kind := s.kind()
	delete(h.absent, reference{kind, name})
	_, captured := s.names[name] // whether it is still needed is for settle to say
	captured = captured || h.wanted[kind][name]
	if !selectsByContent(kind) {
		return captured || h.needs(reference{kind, name})
	}
	f, ok := factOf(kind, o, h.namespaces)
	if !ok {
		delete(h.facts[kind], name)
		return false
	}
	if h.facts[kind] == nil {
		h.facts[kind] = map[string]fact{}
	}
	h.facts[kind][name] = f
	return captured || f.own || h.needs(reference{kind, name}) || f.byDefault && h.refs[reference{kind: kind}] > 0
}

// needs says whether a captured object names another; the caller holds mu.
func (h *held) needs(r reference) bool {
	switch r.kind {
	case kindPriorityClass:
		return !strings.HasPrefix(r.name, "system-") && h.refs[r] > 0
	case kindDefinition:
		return h.custom(r.name)
	}
	return h.refs[r] > 0
}

// need works out every cluster-scoped object that the captured ones need.
func (h *held) need() {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]set{kindDefinition: h.definitions()}
	need := func(kind, name string) {
		if out[kind] == nil {
			out[kind] = set{}
		}
		out[kind][name] = true
	}
	for r := range h.refs {
		switch {
		case r.name != "" && selectsByContent(r.kind):
			if _, there := h.facts[r.kind][r.name]; there {
				need(r.kind, r.name)
			}
		case r.name != "" && h.needs(r):
			need(r.kind, r.name)
		}
	}
	for kind, facts := range h.facts {
		for name, f := range facts {
			if f.own || f.byDefault && h.refs[reference{kind: kind}] > 0 {
				need(kind, name)
				if kind == kindClusterBinding {
					if _, there := h.facts[kindClusterRole][f.role]; there {
						need(kindClusterRole, f.role)
					}
				}
			}
		}
	}
	h.aggregate(out[kindClusterRole])
	h.wanted = out
}

// aggregate adds the roles that needed ones are made of, and those that these are made of.
func (h *held) aggregate(roles set) {
	for queue := roles.sorted(); len(queue) > 0; queue = queue[1:] {
		for _, part := range h.facts[kindClusterRole][queue[0]].parts {
			for name, f := range h.facts[kindClusterRole] {
				if !roles[name] && part.Matches(f.labels) {
					roles[name] = true
					queue = append(queue, name)
				}
			}
		}
	}
}

func decode(raw []byte, into any) error { return json.Unmarshal(raw, into) }
