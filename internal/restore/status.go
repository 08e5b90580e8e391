package restore

import "lifeboat.dev/lifeboat/internal/kube"

// statusMatters: a status is restored where it may hold what its controller cannot find out again. Of these
// kinds it tells what the old site had, and would be believed at the target: an address, an admission, an
// operator that is installed, a revision that is synced.
func statusMatters(kind gk) bool {
	if kube.HasReadiness(kind) {
		return false
	}
	switch kind.Group {
	case "operators.coreos.com", "argoproj.io", "source.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io",
		"route.openshift.io", "image.openshift.io", "build.openshift.io", "apps.openshift.io", "security.openshift.io",
		gatewayGroup, "snapshot.storage.k8s.io", "networking.istio.io", "externaldns.k8s.io", "cert-manager.io", "acme.cert-manager.io",
		"keda.sh", "autoscaling.k8s.io", "serving.knative.dev":
		return false
	}
	return true
}
