package restore

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestInNamespaces(t *testing.T) {
	t.Parallel()
	e := InNamespaces(nil, map[string]string{"shop": "copy", "back": "copy-back"})
	for _, c := range []struct{ name, object, want, notes string }{
		{"an object", `{kind: ConfigMap, metadata: {name: a, namespace: shop}, data: {x: shop}}`, `{kind: ConfigMap, metadata: {name: a, namespace: copy}, data: {x: shop}}`, ""},
		{"another namespace", `{kind: ConfigMap, metadata: {name: a, namespace: other}}`, `{kind: ConfigMap, metadata: {name: a, namespace: other}}`, ""},
		{"the namespace", `{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}`,
			`{kind: Namespace, apiVersion: v1, metadata: {name: copy, labels: {kubernetes.io/metadata.name: copy}}}`, "it was shop"},
		{"a binding", `{kind: RoleBinding, metadata: {name: b, namespace: shop}, roleRef: {kind: Role, name: r}, subjects: [
			{kind: ServiceAccount, name: a, namespace: shop}, {kind: ServiceAccount, name: a, namespace: other}, {kind: User, name: "system:serviceaccount:back:a"}, {kind: Group, name: "system:serviceaccounts:shop"}, {kind: User, name: shop}]}`,
			`{kind: RoleBinding, metadata: {name: b, namespace: copy}, roleRef: {kind: Role, name: r}, subjects: [
			{kind: ServiceAccount, name: a, namespace: copy}, {kind: ServiceAccount, name: a, namespace: other}, {kind: User, name: "system:serviceaccount:copy-back:a"}, {kind: Group, name: "system:serviceaccounts:copy"}, {kind: User, name: shop}]}`,
			"subjects[0].namespace: shop becomes copy"},
		{"a binding for the cluster", `{kind: ClusterRoleBinding, apiVersion: rbac.authorization.k8s.io/v1, metadata: {name: "shop:nodes"}, subjects: [{kind: ServiceAccount, name: a, namespace: shop}]}`,
			`{kind: ClusterRoleBinding, apiVersion: rbac.authorization.k8s.io/v1, metadata: {name: "shop:nodes-copy"}, subjects: [{kind: ServiceAccount, name: a, namespace: copy}]}`, "it was shop:nodes, which stays as it is"},
		{"a webhook", `{kind: ValidatingWebhookConfiguration, metadata: {name: w}, webhooks: [{clientConfig: {service: {name: s, namespace: shop}}, namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [shop, other]}]}}]}`,
			`{kind: ValidatingWebhookConfiguration, metadata: {name: w}, webhooks: [{clientConfig: {service: {name: s, namespace: copy}}, namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [copy, other]}]}}]}`,
			"webhooks[0].clientConfig.service.namespace: shop becomes copy"},
		{"a policy", `{kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: back}}}]}]}}`,
			`{kind: NetworkPolicy, metadata: {name: p, namespace: copy}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: copy-back}}}]}]}}`, "matchLabels[kubernetes.io/metadata.name]: back becomes copy-back"},
		{"lists of namespaces", `{kind: ServiceMonitor, metadata: {name: m, namespace: shop}, spec: {namespaceSelector: {matchNames: [shop, x]}, affinity: {namespaces: [back]}}}`,
			`{kind: ServiceMonitor, metadata: {name: m, namespace: copy}, spec: {namespaceSelector: {matchNames: [copy, x]}, affinity: {namespaces: [copy-back]}}}`, "matchNames[0]: shop becomes copy"},
		{"a CRD", `{kind: CustomResourceDefinition, apiVersion: apiextensions.k8s.io/v1, metadata: {name: c}, spec: {conversion: {webhook: {clientConfig: {service: {namespace: shop}}}}, versions: [{schema: {properties: {namespace: {default: shop}}}}]}}`,
			`{kind: CustomResourceDefinition, apiVersion: apiextensions.k8s.io/v1, metadata: {name: c}, spec: {conversion: {webhook: {clientConfig: {service: {namespace: copy}}}}, versions: [{schema: {properties: {namespace: {default: shop}}}}]}}`, "spec.conversion"},
		{"constraints", `{kind: SecurityContextConstraints, apiVersion: security.openshift.io/v1, metadata: {name: c}, users: ["system:serviceaccount:shop:a"], groups: ["system:serviceaccounts:back", x]}`,
			`{kind: SecurityContextConstraints, apiVersion: security.openshift.io/v1, metadata: {name: c}, users: ["system:serviceaccount:copy:a"], groups: ["system:serviceaccounts:copy-back", x]}`, "users: system:serviceaccount:shop:a becomes system:serviceaccount:copy:a"},
		{"addresses", `{kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {spec: {containers: [{name: c, args: ["--db=db.back.svc:5432"], env: [{name: A, value: "http://api.shop.svc.cluster.local/x"}, {name: B, value: api.shopping.svc}, {name: C, value: api.other.svc}]}]}}}}`,
			`{kind: Deployment, metadata: {name: d, namespace: copy}, spec: {template: {spec: {containers: [{name: c, args: ["--db=db.back.svc:5432"], env: [{name: A, value: "http://api.shop.svc.cluster.local/x"}, {name: B, value: api.shopping.svc}, {name: C, value: api.other.svc}]}]}}}}`,
			"containers[0].args[0] names db.back.svc"},
		{"an address in a secret", `{kind: Secret, apiVersion: v1, metadata: {name: s, namespace: shop}, data: {url: cG9zdGdyZXM6Ly91c2VyOnBhc3NAZGIuc2hvcC5zdmMvZGI=}}`,
			`{kind: Secret, apiVersion: v1, metadata: {name: s, namespace: copy}, data: {url: cG9zdGdyZXM6Ly91c2VyOnBhc3NAZGIuc2hvcC5zdmMvZGI=}}`, "data.url names db.shop.svc"},
	} {
		o := fromYAML(t, c.object)
		notes := strings.Join(e.Map(o), "\n")
		got, err := json.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		want, err := yaml.YAMLToJSON([]byte(c.want))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, want)
		}
		if !strings.Contains(notes, c.notes) || c.notes == "" && notes != "" || strings.Contains(notes, "pass") || strings.Count(notes, "names ") > 2 {
			t.Errorf("%s: notes %q, want %q", c.name, notes, c.notes)
		}
	}
}

func fromYAML(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// listed is a Source of documents in a map.
type listed map[string]string

func (l listed) Walk(_ context.Context, fn func(string, []byte) error) error {
	for path, doc := range l {
		if err := fn(path, []byte(doc)); err != nil {
			return err
		}
	}
	return nil
}

func TestACheckpointInOtherNamespaces(t *testing.T) {
	t.Parallel()
	e := InNamespaces(listed{
		"meta.json":                                `{"namespaces":["shop","other"],"objects":2}`,
		"cluster/core/namespaces/shop.json":        `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`,
		"namespaces/shop/core/configmaps/web.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web","namespace":"shop"},"data":{"n":"12345678901234567890"}}`,
	}, map[string]string{"shop": "copy"})
	s, err := Load(t.Context(), e.Source())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(s.Meta.Namespaces, " ") != "copy other" || s.lookup(key{GroupKind: configMapKind, Namespace: "copy", Name: "web"}) == nil || s.find(key{GroupKind: namespaceKind, Name: "copy"}) < 0 {
		t.Errorf("%+v", s.Meta)
	}
}
