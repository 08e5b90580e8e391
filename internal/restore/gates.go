package restore

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/kube"
)

// gatePause is short: what depends on a gate is time that a recovery loses.
const gatePause = 50 * time.Millisecond

// gate waits until the target has taken in a namespace or a CRD.
func (t *attempt) gate(ctx context.Context) error {
	if k := t.item.key.GroupKind; k != namespaceKind && k != crdKind {
		return nil
	}
	return t.awaitReady(ctx, t.item, t.item)
}

// backendsReady waits, for a webhook's configuration, until what answers it is ready: before that, it
// would refuse the very objects that its backend is made of.
func (a *applier) backendsReady(ctx context.Context, it *item) error {
	if it.key.Kind != "ValidatingWebhookConfiguration" && it.key.Kind != "MutatingWebhookConfiguration" {
		return nil
	}
	for _, e := range it.needs {
		backend := &a.prepared.all[e.to]
		if !e.firm || backend.skipped || !kube.HasReadiness(backend.key.GroupKind) {
			continue
		}
		if err := a.awaitReady(ctx, it, backend); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady waits until one object, on which another waits, is ready.
func (a *applier) awaitReady(ctx context.Context, waiter, it *item) error {
	version, ok := a.target.version(it.key.GroupKind, it.version)
	if !ok {
		return fmt.Errorf("site %s does not serve %s", a.client.Site, it.key.GroupKind)
	}
	api := a.endpoint(it.key, version.name)
	ctx, cancel := context.WithTimeout(ctx, a.opts.GateTimeout)
	defer cancel()
	said := false
	return kube.WaitFor(ctx, fmt.Sprintf("%s at site %s to be ready", it.key, a.client.Site), gatePause, func(ctx context.Context) (bool, string, error) {
		live, err := api.Get(ctx, it.key.Name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		ready, state := kube.Ready(live)
		if !ready && !said {
			said = true
			a.waits(waiter, it.key.String()+": "+state)
		}
		return ready, state, nil
	})
}
