package restore

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
)

// switches are the fields by which what acts by itself, on a schedule or on Git's behalf, is paused.
func switches() map[gk][]string {
	suspend := []string{"spec", "suspend"}
	return map[gk][]string{
		cronJobKind: suspend,
		{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}:     suspend,
		{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}:            suspend,
		{Group: "image.toolkit.fluxcd.io", Kind: "ImageUpdateAutomation"}: suspend,
		{Group: "argoproj.io", Kind: "CronWorkflow"}:                      suspend,
		{Group: "postgresql.cnpg.io", Kind: "ScheduledBackup"}:            suspend,
		{Group: "velero.io", Kind: "Schedule"}:                            {"spec", "paused"},
	}
}

// argoApplication is paused by taking away that it synchronizes by itself.
var argoApplication = gk{Group: "argoproj.io", Kind: "Application"}

// acts says whether objects of a kind act by themselves.
func acts(kind gk) bool { return kind == argoApplication || switches()[kind] != nil }

// paused says whether an object is not to act yet; one that a fence keeps from it stays fenced.
func (t *attempt) paused() bool {
	return t.opts.pauses() && acts(t.item.key.GroupKind)
}

// pauses says whether what acts by itself is paused.
func (o Options) pauses() bool { return o.Paused || o.Stage == dr.StageWorkloads }

// unpaused says of what acts by itself that it does, where that goes without saying: else one that was paused
// would stay so.
func unpaused(kind gk, o *unstructured.Unstructured) {
	field := switches()[kind]
	if field == nil {
		return
	}
	if spec := dig(o.Object, field[0]); spec != nil && spec[field[1]] == nil {
		spec[field[1]] = false
	}
}

// pause stops an object from acting by itself; false where it does not act anyway.
func pause(kind gk, o *unstructured.Unstructured) bool {
	if kind == argoApplication {
		policy := dig(o.Object, "spec", "syncPolicy")
		_, automated := policy["automated"]
		delete(policy, "automated")
		return automated
	}
	field := switches()[kind]
	if field == nil {
		return false
	}
	spec := dig(o.Object, field[0])
	if spec == nil || spec[field[1]] == true {
		return false
	}
	spec[field[1]] = true
	return true
}
