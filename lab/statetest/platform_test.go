package statetest

import (
	"fmt"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/restore"
)

// openshiftKinds are those of an OpenShift cluster, with the names that they have there. (There they are
// served by aggregated API servers; here by CRDs.)
var openshiftKinds = []string{"!security.openshift.io/v1/SecurityContextConstraints/securitycontextconstraints", "image.openshift.io/v1/ImageStream/imagestreams",
	"build.openshift.io/v1/BuildConfig/buildconfigs", "build.openshift.io/v1/Build/builds"}

// A namespace keeps the ranges that its volumes were written with, whatever the target gave one of that name.
func TestNamespaceRanges(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ranges = `openshift.io/sa.scc.uid-range: 1000680000/10000, openshift.io/sa.scc.mcs: "s0:c26,c15", openshift.io/sa.scc.supplemental-groups: 1000680000/10000`
	for name, there := range map[string]string{
		"new":   "",
		"there": `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@, labels: {theirs: kept}, annotations: {openshift.io/sa.scc.uid-range: 1000990000/10000, openshift.io/sa.scc.mcs: "s0:c1,c2", openshift.io/requester: them}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := "ranges-" + name
			v := move(t, east, west, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@, annotations: {`+ranges+`}}}
---
`+settings)
			if there != "" {
				create(t, west, ns, there)
			}
			out := v.apply()
			got := get(t, west, "", "v1/Namespace/"+ns)
			a := got.GetAnnotations()
			if a["openshift.io/sa.scc.uid-range"] != "1000680000/10000" || a["openshift.io/sa.scc.mcs"] != "s0:c26,c15" || a["openshift.io/sa.scc.supplemental-groups"] != "1000680000/10000" {
				t.Errorf("annotations %v", a)
			}
			if there != "" {
				names(t, out.Notes, "Namespace "+ns, "uid-range")
				if got.GetLabels()["theirs"] != "kept" || a["openshift.io/requester"] != "them" {
					t.Error("what was there was lost")
				}
			}
			v.verify()
			v.twice()
		})
	}
}

// Who may do what comes before whatever needs it, and what others may do at the target stays.
func TestConstraintsAndRolesBeforeWorkloads(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, openshiftKinds, east, west)
	const ns = "constraints"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: @NS@}}
---
{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-by-user}, allowPrivilegedContainer: false, runAsUser: {type: RunAsAny}, users: ["system:serviceaccount:@NS@:web"], groups: []}
---
{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-by-role}, allowPrivilegedContainer: false, runAsUser: {type: MustRunAsRange}, users: [], groups: []}
---
{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-by-cluster-role}, users: [], groups: []}
---
{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-shared}, allowPrivilegedContainer: true, users: ["system:serviceaccount:@NS@:web"], groups: ["system:serviceaccounts:@NS@"]}
---
{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-others}, users: ["system:serviceaccount:other:web"]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: use, namespace: @NS@}, rules: [{apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: ["@NS@-by-role"], verbs: [use]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: use, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: use}, subjects: [{kind: ServiceAccount, name: web, namespace: @NS@}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "@NS@-use"}, rules: [{apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: ["@NS@-by-cluster-role"], verbs: [use]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: cluster-use, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "@NS@-use"}, subjects: [{kind: ServiceAccount, name: web, namespace: @NS@}]}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{name: a, image: a}]}}}}`)
	create(t, west, ns, `{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: @NS@-shared}, allowPrivilegedContainer: false, users: ["system:serviceaccount:theirs:x"], groups: ["system:cluster-admins"]}`)
	var order []string
	if _, err := v.set.Apply(deadline(t), west, v.opts, func(p restore.Progress) {
		if p.Waiting == "" {
			order = append(order, p.Object)
		}
	}); err != nil {
		t.Fatal(err)
	}
	at := func(what string) int {
		for i, o := range order {
			if o == what {
				return i
			}
		}
		t.Fatalf("%s is not in %q", what, order)
		return 0
	}
	for _, before := range []string{"SecurityContextConstraints " + ns + "-by-user", "SecurityContextConstraints " + ns + "-by-role", "SecurityContextConstraints " + ns + "-by-cluster-role",
		"RoleBinding " + ns + "/use", "RoleBinding " + ns + "/cluster-use", "ServiceAccount " + ns + "/web"} {
		if at(before) > at("Deployment "+ns+"/web") {
			t.Errorf("%s comes after the workload", before)
		}
	}
	shared := get(t, west, "", "security.openshift.io/v1/SecurityContextConstraints/"+ns+"-shared")
	if got := fmt.Sprint(field(shared, "users"), field(shared, "groups")); got != "[system:serviceaccount:theirs:x system:serviceaccount:constraints:web] [system:cluster-admins system:serviceaccounts:constraints]" {
		t.Errorf("who is admitted: %s", got)
	}
	if got := field(shared, "allowPrivilegedContainer"); got != false {
		t.Errorf("a constraint that others use was widened: %v", got)
	}
	if get(t, west, "", "security.openshift.io/v1/SecurityContextConstraints/"+ns+"-others") != nil {
		t.Error("somebody else's constraint was restored")
	}
	v.verify("Deployment " + ns + "/web: not yet seen by its controller")
	v.twice()
}

// Builds are not run again; what they are made from is restored.
func TestBuildsAndImageStreams(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, openshiftKinds, east, west)
	const ns = "builds"
	create(t, east, ns, emptyNamespace+`---
{apiVersion: image.openshift.io/v1, kind: ImageStream, metadata: {name: web, namespace: @NS@}, spec: {lookupPolicy: {local: true}}}
---
{apiVersion: build.openshift.io/v1, kind: BuildConfig, metadata: {name: web, namespace: @NS@}, spec: {output: {to: {kind: ImageStreamTag, name: "web:1"}}}}
---
{apiVersion: build.openshift.io/v1, kind: Build, metadata: {name: web-1, namespace: @NS@}, spec: {}}`)
	patch(t, east, ns, "image.openshift.io/v1/ImageStream/web", `status: {dockerImageRepository: "registry.east.test/builds/web"}`, "status")
	v := moving(t, east, west, ns)
	v.apply()
	if !v.there("image.openshift.io/v1/ImageStream/web") || !v.there("build.openshift.io/v1/BuildConfig/web") || v.there("build.openshift.io/v1/Build/web-1") {
		t.Error("a build runs again, or what it is made from is missing")
	}
	if got := v.field("image.openshift.io/v1/ImageStream/web", "status"); got != nil {
		t.Errorf("the old registry's word came along: %v", got)
	}
	v.verify()
	v.twice()
}

// Operators come back through their Subscriptions: what OLM makes of them, it makes at the target.
func TestOperatorsFromTheirSubscriptions(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const g = "operators.coreos.com"
	serveKinds(t, []string{g + "/v1alpha1/Subscription/subscriptions", g + "/v1alpha1/ClusterServiceVersion/clusterserviceversions", g + "/v1alpha1/InstallPlan/installplans",
		g + "/v1alpha1/CatalogSource/catalogsources", g + "/v1/OperatorGroup/operatorgroups", g + "/v2/OperatorCondition/operatorconditions"}, east, west)
	const ns = "operators"
	create(t, east, ns, emptyNamespace+`---
{apiVersion: operators.coreos.com/v1, kind: OperatorGroup, metadata: {name: own, namespace: @NS@}, spec: {targetNamespaces: [@NS@]}}
---
{apiVersion: operators.coreos.com/v1alpha1, kind: Subscription, metadata: {name: pg, namespace: @NS@}, spec: {channel: stable, name: pg, source: catalog, sourceNamespace: olm}}
---
{apiVersion: operators.coreos.com/v1alpha1, kind: ClusterServiceVersion, metadata: {name: pg.v1, namespace: @NS@}, spec: {}}
---
{apiVersion: operators.coreos.com/v1alpha1, kind: ClusterServiceVersion, metadata: {name: copied.v1, namespace: @NS@, labels: {olm.copiedFrom: olm}}, spec: {}}
---
{apiVersion: operators.coreos.com/v1alpha1, kind: InstallPlan, metadata: {name: install-x, namespace: @NS@}, spec: {approved: true}}
---
{apiVersion: operators.coreos.com/v2, kind: OperatorCondition, metadata: {name: pg.v1, namespace: @NS@}, spec: {}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: pg-operator, namespace: @NS@, labels: {olm.owner: pg.v1, olm.owner.kind: ClusterServiceVersion}}}`)
	csv := get(t, east, ns, g+"/v1alpha1/ClusterServiceVersion/pg.v1")
	create(t, east, ns, fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: pg-operator, namespace: @NS@, ownerReferences: [{apiVersion: operators.coreos.com/v1alpha1, kind: ClusterServiceVersion, name: pg.v1, uid: %s}]},
		spec: {selector: {matchLabels: {app: pg}}, template: {metadata: {labels: {app: pg}}, spec: {containers: [{name: a, image: a}]}}}}`, csv.GetUID()))
	patch(t, east, ns, g+"/v1alpha1/Subscription/pg", "status: {installedCSV: pg.v1, state: AtLatestKnown}", "status")
	v := moving(t, east, west, ns)
	v.apply()
	for what, want := range map[string]bool{g + "/v1/OperatorGroup/own": true, g + "/v1alpha1/Subscription/pg": true, g + "/v1alpha1/ClusterServiceVersion/pg.v1": false,
		g + "/v1alpha1/ClusterServiceVersion/copied.v1": false, g + "/v1alpha1/InstallPlan/install-x": false, g + "/v2/OperatorCondition/pg.v1": false,
		"v1/ServiceAccount/pg-operator": false, "apps/v1/Deployment/pg-operator": false} {
		if got := v.there(what); got != want {
			t.Errorf("%s is there: %t, want %t", what, got, want)
		}
	}
	if got := v.field(g+"/v1alpha1/Subscription/pg", "status"); got != nil {
		t.Errorf("OLM would believe that it is installed: %v", got)
	}
	v.verify()
	v.twice()
}

// Certificates find their Secrets, and are not asked for again.
func TestCertificates(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, []string{"cert-manager.io/v1/Certificate/certificates", "cert-manager.io/v1/CertificateRequest/certificaterequests", "cert-manager.io/v1/Issuer/issuers",
		"acme.cert-manager.io/v1/Order/orders", "acme.cert-manager.io/v1/Challenge/challenges"}, east, west)
	const ns = "certificates"
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: a-web, namespace: @NS@}, spec: {secretName: z-web, issuerRef: {name: z-ca}}}
---
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: z-ca, namespace: @NS@}, spec: {ca: {secretName: z-ca}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: z-web, namespace: @NS@, annotations: {cert-manager.io/certificate-name: a-web}}, stringData: {tls.key: k}}
---
{apiVersion: cert-manager.io/v1, kind: CertificateRequest, metadata: {name: web-1, namespace: @NS@}, spec: {}}
---
{apiVersion: acme.cert-manager.io/v1, kind: Order, metadata: {name: web-1, namespace: @NS@}, spec: {}}
---
{apiVersion: acme.cert-manager.io/v1, kind: Challenge, metadata: {name: web-1, namespace: @NS@}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {name: solver, namespace: @NS@, labels: {acme.cert-manager.io/http01-solver: "true"}}, spec: {containers: [{name: a, image: a}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@-injected, annotations: {cert-manager.io/inject-ca-from: "@NS@/a-web"}}, webhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1], failurePolicy: Ignore,
  clientConfig: {caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJkekNDQVIyZ0F3SUJBZ0lCQURBS0JnZ3Foa2pPUFFRREFqQWpNU0V3SHdZRFZRUUREQmhyTTNNdGMyVnkKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=, service: {namespace: @NS@, name: nobody}}, rules: []}]}`)
	var order []string
	if out, err := v.set.Apply(deadline(t), west, v.opts, func(p restore.Progress) { order = append(order, p.Object) }); err != nil {
		t.Fatalf("%v %q", err, out.Problems)
	}
	joined := strings.Join(order, "|")
	for _, pair := range [][2]string{{"Secret certificates/z-web", "Certificate certificates/a-web"}, {"Issuer certificates/z-ca", "Certificate certificates/a-web"}} {
		if a, b := strings.Index(joined, pair[0]), strings.Index(joined, pair[1]); a < 0 || b < 0 || a > b {
			t.Errorf("%s does not come before %s in %q", pair[0], pair[1], order)
		}
	}
	for _, what := range []string{"cert-manager.io/v1/CertificateRequest/web-1", "acme.cert-manager.io/v1/Order/web-1", "acme.cert-manager.io/v1/Challenge/web-1", "v1/Pod/solver"} {
		if v.there(what) {
			t.Errorf("%s was restored", what)
		}
	}
	hook := get(t, west, "", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration/"+ns+"-injected")
	if strings.Contains(fmt.Sprint(field(hook, "webhooks")), "caBundle") {
		t.Error("the old site's authority came along, where the target injects its own")
	}
	v.verify()
}

// What Git makes at the target is left to Git; what no Git controller there knows of is restored.
func TestObjectsOfGitControllers(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	serveKinds(t, []string{"argoproj.io/v1alpha1/Application/applications", "kustomize.toolkit.fluxcd.io/v1/Kustomization/kustomizations", "helm.toolkit.fluxcd.io/v2/HelmRelease/helmreleases"}, east, west)
	const ns = "gitops"
	configMap := func(name, meta string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: @NS@, %s}, data: {a: "1"}}`, name, meta)
	}
	docs := emptyNamespace + "---\n" + strings.Join([]string{
		configMap("argo", `annotations: {argocd.argoproj.io/tracking-id: "gitops-shop:/ConfigMap:gitops/argo"}`),
		configMap("argo-stopped", `annotations: {argocd.argoproj.io/tracking-id: "gitops-stopped:/ConfigMap:gitops/x"}`),
		configMap("argo-afar", `labels: {argocd.argoproj.io/instance: gitops-afar}`),
		configMap("argo-nobody", `labels: {argocd.argoproj.io/instance: gitops-nobody}`),
		configMap("flux", `labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: gitops-flux}`),
		configMap("flux-suspended", `labels: {helm.toolkit.fluxcd.io/name: shop, helm.toolkit.fluxcd.io/namespace: gitops-flux}`),
		configMap("there", `labels: {kustomize.toolkit.fluxcd.io/name: gone, kustomize.toolkit.fluxcd.io/namespace: gitops-flux}`),
		configMap("plain", `labels: {app.kubernetes.io/managed-by: Helm}`),
		`{apiVersion: v1, kind: Secret, type: helm.sh/release.v1, metadata: {name: sh.helm.release.v1.shop.v1, namespace: @NS@, labels: {owner: helm, name: shop}}, stringData: {release: x}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: gitops-flux}}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}`,
	}, "\n---\n")
	v := move(t, east, west, ns, docs)
	create(t, west, ns, emptyNamespace+`---
{apiVersion: v1, kind: Namespace, metadata: {name: gitops-flux}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: gitops-shop, namespace: gitops-flux}, spec: {destination: {server: "https://kubernetes.default.svc"}, syncPolicy: {automated: {prune: true}}}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: gitops-stopped, namespace: gitops-flux}, spec: {destination: {server: "https://kubernetes.default.svc"}, syncPolicy: {}}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: gitops-afar, namespace: gitops-flux}, spec: {destination: {server: "https://elsewhere.example.com"}, syncPolicy: {automated: {}}}}
---
{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: shop, namespace: gitops-flux}, spec: {prune: true}}
---
{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: shop, namespace: gitops-flux}, spec: {suspend: true}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: @NS@, labels: {kustomize.toolkit.fluxcd.io/name: gone, kustomize.toolkit.fluxcd.io/namespace: gitops-flux}}, data: {a: git}}`)
	out := v.apply()
	for name, want := range map[string]any{"argo": nil, "argo-stopped": "1", "argo-afar": "1", "argo-nobody": "1", "flux": nil, "flux-suspended": "1", "there": "git", "plain": "1"} {
		if got := v.field("v1/ConfigMap/"+name, "data.a"); got != want {
			t.Errorf("ConfigMap %s holds %v, want %v", name, got, want)
		}
	}
	names(t, out.Skipped, "ConfigMap gitops/argo: left to Git", "Application gitops-flux/gitops-shop")
	names(t, out.Skipped, "ConfigMap gitops/flux: left to Git", "Kustomization gitops-flux/shop")
	names(t, out.Skipped, "ConfigMap gitops/there", "managed by Flux")
	if !v.there("v1/Secret/sh.helm.release.v1.shop.v1") || !v.there("v1/PersistentVolumeClaim/data") {
		t.Error("Helm's record, or a claim that data comes into, is missing")
	}
	found, err := v.set.Verify(deadline(t), west, v.opts)
	if err != nil {
		t.Fatal(err)
	}
	names(t, found.Problems, "ConfigMap gitops/argo: missing")
	names(t, found.Problems, "ConfigMap gitops/flux: missing")
	// Git has made them meanwhile, with a change: nothing is fought over.
	create(t, west, ns, strings.ReplaceAll(configMap("argo", `annotations: {argocd.argoproj.io/tracking-id: "gitops-shop:/ConfigMap:gitops/argo"}`)+"\n---\n"+
		configMap("flux", `labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: gitops-flux}`), `"1"`, `"2"`))
	v.apply()
	if v.field("v1/ConfigMap/argo", "data.a") != "2" || v.field("v1/ConfigMap/flux", "data.a") != "2" {
		t.Error("what Git made was changed")
	}
	v.verify("PersistentVolumeClaim gitops/data: Pending")
}
