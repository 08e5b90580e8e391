package restore

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/kube"
)

// skip says why an object is not restored, or nothing.
func (s *Set) skip(o *unstructured.Unstructured) string {
	if _, transient := o.GetLabels()[kube.LabelTransient]; transient {
		return "a helper of Lifeboat's own"
	}
	if o.GetDeletionTimestamp() != nil && keyOf(o).GroupKind != namespaceKind {
		return "it was being deleted when it was captured"
	}
	if reason := skippedKind(keyOf(o).GroupKind); reason != "" && !isPinned(o) {
		return reason
	}
	if reason := madeAnew(o); reason != "" {
		return reason
	}
	if reason := s.skipByKind(o); reason != "" {
		return reason
	}
	if o.GetLabels()["kubernetes.io/bootstrapping"] != "" {
		return "every cluster has it"
	}
	return ""
}

// skipByKind: single objects of kinds that are restored otherwise.
func (s *Set) skipByKind(o *unstructured.Unstructured) string {
	switch keyOf(o).GroupKind {
	case podKind:
		return skipPod(o)
	case jobKind:
		if isTrue(o, "Complete") || isTrue(o, "Failed") {
			return "the Job has finished; it is not run again"
		}
	case secretKind:
		return s.skipSecret(o)
	case configMapKind:
		if ownConfig(o.GetName()) {
			return "the target makes its own"
		}
	case serviceKind:
		if o.GetNamespace() == "default" && o.GetName() == "kubernetes" {
			return "the target's own API server"
		}
	case gk{Kind: "Endpoints"}, gk{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:
		return s.skipEndpoints(o)
	case gk{Group: "apps", Kind: "ReplicaSet"}, gk{Kind: "ReplicationController"}, gk{Group: "apps", Kind: "ControllerRevision"}:
		if c := metav1.GetControllerOf(o); c != nil {
			return "its " + c.Kind + " makes it"
		}
	case routeKind:
		if c := metav1.GetControllerOf(o); c != nil && c.Kind == "Ingress" {
			return "its Ingress makes it"
		}
	case priorityKind:
		if strings.HasPrefix(o.GetName(), "system-") {
			return "every cluster has it"
		}
	case claimKind:
		if c := metav1.GetControllerOf(o); c != nil && c.Kind == "Pod" {
			return "its Pod makes it" // a generic ephemeral volume; a pod refuses one that is not its own
		}
	}
	return ""
}

// ownConfig: what controllers write into namespaces, about the cluster that it is.
func ownConfig(name string) bool {
	switch name {
	case "kube-root-ca.crt", "openshift-service-ca.crt", "extension-apiserver-authentication",
		"kube-apiserver-legacy-service-account-token-tracking":
		return true
	}
	return false
}

// madeAnew: what an operator makes at the target from something that is restored.
func madeAnew(o *unstructured.Unstructured) string {
	labels := o.GetLabels()
	if labels["olm.copiedFrom"] != "" {
		return "OLM makes it from the Subscription"
	}
	// OLM installs an operator's Deployments, accounts and roles; they are there once its Subscription is.
	if labels["olm.owner.kind"] == "ClusterServiceVersion" || labels["olm.owner"] != "" && keyOf(o).GroupKind != crdKind {
		return "OLM makes it from the Subscription"
	}
	for _, ref := range o.GetOwnerReferences() {
		if ref.Kind == "ClusterServiceVersion" && strings.HasPrefix(ref.APIVersion, "operators.coreos.com/") {
			return "OLM makes it from the Subscription"
		}
	}
	if labels["acme.cert-manager.io/http01-solver"] == "true" {
		return "cert-manager makes it from the Certificate"
	}
	return ""
}

// skippedKind: kinds of which a cluster makes its own, or which stand for something that has happened.
func skippedKind(kind gk) string {
	switch kind.String() {
	case "PersistentVolume":
		return "the target's provisioner makes volumes for the claims"
	case "StorageClass.storage.k8s.io", "VolumeAttributesClass.storage.k8s.io", "CSIStorageCapacity.storage.k8s.io":
		return "the target has its own storage"
	case "VolumeSnapshot.snapshot.storage.k8s.io", "VolumeSnapshotContent.snapshot.storage.k8s.io":
		return "a snapshot lives in the storage of its site"
	case "ClusterServiceVersion.operators.coreos.com", "InstallPlan.operators.coreos.com", "OperatorCondition.operators.coreos.com":
		return "OLM makes it from the Subscription"
	case "CertificateRequest.cert-manager.io", "Order.acme.cert-manager.io", "Challenge.acme.cert-manager.io":
		return "cert-manager makes it from the Certificate"
	case "Build.build.openshift.io":
		return "a build that was restored would run again"
	case "ImageStreamTag.image.openshift.io", "ImageTag.image.openshift.io", "ImageStreamImage.image.openshift.io", "ImageStreamImport.image.openshift.io":
		return "the target makes it from the ImageStream"
	case "PackageManifest.packages.operators.coreos.com", "PodMetrics.metrics.k8s.io", "NodeMetrics.metrics.k8s.io":
		return "it is computed, not stored"
	case "Event", "Event.events.k8s.io", "Lease.coordination.k8s.io", "FlowSchema.flowcontrol.apiserver.k8s.io",
		"PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io":
		return "the cluster's own bookkeeping"
	}
	return ""
}

func skipPod(o *unstructured.Unstructured) string {
	if c := metav1.GetControllerOf(o); c != nil {
		return "its " + c.Kind + " makes it"
	}
	if _, mirror := o.GetAnnotations()["kubernetes.io/config.mirror"]; mirror {
		return "a node's own static pod"
	}
	if phase := str(o.Object, "status", "phase"); phase == "Succeeded" || phase == "Failed" {
		return "the pod has ended; it is not run again"
	}
	return ""
}

// skipSecret: credentials that the target's controllers make for its own accounts are worth nothing there.
func (s *Set) skipSecret(o *unstructured.Unstructured) string {
	annotations := o.GetAnnotations()
	account := annotations["kubernetes.io/service-account.name"]
	switch str(o.Object, "type") {
	case "kubernetes.io/service-account-token":
		if s.listedByAccount(o, account) || strings.Contains(annotations["kubernetes.io/created-by"], "openshift.io") {
			return "an automatic token; the target makes its own"
		}
	case "kubernetes.io/dockercfg":
		if account != "" || annotations["openshift.io/token-secret.name"] != "" || annotations["openshift.io/internal-registry-auth-token.service-account"] != "" {
			return "a generated pull secret of the site's own registry"
		}
	}
	if annotations["service.beta.openshift.io/originating-service-name"] != "" || annotations["service.alpha.openshift.io/originating-service-name"] != "" {
		return "the target's service CA issues it anew"
	}
	return ""
}

// listedByAccount: before Kubernetes 1.24 each account got a token by itself, and lists it.
func (s *Set) listedByAccount(o *unstructured.Unstructured, account string) bool {
	sa := s.lookup(key{GroupKind: accountKind, Namespace: o.GetNamespace(), Name: account})
	return sa != nil && slices.ContainsFunc(maps(sa.Object, "secrets"), func(m map[string]any) bool { return m["name"] == o.GetName() })
}

// skipEndpoints keeps only those that somebody wrote by hand, for a Service without a selector.
func (s *Set) skipEndpoints(o *unstructured.Unstructured) string {
	labels := o.GetLabels()
	name := o.GetName()
	if svc := labels["kubernetes.io/service-name"]; svc != "" {
		name = svc
	}
	if o.GetNamespace() == "default" && name == "kubernetes" {
		return "the target's own API server"
	}
	managed := strings.HasSuffix(labels["endpointslice.kubernetes.io/managed-by"], ".k8s.io") || labels["endpoints.kubernetes.io/managed-by"] != ""
	svc := s.lookup(key{GroupKind: serviceKind, Namespace: o.GetNamespace(), Name: name})
	if managed || svc != nil && len(dig(svc.Object, "spec", "selector")) > 0 {
		return "the target's controllers make it from the Service"
	}
	return ""
}

func isTrue(o *unstructured.Unstructured, condition string) bool {
	return slices.ContainsFunc(maps(o.Object, "status", "conditions"), func(c map[string]any) bool {
		return c["type"] == condition && c["status"] == "True"
	})
}
