package restore

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// guard is a webhook of the target whose own backend is among what is restored: what it guards can be made
// only once that runs.
type guard struct {
	service    key
	rules      []admissionv1.RuleWithOperations
	namespaces labels.Selector
}

// readGuards lists the webhooks of the target. One that may be passed over guards nothing.
func (t *target) readGuards(ctx context.Context, c *kube.Client) error {
	add := func(config admissionv1.WebhookClientConfig, policy *admissionv1.FailurePolicyType, rules []admissionv1.RuleWithOperations, selector *metav1.LabelSelector) {
		if config.Service == nil || policy != nil && *policy == admissionv1.Ignore {
			return
		}
		namespaces, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || selector == nil {
			namespaces = labels.Everything()
		}
		t.guards = append(t.guards, guard{key{GroupKind: serviceKind, Namespace: config.Service.Namespace, Name: config.Service.Name}, rules, namespaces})
	}
	api := c.Typed.AdmissionregistrationV1()
	validating, err := api.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range validating.Items {
		for _, w := range validating.Items[i].Webhooks {
			add(w.ClientConfig, w.FailurePolicy, w.Rules, w.NamespaceSelector)
		}
	}
	mutating, err := api.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range mutating.Items {
		for _, w := range mutating.Items[i].Webhooks {
			add(w.ClientConfig, w.FailurePolicy, w.Rules, w.NamespaceSelector)
		}
	}
	return nil
}

// defers puts into the second stage what of the first is guarded by a webhook whose backend comes with the
// second: there it waits for it. Namespaces and claims stay, for the data that comes in between.
func (t *target) defers(p *Prepared) {
	var guards []guard
	for _, g := range t.guards {
		if svc := p.item(g.service); svc != nil && len(p.backends(svc)) > 0 {
			guards = append(guards, g)
		}
	}
	if len(guards) == 0 {
		return
	}
	for _, it := range p.items {
		if it.stage != dr.StageFoundation || it.key.GroupKind == namespaceKind || it.key.GroupKind == claimKind {
			continue
		}
		if slices.ContainsFunc(guards, func(g guard) bool { return t.guarded(g, it) }) {
			it.stage = dr.StageWorkloads
		}
	}
}

func (t *target) guarded(g guard, it *item) bool {
	kind, _ := t.kind(it.key.GroupKind)
	if it.key.Namespace != "" && !g.namespaces.Matches(t.namespaceLabels(it.key.Namespace)) {
		return false
	}
	return slices.ContainsFunc(g.rules, func(r admissionv1.RuleWithOperations) bool {
		creates := slices.Contains(r.Operations, admissionv1.Create) || slices.Contains(r.Operations, admissionv1.OperationAll)
		return creates && (slices.Contains(r.APIGroups, it.key.Group) || slices.Contains(r.APIGroups, "*")) &&
			(slices.Contains(r.Resources, kind.resource) || slices.Contains(r.Resources, "*") || slices.Contains(r.Resources, "*/*"))
	})
}

// namespaceLabels are those that a namespace has at the target; of one that is yet to be made, the one that
// every namespace has.
func (t *target) namespaceLabels(name string) labels.Set {
	if found, ok := t.namespaces[name]; ok {
		return found
	}
	return labels.Set{corev1.LabelMetadataName: name}
}
