package restore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// sample is one of everything that has to come before or after something.
func sample() []string {
	return []string{
		`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`,
		`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: discounts.example.com}, spec: {group: example.com, scope: Namespaced, names: {kind: Discount, plural: discounts}, versions: [{name: v1, served: true, subresources: {status: {}}}]}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}`,
		`{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: token, namespace: shop, annotations: {kubernetes.io/service-account.name: web}}}`,
		`{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Discount, name: d, uid: u-d}]}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: shop}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: shop}, roleRef: {kind: Role, name: r}, subjects: [{kind: ServiceAccount, name: web, namespace: shop}]}`,
		`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: shop}, spec: {storageClassName: fast}}`,
		`{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: shop}}`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {replicas: 2, template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web,
			containers: [{name: a, env: [{name: K, valueFrom: {secretKeyRef: {name: key, key: k}}}]}], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}}}}`,
		`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web, namespace: shop}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}`,
		`{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: web, namespace: shop}, spec: {to: {name: web}}}`,
		`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook}, webhooks: [{name: h, clientConfig: {service: {namespace: shop, name: web}}}]}`,
		`{apiVersion: example.com/v1, kind: Discount, metadata: {name: d, namespace: shop, uid: u-d, generation: 3}, status: {observedGeneration: 3}}`,
	}
}

// order runs the graph of a stage with one worker and returns the names in order.
func order(t *testing.T, p *Prepared, stage dr.Stage) []string {
	t.Helper()
	var out []string
	err := newGraph(p, p.stage(stage)).run(t.Context(), 1, func(_ context.Context, it, blocked *item) (verdict, error) {
		if blocked != nil {
			t.Errorf("%s is blocked by %s", it.key, blocked.key)
		}
		out = append(out, it.key.String())
		return verdict{ok: true}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOrder(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	for _, c := range []struct {
		stage  dr.Stage
		before [][2]string
	}{
		{dr.StageFoundation, [][2]string{
			{"Namespace shop", "ServiceAccount shop/web"}, {"ServiceAccount shop/web", "Secret shop/token"},
			{"Role shop/r", "RoleBinding shop/r"}, {"ServiceAccount shop/web", "RoleBinding shop/r"}, {"Namespace shop", "PersistentVolumeClaim shop/data"},
		}},
		{dr.StageWorkloads, [][2]string{
			{"LimitRange shop/l", "Deployment shop/web"}, {"Deployment shop/web", "HorizontalPodAutoscaler shop/web"},
			{"Deployment shop/web", "ValidatingWebhookConfiguration hook"}, {"Discount shop/d", "Secret shop/key"}, {"Secret shop/key", "Deployment shop/web"},
		}},
	} {
		got := order(t, p, c.stage)
		for _, pair := range c.before {
			a, b := slices.Index(got, pair[0]), slices.Index(got, pair[1])
			if a < 0 || b < 0 || a > b {
				t.Errorf("%s: %s does not come before %s in %q", c.stage, pair[0], pair[1], got)
			}
		}
	}
}

func TestStagesDivideWhatRuns(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	for _, it := range p.items {
		runs := slices.Contains([]string{"Deployment", "HorizontalPodAutoscaler", "Route", "ValidatingWebhookConfiguration", "Discount", "LimitRange"}, it.key.Kind)
		if got := it.stage == dr.StageWorkloads; got != runs {
			t.Errorf("%s is of stage %s", it.key, it.stage)
		}
	}
	if it := p.item(key{gk{Group: "apps", Kind: "Deployment"}, "shop", "web"}); !it.autoscaled {
		t.Error("the Deployment is not known to be autoscaled")
	}
	if it := p.item(key{gk{Group: "example.com", Kind: "Discount"}, "shop", "d"}); !it.custom || formOf(t, p, it).status["observedGeneration"] != int64(3) {
		t.Errorf("the custom resource's status is not kept: %+v", it)
	}
}

func TestCirclesAreOpened(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, uid: u-a, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: b, uid: u-b}]}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: shop, uid: u-b, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: a, uid: u-a}]}}`,
	), options())
	if got := order(t, p, dr.StageFoundation); len(got) != 2 {
		t.Errorf("order %q", got)
	}
}

func TestWhatAFailureStops(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	var blocked []string
	var mu sync.Mutex
	err := newGraph(p, p.stage(dr.StageFoundation)).run(t.Context(), 4, func(_ context.Context, it, by *item) (verdict, error) {
		mu.Lock()
		defer mu.Unlock()
		if by != nil {
			blocked = append(blocked, it.key.String()+" < "+by.key.String())
		}
		return verdict{ok: by == nil && it.key.Kind != "ServiceAccount"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A binding may name an account that does not exist; a token may not.
	if want := []string{"Secret shop/token < ServiceAccount shop/web"}; !slices.Equal(blocked, want) {
		t.Errorf("blocked %q, want %q", blocked, want)
	}
}

func TestRunStopsOnErrorAndOnCancel(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	broken := errors.New("broken")
	err := newGraph(p, p.items).run(t.Context(), 2, func(context.Context, *item, *item) (verdict, error) { return verdict{}, broken })
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(dr.ErrLeaseLost) })
	err = newGraph(p, p.items).run(ctx, 2, func(ctx context.Context, _, _ *item) (verdict, error) {
		<-ctx.Done()
		return verdict{}, context.Cause(ctx)
	})
	if !errors.Is(err, dr.ErrLeaseLost) {
		t.Errorf("error %v, want the lease's loss", err)
	}
}

func TestWhatIsTriedAgainHoldsUpOnlyWhoNeedsIt(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	var got []string
	err := newGraph(p, p.stage(dr.StageFoundation)).run(t.Context(), 1, func(_ context.Context, it, _ *item) (verdict, error) {
		got = append(got, it.key.String())
		if it.key.Kind == "ServiceAccount" && !slices.Contains(got, "RoleBinding shop/r") {
			return verdict{again: time.Millisecond}, nil // waits for what waits for it, out of kindness
		}
		return verdict{ok: true}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	account := slices.Index(got, "ServiceAccount shop/web")
	backward := slices.Clone(got)
	slices.Reverse(backward)
	last := len(got) - 1 - slices.Index(backward, "ServiceAccount shop/web")
	binding, token := slices.Index(got, "RoleBinding shop/r"), slices.Index(got, "Secret shop/token")
	if account > binding || last < binding || token < last {
		t.Errorf("order %q", got)
	}
}
