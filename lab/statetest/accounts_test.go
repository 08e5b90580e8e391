package statetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/kube"
)

// Tokens that a cluster makes by itself stay behind; those that somebody asked for are issued anew, and an
// account lists nothing that is not there.
func TestAccountsAndTheirSecrets(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "accounts"
	create(t, east, ns, emptyNamespace+`---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: @NS@, annotations: {openshift.io/internal-registry-pull-secret-ref: robot-dockercfg-x2z}},
  secrets: [{name: robot-token-abcde}, {name: robot-dockercfg-x2z}, {name: mine}], imagePullSecrets: [{name: robot-dockercfg-x2z}, {name: pull}]}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: robot-token-abcde, namespace: @NS@, annotations: {kubernetes.io/service-account.name: robot}}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: asked, namespace: @NS@, annotations: {kubernetes.io/service-account.name: robot}}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/dockercfg, metadata: {name: robot-dockercfg-x2z, namespace: @NS@, annotations: {openshift.io/internal-registry-auth-token.service-account: robot}}, stringData: {.dockercfg: "{}"}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/dockercfg, metadata: {name: older-dockercfg, namespace: @NS@, annotations: {kubernetes.io/service-account.name: robot, openshift.io/token-secret.name: robot-token-abcde}}, stringData: {.dockercfg: "{}"}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/dockerconfigjson, metadata: {name: pull, namespace: @NS@}, stringData: {.dockerconfigjson: "{}"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: mine, namespace: @NS@}, stringData: {a: b}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: serving, namespace: @NS@, annotations: {service.beta.openshift.io/originating-service-name: web}}, stringData: {tls.crt: "", tls.key: ""}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: openshift-service-ca.crt, namespace: @NS@}, data: {service-ca.crt: old}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: injected, namespace: @NS@, annotations: {service.beta.openshift.io/inject-cabundle: "true"}}, data: {service-ca.crt: old, other: kept}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: trusted, namespace: @NS@, labels: {config.openshift.io/inject-trusted-cabundle: "true"}}, data: {ca-bundle.crt: old}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {serviceAccountName: robot, imagePullSecrets: [{name: robot-dockercfg-x2z}, {name: pull}], containers: [{name: a, image: a}]}}}}`)
	v := moving(t, east, north, ns)
	v.apply()
	var found []string
	list, err := north.Typed.CoreV1().Secrets(ns).List(t.Context(), listAll)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		found = append(found, list.Items[i].Name)
	}
	if want := []string{"asked", "mine", "pull"}; !slices.Equal(found, want) {
		t.Errorf("secrets %q, want %q", found, want)
	}
	account := get(t, north, ns, "v1/ServiceAccount/robot")
	if got := fmt.Sprint(field(account, "secrets"), field(account, "imagePullSecrets")); got != "[map[name:mine]] [map[name:pull]]" {
		t.Errorf("the account lists %s", got)
	}
	if a := account.GetAnnotations()["openshift.io/internal-registry-pull-secret-ref"]; a != "" {
		t.Errorf("the account refers to %q", a)
	}
	if got := fmt.Sprint(v.field("apps/v1/Deployment/web", "spec.template.spec.imagePullSecrets")); got != "[map[name:pull]]" {
		t.Errorf("pull secrets of a workload: %s", got)
	}
	eventually(t, "the token to be issued", func() (bool, string) {
		return field(get(t, north, ns, "v1/Secret/asked"), "data.token") != nil, "empty"
	})
	if got := get(t, north, ns, "v1/Secret/asked").GetAnnotations()["kubernetes.io/service-account.uid"]; got != string(account.GetUID()) {
		t.Errorf("the token is for %s, not %s", got, account.GetUID())
	}
	if v.there("v1/ConfigMap/openshift-service-ca.crt") || v.field("v1/ConfigMap/injected", "data.service-ca.crt") == "old" || v.field("v1/ConfigMap/injected", "data.other") != "kept" ||
		v.field("v1/ConfigMap/trusted", "data") != nil {
		t.Error("the old site's certificates came along")
	}
	eventually(t, "the site's own CA", func() (bool, string) { return v.there("v1/ConfigMap/kube-root-ca.crt"), "" })
	v.verify()
	v.twice()
}

// Owners are found by their names at the target; a reference to one that is not there goes, for the garbage
// collector would delete its object.
func TestOwners(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "owned-by"
	create(t, east, ns, emptyNamespace+"---\n"+definition(ns, "Owner", "v1")+`
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: parent, namespace: @NS@}}
---
{apiVersion: @NS@.example.com/v1, kind: Owner, metadata: {name: custom, namespace: @NS@}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: @NS@-role}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: @NS@-role}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: @NS@-role}, subjects: [{kind: ServiceAccount, name: default, namespace: @NS@}]}`)
	uid := func(what string) string { return string(get(t, east, ns, what).GetUID()) }
	owned := func(name, apiVersion, kind, owner, uid string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: %s, namespace: @NS@, ownerReferences: [{apiVersion: %s, kind: %s, name: %s, uid: %s, blockOwnerDeletion: true}]}}`, name, apiVersion, kind, owner, uid)
	}
	const nobody = "11111111-1111-1111-1111-111111111111"
	create(t, east, ns, strings.Join([]string{
		owned("by-parent", "v1", "ConfigMap", "parent", uid("v1/ConfigMap/parent")),
		owned("by-custom", ns+".example.com/v1", "Owner", "custom", uid(ns+".example.com/v1/Owner/custom")),
		owned("by-role", "rbac.authorization.k8s.io/v1", "ClusterRole", ns+"-role", uid("rbac.authorization.k8s.io/v1/ClusterRole/"+ns+"-role")),
		owned("by-stale", "v1", "ConfigMap", "parent", nobody),
		owned("by-nobody", "v1", "ConfigMap", "gone", nobody),
		owned("by-no-kind", "nowhere.example.com/v1", "Thing", "gone", nobody),
		owned("by-what-is-there", "v1", "ConfigMap", "already", nobody),
	}, "\n---\n"))
	v := moving(t, east, north, ns)
	create(t, north, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: already, namespace: @NS@}}`)
	v.apply()
	for name, owner := range map[string]string{"by-parent": "v1/ConfigMap/parent", "by-custom": ns + ".example.com/v1/Owner/custom", "by-role": "rbac.authorization.k8s.io/v1/ClusterRole/" + ns + "-role",
		"by-stale": "v1/ConfigMap/parent", "by-nobody": "", "by-no-kind": "", "by-what-is-there": "v1/ConfigMap/already"} {
		refs := get(t, north, ns, "v1/Secret/"+name).GetOwnerReferences()
		switch {
		case owner == "" && len(refs) > 0:
			t.Errorf("%s is owned by what is not there: %v", name, refs)
		case owner != "" && (len(refs) != 1 || refs[0].UID != get(t, north, ns, owner).GetUID() || refs[0].BlockOwnerDeletion == nil):
			t.Errorf("%s: owners %v", name, refs)
		}
	}
	v.twice()
	// The garbage collector agrees: it deletes what belongs to the parent, and nothing else.
	remove(t, north, ns, "v1/ConfigMap/parent")
	eventually(t, "the garbage collector", func() (bool, string) {
		return !v.there("v1/Secret/by-parent") && !v.there("v1/Secret/by-stale"), "the parent's are still there"
	})
	for _, name := range []string{"by-custom", "by-role", "by-nobody", "by-no-kind", "by-what-is-there"} {
		if !v.there("v1/Secret/" + name) {
			t.Errorf("%s was collected", name)
		}
	}
}

// Finalizers stay only where somebody is there who takes them off.
func TestFinalizers(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "finalizers"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: known, namespace: @NS@, finalizers: [present.example.com/hold, absent.example.com/hold]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: unknown, namespace: @NS@, finalizers: [absent.example.com/hold]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}`)
	v.opts.To.Finalizers = []string{"present.example.com"}
	out := v.apply()
	if got := get(t, west, ns, "v1/ConfigMap/known").GetFinalizers(); !slices.Equal(got, []string{"present.example.com/hold"}) {
		t.Errorf("finalizers %q", got)
	}
	if got := get(t, west, ns, "v1/ConfigMap/unknown").GetFinalizers(); len(got) > 0 {
		t.Errorf("finalizers %q", got)
	}
	names(t, out.Notes, "ConfigMap "+ns+"/unknown", "absent.example.com/hold")
	if got := get(t, west, ns, "v1/PersistentVolumeClaim/data").GetFinalizers(); !slices.Equal(got, []string{"kubernetes.io/pvc-protection"}) {
		t.Errorf("the API server's own finalizers: %q", got)
	}
	// What was restored can be deleted.
	remove(t, west, ns, "v1/ConfigMap/unknown")
	if v.there("v1/ConfigMap/unknown") {
		t.Error("it cannot be deleted")
	}
}

// What was on its way out when it was captured does not come back.
func TestWhatWasBeingDeleted(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "deleting"
	create(t, east, ns, emptyNamespace+"---\n"+settings+"\n---\n"+`{apiVersion: v1, kind: Secret, metadata: {name: going, namespace: @NS@, finalizers: [absent.example.com/hold]}}`)
	remove(t, east, ns, "v1/Secret/going")
	v := moving(t, east, west, ns)
	out := v.apply()
	names(t, out.Skipped, "Secret "+ns+"/going", "being deleted")
	if v.there("v1/Secret/going") || !v.there("v1/ConfigMap/settings") {
		t.Error("it came back, or the rest did not")
	}
}

// What belongs to a cluster and not to an application stays where it is.
func TestObjectsOfTheClusterItself(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	_, west := connect(t)
	const ns = "clusterwide"
	create(t, north, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: leader, namespace: @NS@}, spec: {holderIdentity: me}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: leader, namespace: @NS@, annotations: {control-plane.alpha.kubernetes.io/leader: "{}"}}}
---
{apiVersion: v1, kind: Event, metadata: {name: e, namespace: @NS@}, involvedObject: {kind: Pod, name: p, namespace: @NS@}, reason: Because}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-mine}, value: 7, globalDefault: true}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {priorityClassName: system-cluster-critical, containers: [{name: a, image: a}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: b, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}, spec: {priorityClassName: @NS@-mine, containers: [{name: a, image: a}]}}}}`)
	eventually(t, "the site's own CA", func() (bool, string) { return get(t, north, ns, "v1/ConfigMap/kube-root-ca.crt") != nil, "" })
	v := moving(t, north, west, ns)
	out := v.apply()
	for _, what := range []string{"coordination.k8s.io/v1/Lease/leader", "v1/ConfigMap/leader", "v1/Event/e", "v1/ConfigMap/kube-root-ca.crt"} {
		if v.there(what) {
			t.Errorf("%s was restored", what)
		}
	}
	if get(t, north, "", "scheduling.k8s.io/v1/PriorityClass/system-cluster-critical") == nil {
		t.Error("a class of the cluster's own is gone")
	}
	class := get(t, west, "", "scheduling.k8s.io/v1/PriorityClass/"+ns+"-mine")
	if field(class, "value") != int64(7) || field(class, "globalDefault") == true {
		t.Errorf("the application's class: %v", class)
	}
	names(t, out.Notes, "PriorityClass "+ns+"-mine", "default")
	// Captured whole, the default namespace has the API server's own Service in it.
	m, _ := captured(t, north, "default")
	set := loaded(t, m)
	opts := options("default")
	before := get(t, west, "default", "v1/Service/kubernetes").GetResourceVersion()
	if got, err := set.Apply(deadline(t), west, opts, nil); err != nil {
		t.Fatalf("%v %q", err, got.Problems)
	}
	if after := get(t, west, "default", "v1/Service/kubernetes"); after.GetResourceVersion() != before || after.GetLabels()[kube.LabelApplication] != "" {
		t.Error("the API server's own Service was touched")
	}
}
