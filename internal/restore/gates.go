package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/kube"
)

// gatePause is short: what depends on a gate is time that a recovery loses.
const gatePause = 50 * time.Millisecond

// gate waits until the target has taken in a namespace or a CRD.
func (a *applier) gate(ctx context.Context, it *item) error {
	if k := it.key.GroupKind; k != namespaceKind && k != crdKind {
		return nil
	}
	return a.awaitReady(ctx, it)
}

// backendsReady looks, for a webhook's configuration or an aggregated API, whether what answers it is ready:
// before that, a webhook would refuse the very objects that its backend is made of.
func (a *applier) backendsReady(ctx context.Context, it *item) error {
	switch it.key.Kind {
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "APIService":
	default:
		return nil
	}
	for _, e := range it.needs {
		backend := &a.prepared.all[e.to]
		if !e.firm || backend.skipped || !kube.HasReadiness(backend.key.GroupKind) {
			continue
		}
		state, err := a.state(ctx, backend)
		if err != nil {
			return err
		}
		if state != "" {
			return &notReady{backend.key, state}
		}
	}
	return nil
}

// state is how an object is at the target; empty: ready.
func (a *site) state(ctx context.Context, it *item) (string, error) {
	version, ok := a.target.version(it.key.GroupKind, it.version)
	if !ok {
		return "", fmt.Errorf("site %s does not serve %s", a.client.Site, it.key.GroupKind)
	}
	live, err := a.endpoint(it.key, version.name).Get(ctx, it.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "missing", nil
	}
	if err != nil {
		return "", err
	}
	ready, state := kube.Ready(live)
	if ready {
		return "", nil
	}
	return state, nil
}

// awaitReady waits until one object, which the target has to take in before others, is ready.
func (a *applier) awaitReady(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, a.opts.GateTimeout)
	defer cancel()
	said := false
	return kube.WaitFor(ctx, fmt.Sprintf("%s at site %s to be ready", it.key, a.client.Site), gatePause, func(ctx context.Context) (bool, string, error) {
		state, err := a.state(ctx, it)
		if err != nil {
			return false, err.Error(), nil
		}
		if state != "" && !said {
			said = true
			a.waits(it, it.key.String()+": "+state)
		}
		if strings.HasPrefix(state, kube.NamesTaken) {
			return false, state, errors.New(state) // until a person removes the other
		}
		return state == "", state, nil
	})
}
