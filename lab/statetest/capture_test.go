package statetest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

func TestCaptureOfANamespaceThatIsNotThere(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	m := newMemory()
	_, err := capture.Run(t.Context(), east, capture.Scope{Application: "x", Namespaces: []string{"default", "nowhere"}}, m)
	if !errors.Is(err, dr.ErrNotFound) || dr.ClassOf(err) != dr.ClassUsage || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("error %v", err)
	}
	if len(m.docs) > 0 {
		t.Errorf("%d documents were written", len(m.docs))
	}
}

func TestCaptureNamesWhatIsForbidden(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "forbidden"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: @NS@}}
---
{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: @NS@}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@}, rules: [
  {apiGroups: [""], resources: [namespaces, configmaps, services, persistentvolumeclaims, pods, serviceaccounts, endpoints, limitranges, resourcequotas, podtemplates, replicationcontrollers], verbs: [get, list]},
  {apiGroups: [apps, batch, autoscaling, policy, networking.k8s.io, rbac.authorization.k8s.io, discovery.k8s.io, storage.k8s.io, resource.k8s.io, scheduling.k8s.io, admissionregistration.k8s.io, apiextensions.k8s.io], resources: ["*"], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]}
`)
	config := filepath.Join(t.TempDir(), "config")
	if err := start().east.WriteKubeconfig(config, "reader", nil); err != nil {
		t.Fatal(err)
	}
	m, result := captured(t, client(t, "east", config), ns)
	if !slices.ContainsFunc(result.Missing, func(s string) bool { return strings.HasPrefix(s, "secrets of namespace forbidden: forbidden") }) {
		t.Errorf("missing %q", result.Missing)
	}
	if m.docs["namespaces/forbidden/core/configmaps/a.json"] == nil || m.docs["meta.json"] == nil {
		t.Errorf("the rest did not go on: %d documents", len(m.docs))
	}
}

// Not parallel: the broken group would make the other tests' captures incomplete.
func TestCaptureWithAnAggregatedServerDown(t *testing.T) {
	east, _ := connect(t)
	const ns = "aggregated"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.broken.example.com}, spec: {group: broken.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 10,
  insecureSkipTLSVerify: true, service: {namespace: @NS@, name: nobody}}}
`)
	ctx := deadline(t)
	named := func(result capture.Result) bool {
		return slices.ContainsFunc(result.Missing, func(s string) bool { return strings.HasPrefix(s, "group broken.example.com/v1") })
	}
	err := kube.WaitFor(ctx, "the broken group to be named", 200*time.Millisecond, func(context.Context) (bool, string, error) {
		m, result := captured(t, east, ns)
		if m.docs["cluster/core/namespaces/aggregated.json"] == nil {
			t.Error("the rest did not go on")
		}
		return named(result), fmt.Sprint(result.Missing), nil
	})
	if err != nil {
		t.Error(err)
	}
	r, name := resource(t, east, "", "apiregistration.k8s.io/v1/APIService/v1.broken.example.com")
	if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = kube.WaitFor(ctx, "the broken group to be forgotten", 200*time.Millisecond, func(context.Context) (bool, string, error) {
		_, result := captured(t, east, ns)
		return !named(result), fmt.Sprint(result.Missing), nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCaptureKnowsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "asked"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: Service, metadata: {name: mine, namespace: @NS@}, spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 31777}, {name: b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: theirs, namespace: @NS@}, spec: {type: NodePort, ports: [{port: 80}]}}
`)
	m, _ := captured(t, east, ns)
	if _, err := loaded(t, m).Apply(t.Context(), west, options(ns), nil); err != nil {
		t.Fatal(err)
	}
	ports := func(c *kube.Client, name string) string {
		return fmt.Sprint(field(get(t, c, ns, "v1/Service/"+name), "spec.ports"))
	}
	if got := ports(west, "mine"); !strings.Contains(got, "nodePort:31777") {
		t.Errorf("the port that was asked for: %s", got)
	}
	doc := string(m.docs["namespaces/asked/core/services/mine.json"])
	if !strings.Contains(doc, `"lifeboat.dev/explicit":"nodePort/80/TCP"`) {
		t.Errorf("captured %s", doc)
	}
	if doc := string(m.docs["namespaces/asked/core/services/theirs.json"]); strings.Contains(doc, "lifeboat.dev/explicit") {
		t.Errorf("captured %s", doc)
	}
	set := loaded(t, m)
	for _, o := range prepared(t, set, options(ns)) {
		if o.GetName() == "theirs" && strings.Contains(fmt.Sprint(field(o, "spec.ports")), "nodePort") {
			t.Error("an allotted port is restored")
		}
	}
}

func TestCaptureInPages(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns, n = "pages", 1203
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}`)
	api := east.Typed.CoreV1().ConfigMaps(ns)
	failed := make(chan error, 20)
	for w := range cap(failed) {
		go func() {
			var err error
			for i := w; i < n && err == nil; i += cap(failed) {
				_, err = api.Create(t.Context(), configMap(fmt.Sprintf("c-%d", i)), metav1.CreateOptions{})
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	_, result := captured(t, east, ns)
	if got := result.Counts["configmaps"]; got != n {
		t.Errorf("%d captured of %d", got, n)
	}
}
