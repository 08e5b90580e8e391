package statetest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCaptureOfWhatIsNeededOfTheCluster has one object that is needed and one that is not of every kind.
func TestCaptureOfWhatIsNeededOfTheCluster(t *testing.T) {
	t.Parallel()
	east, _ := connect(t)
	const ns = "scope"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: needs.@NS@.example.com}, spec: {group: @NS@.example.com, scope: Namespaced,
  names: {kind: Need, listKind: NeedList, plural: needs, singular: need}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: others.@NS@.example.com}, spec: {group: @NS@.example.com, scope: Namespaced,
  names: {kind: Other, listKind: OtherList, plural: others, singular: other}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}
---
{apiVersion: @NS@.example.com/v1, kind: Need, metadata: {name: a, namespace: @NS@}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: @NS@-volume}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}, storageClassName: @NS@-named}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: @NS@-other}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: @NS@-named, volumeName: @NS@-volume, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: @NS@-named}, provisioner: dir.example}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: @NS@-template}, provisioner: dir.example}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: @NS@-other}, provisioner: dir.example}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, namespace: @NS@}, spec: {serviceName: a, replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}},
  volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], storageClassName: @NS@-template, resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 10}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-other}, value: 10}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: @NS@-sandbox}, handler: sandbox}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: @NS@-other}, handler: other}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: a, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {priorityClassName: @NS@-high, runtimeClassName: @NS@-sandbox, restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: @NS@-class}, spec: {controller: example.com/a}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: @NS@-other}, spec: {controller: example.com/b}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, namespace: @NS@}, spec: {ingressClassName: @NS@-class, defaultBackend: {service: {name: a, port: {number: 80}}}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: @NS@}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-bound}, rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-local}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-sum}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {of: @NS@}}]}, rules: []}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-part, labels: {of: @NS@}}, rules: [{apiGroups: [""], resources: [events], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-other}, rules: []}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: @NS@-bound}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@-bound}, subjects: [{kind: ServiceAccount, name: a, namespace: @NS@}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: @NS@-group}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@-sum}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:@NS@"}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: @NS@-other}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@-other}, subjects: [{kind: ServiceAccount, name: a, namespace: @NS@-other}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@-local}, subjects: [{kind: ServiceAccount, name: a, namespace: @NS@}]}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: @NS@-own}, webhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1],
  clientConfig: {service: {namespace: @NS@, name: a}}, rules: [{apiGroups: [@NS@.example.com], apiVersions: [v1], operations: [DELETE], resources: [nothing]}]}]}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@-own}, webhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1],
  clientConfig: {service: {namespace: @NS@, name: a}}, rules: [{apiGroups: [@NS@.example.com], apiVersions: [v1], operations: [DELETE], resources: [nothing]}]}]}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@-other}, webhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1],
  clientConfig: {url: "https://a.example.com/"}, rules: [{apiGroups: [@NS@.example.com], apiVersions: [v1], operations: [DELETE], resources: [nothing]}]}]}
`)
	m, result := captured(t, east, ns)
	want := []string{
		"admissionregistration.k8s.io/mutatingwebhookconfigurations/scope-own", "admissionregistration.k8s.io/validatingwebhookconfigurations/scope-own",
		"apiextensions.k8s.io/customresourcedefinitions/needs.scope.example.com", "core/namespaces/scope", "core/persistentvolumes/scope-volume",
		"networking.k8s.io/ingressclasses/scope-class", "node.k8s.io/runtimeclasses/scope-sandbox",
		"rbac.authorization.k8s.io/clusterrolebindings/scope-bound", "rbac.authorization.k8s.io/clusterrolebindings/scope-group",
		"rbac.authorization.k8s.io/clusterroles/scope-bound", "rbac.authorization.k8s.io/clusterroles/scope-local",
		"rbac.authorization.k8s.io/clusterroles/scope-part", "rbac.authorization.k8s.io/clusterroles/scope-sum",
		"scheduling.k8s.io/priorityclasses/scope-high", "storage.k8s.io/storageclasses/scope-named", "storage.k8s.io/storageclasses/scope-template",
	}
	var got []string
	for path := range maps.Keys(m.docs) {
		if name, in := strings.CutPrefix(path, "cluster/"); in {
			got = append(got, strings.TrimSuffix(name, ".json"))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("captured of the cluster:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(result.Missing) > 0 {
		t.Errorf("missing %v", result.Missing)
	}
}

// Not parallel: a group whose server does not answer would make the other tests' captures incomplete.
func TestCaptureOfAnAPIThatTheApplicationServes(t *testing.T) {
	east, _ := connect(t)
	const ns = "serves"
	create(t, east, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.@NS@.example.com}, spec: {group: @NS@.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 10,
  insecureSkipTLSVerify: true, service: {namespace: @NS@, name: api}}}
`)
	m, _ := captured(t, east, ns)
	remove(t, east, "", "apiregistration.k8s.io/v1/APIService/v1.serves.example.com")
	if m.docs["cluster/apiregistration.k8s.io/apiservices/v1.serves.example.com.json"] == nil {
		t.Errorf("captured %v", slices.Sorted(maps.Keys(m.docs)))
	}
	for path := range m.docs {
		if strings.HasPrefix(path, "cluster/apiregistration.k8s.io/") && !strings.Contains(path, "serves") {
			t.Errorf("captured %s, which is not the application's", path)
		}
	}
}

// TestFollowWithWhatIsGranted follows an application with what deploy/rbac grants and no more.
func TestFollowWithWhatIsGranted(t *testing.T) {
	slow(t)
	t.Parallel()
	east, _ := connect(t)
	const ns = "shop" // as the file has it
	create(t, east, ns, application)
	granted, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rbac", "backup.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	create(t, east, ns, string(granted))
	config := filepath.Join(t.TempDir(), "config")
	if err := start().east.WriteKubeconfig(config, "system:serviceaccount:lifeboat:lifeboat-backup", []string{"system:serviceaccounts"}); err != nil {
		t.Fatal(err)
	}
	k := &kept{memory: newMemory()}
	f := follow(t, client(t, "east", config), k, ns)
	first := f.until("the first checkpoint", func(moment) bool { return true })
	if len(first.Missing) > 0 {
		t.Errorf("missing %v", first.Missing)
	}
	remove(t, east, ns, "v1/ConfigMap/web")
	f.until("a change", func(c moment) bool { return !c.has("namespaces/shop/core/configmaps/web.json") })
	time.Sleep(12 * time.Second) // longer than a watch that is forbidden is waited for
	remove(t, east, ns, "v1/Secret/key")
	last := f.until("another change", func(c moment) bool { return !c.has("namespaces/shop/core/secrets/key.json") })
	if len(last.Missing) > 0 {
		t.Errorf("missing later %v", last.Missing)
	}
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}
