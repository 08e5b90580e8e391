package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/csaupgrade"

	"lifeboat.dev/lifeboat/internal/kube"
)

// attempt is one object on its way into the target.
type attempt struct {
	*applier
	item    *item
	form    *form
	version servedVersion
	api     dynamic.ResourceInterface
	notes   []string   // of the last try
	dry     *foresight // of a dry run; nil where the object is restored in earnest
}

// attempt makes the object that is wanted, in the version that the target serves. It has no owners yet.
func (a *applier) attempt(ctx context.Context, it *item) (*attempt, *unstructured.Unstructured, error) {
	version, ok := a.target.version(it.key.GroupKind, it.version)
	if !ok {
		return nil, nil, fmt.Errorf("site %s does not serve this kind", a.client.Site)
	}
	f, err := a.prepared.form(ctx, it)
	if err != nil {
		return nil, nil, err
	}
	f.obj.SetGroupVersionKind(it.key.WithVersion(version.name))
	return &attempt{applier: a, item: it, form: f, version: version, api: a.endpoint(it.key, version.name)}, f.obj, nil
}

// object restores one item, and waits until what depends on it may go on.
func (a *applier) object(ctx context.Context, it *item) (result, []string, error) {
	if why, err := a.leftAlone(ctx, it); err != nil || why != "" {
		return kept, []string{why}, err
	}
	if err := a.backendsReady(ctx, it); err != nil {
		return 0, nil, err
	}
	if _, ok := a.target.version(it.key.GroupKind, it.version); !ok && a.target.mayServe(it.key.GroupKind) {
		if err := a.target.askAgain(ctx, a.client, it.key.GroupKind); err != nil {
			return 0, nil, err
		}
	}
	res, notes, err := a.put(ctx, it, nil)
	if err != nil {
		return 0, nil, err
	}
	return res, notes, a.gate(ctx, it)
}

// put brings one object into the target; with dry it only finds out what that would do.
func (a *applier) put(ctx context.Context, it *item, dry *foresight) (result, []string, error) {
	seen := a.take(it)
	if seen == asWanted {
		return unchanged, nil, nil
	}
	leave, err := a.enter(ctx, it)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	t, want, err := a.attempt(ctx, it)
	if err != nil {
		return 0, nil, err
	}
	t.dry = dry
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	res, err := t.once(ctx, want, seen)
	if err == nil && t.version.name != it.version {
		t.notes = append(t.notes, fmt.Sprintf("the target serves version %s, not %s", t.version.name, it.version))
	}
	return res, t.notes, err
}

func (a *site) endpoint(k key, version string) dynamic.ResourceInterface {
	r := a.client.Dynamic.Resource(a.target.gvr(k.GroupKind, version))
	if k.Namespace == "" {
		return r
	}
	return r.Namespace(k.Namespace)
}

// once makes one try: look, compare, and write only what differs. Every write of a dry run is one that the
// target makes without effect, so that both decide alike.
func (t *attempt) once(ctx context.Context, want *unstructured.Unstructured, seen sight) (result, error) {
	if err := t.setOwners(ctx, want); err != nil {
		return 0, err
	}
	if seen == absent {
		if res, err := t.create(ctx, want); !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
			return res, err
		}
	}
	live, err := t.api.Get(ctx, t.item.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return t.create(ctx, want)
	}
	if err != nil {
		return 0, err
	}
	t.met(live.GetUID())
	t.dry.found(live)
	if live.GetDeletionTimestamp() != nil {
		return 0, errDeleting
	}
	ours := t.ours(live)
	t.yield(want, live)
	diffs := compare(want, live)
	if !ours {
		if reason := t.leaveAlone(live, diffs); reason != "" {
			t.notes = []string{reason}
			return kept, nil
		}
	}
	if fence, err := kube.UnfencePatch(live); (err != nil || fence != nil) && !t.paused() {
		return t.unfence(ctx, want, fence, err)
	}
	if len(diffs) == 0 {
		return t.restoreStatus(ctx, live, unchanged)
	}
	if foreign := lasting(diffs); !ours && len(foreign) > 0 && t.dry == nil { // which shows every field
		t.notes = append(t.notes, "it was there and differed ("+join(foreign)+"); patched")
	}
	return t.update(ctx, want, live, ours)
}

// create makes an object that is not there, by a POST: an apply costs the server more (ADR 0010). What it
// sets is Lifeboat's as what is applied is: see adopt.
func (t *attempt) create(ctx context.Context, want *unstructured.Unstructured) (result, error) {
	if by, err := t.leftToGit(ctx, want); err != nil || by != "" {
		t.notes = []string{"left to Git: " + by + " is at work for it"}
		return kept, err
	}
	if t.dry.cannotTry(t.item, t.applier) {
		t.met(notMadeYet)
		return created, nil
	}
	body, err := json.Marshal(want.Object)
	if err != nil {
		return 0, fmt.Errorf("encoding it: %w", err)
	}
	params := []string{"fieldManager", kube.FieldManager, "fieldValidation", metav1.FieldValidationStrict}
	for _, v := range t.dry.option() {
		params = append(params, "dryRun", v)
	}
	raw, err := t.post(ctx, body, params)
	switch {
	case apierrors.IsBadRequest(err): // it has fields that the target does not know
		return 0, &unrepeatable{err}
	case apierrors.IsInvalid(err):
		return 0, t.holder(ctx, want, err)
	case err != nil:
		return 0, err
	}
	if !t.item.owns && len(t.form.status) == 0 {
		return created, nil
	}
	var made metav1.PartialObjectMetadata
	if err := utiljson.Unmarshal(raw, &made); err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	t.met(made.UID)
	return created, t.writeStatus(ctx, &made)
}

// post makes the object. An API server holds up each POST of a custom resource for two seconds while the kind's
// CRD is younger than that, but no apply; one without force changes nothing that somebody else made meanwhile.
func (t *attempt) post(ctx context.Context, body []byte, params []string) ([]byte, error) {
	to := t.place(t.item.key, t.version.name)
	if t.item.custom {
		raw, err := t.direct.do(ctx, http.MethodPatch, string(types.ApplyPatchType), to, body, params)
		if err == nil || !strings.Contains(err.Error(), typedPatch) {
			return raw, err
		}
	}
	to.name = ""
	return t.direct.send(ctx, http.MethodPost, to, body, params...)
}

// place is where an object is, in a version.
func (a *site) place(k key, version string) place {
	return place{resource: a.target.gvr(k.GroupKind, version), namespace: k.Namespace, name: k.Name}
}

func (t *attempt) update(ctx context.Context, want, live *unstructured.Unstructured, ours bool) (result, error) {
	now, err := t.write(ctx, want, live)
	if fixed(err) && (ours || t.opts.Existing == Replace) && replaceable(want, live) {
		t.notes = append(t.notes, "it was there and could not be changed; replaced")
		return replaced, t.replace(ctx, want, live)
	}
	if err != nil {
		return 0, err
	}
	same := now.GetResourceVersion() == live.GetResourceVersion()
	if t.dry != nil {
		same = t.dry.stays(now)
	}
	if same {
		t.notes = nil // what differs is what the target makes of it each time
		return t.restoreStatus(ctx, now, unchanged)
	}
	return t.restoreStatus(ctx, now, updated)
}

// typedPatch is in the message for an object that has fields which the kind's schema does not, or cannot
// be merged.
const typedPatch = "failed to create typed patch object"

// write applies the object over what is there. Some objects that an API server accepts cannot be applied,
// such as one with the same variable twice: those are put whole.
func (t *attempt) write(ctx context.Context, want, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if settled, err := t.adopt(ctx, want, live); err != nil || settled {
		return live, err
	}
	out, err := t.api.Apply(ctx, want.GetName(), want, metav1.ApplyOptions{FieldManager: kube.FieldManager, Force: true, DryRun: t.dry.option()})
	if apierrors.IsInvalid(err) {
		out, err = nil, t.holder(ctx, want, err)
	}
	if t.dry.several() && (err == nil || apierrors.IsInvalid(err)) {
		return t.together(ctx, want, out)
	}
	if err == nil || !strings.Contains(err.Error(), typedPatch) {
		return out, err
	}
	refused := err
	want = want.DeepCopy()
	want.SetResourceVersion(live.GetResourceVersion()) // stale, and tried again, where adopt has just written
	out, err = t.api.Update(ctx, want, metav1.UpdateOptions{FieldManager: kube.FieldManager, FieldValidation: metav1.FieldValidationStrict, DryRun: t.dry.option()})
	if apierrors.IsBadRequest(err) { // it has fields that the target does not know
		return nil, &unrepeatable{refused}
	}
	return out, err
}

// together tries, in a dry run, what several writes come to; last is what the last of them alone would make.
func (t *attempt) together(ctx context.Context, want, last *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	all, err := t.dry.together(want, last)
	if err != nil {
		return nil, err
	}
	return t.api.Update(ctx, all, metav1.UpdateOptions{FieldManager: kube.FieldManager, DryRun: t.dry.option()})
}

// adopt makes what Lifeboat set by a POST count as applied by it: what a later apply leaves out would stay
// otherwise. Where the target would leave the object as it is, it does too.
func (t *attempt) adopt(ctx context.Context, want, live *unstructured.Unstructured) (settled bool, err error) {
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(kube.FieldManager), kube.FieldManager)
	if err != nil || patch == nil {
		return false, err
	}
	if t.settled(ctx, want, live) {
		return true, nil
	}
	if _, err = t.api.Patch(ctx, live.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager, DryRun: t.dry.option()}); err != nil {
		return false, fmt.Errorf("taking over its fields: %w", err)
	}
	t.dry.adopts()
	return false, nil
}

// unfence sets going an object at a site that was fenced: the fence's fields are not Lifeboat's applied
// ones, so applying alone would leave some.
func (t *attempt) unfence(ctx context.Context, want *unstructured.Unstructured, patch []byte, err error) (result, error) {
	if err != nil {
		return 0, fmt.Errorf("undoing the fence: %w", err)
	}
	live, err := t.api.Patch(ctx, want.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager, DryRun: t.dry.option()})
	if err != nil {
		return 0, fmt.Errorf("undoing the fence: %w", err)
	}
	if err := t.dry.unfences(live, patch); err != nil {
		return 0, err
	}
	if len(compare(want, live)) == 0 {
		return t.restoreStatus(ctx, live, updated)
	}
	res, err := t.update(ctx, want, live, true)
	return max(res, updated), err
}

// replace deletes an object and makes it anew, once it is gone.
func (t *attempt) replace(ctx context.Context, want, live *unstructured.Unstructured) error {
	made, err := t.rehearse(ctx, want)
	if err != nil {
		return fmt.Errorf("it would have to be made anew, which the target refuses: %w", err)
	}
	if t.dry != nil {
		t.dry.replaces(made)
		t.met(notMadeYet)
		return nil
	}
	uid, policy := live.GetUID(), metav1.DeletePropagationBackground
	switch {
	case t.item.key.GroupKind == statefulKind:
		policy = metav1.DeletePropagationOrphan // the new one takes its pods over, and its claims stay
	case len(podParts(live)) > 0:
		policy = metav1.DeletePropagationForeground // two generations of pods would meet
	}
	err = t.api.Delete(ctx, live.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting it to make it anew: %w", err)
	}
	err = kube.WaitFor(ctx, t.item.key.String()+" to be deleted", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		now, err := t.api.Get(ctx, live.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && now.GetUID() != uid {
			return true, "", nil
		}
		return false, "it is still there", nil
	})
	if err != nil {
		return err
	}
	_, err = t.create(ctx, want)
	return err
}

// fixed says whether the target refuses a change for what the object is, and not for what it should become.
func fixed(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) && strings.Contains(err.Error(), "may not be changed")
}

// rehearse makes an object under another name, without effect, before the one that is there is deleted.
// What would be made is nil where the target cannot say now.
func (t *attempt) rehearse(ctx context.Context, want *unstructured.Unstructured) (made *unstructured.Unstructured, err error) {
	other := want.DeepCopy()
	other.SetName("lifeboat-rehearsal")
	made, err = t.api.Create(ctx, other, metav1.CreateOptions{FieldManager: kube.FieldManager, DryRun: []string{metav1.DryRunAll}})
	if !undryable(err) && (apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)) {
		return nil, err
	}
	if err != nil {
		return nil, nil //nolint:nilerr // anything else may pass
	}
	made.SetName(want.GetName())
	return made, nil
}

// replaceable: deleting some kinds would delete data, or everything in them. A StatefulSet leaves its pods
// to the one that follows it, if that looks for the same.
func replaceable(want, live *unstructured.Unstructured) bool {
	switch keyOf(live).GroupKind {
	case namespaceKind, crdKind, claimKind, volumeKind:
		return false
	case statefulKind:
		return same(dig(want.Object, "spec", "selector"), dig(live.Object, "spec", "selector"))
	}
	return true
}

// restoreStatus puts a status back where nothing has written one yet. What became of the object before is
// what became of it, unless that was nothing.
func (t *attempt) restoreStatus(ctx context.Context, live *unstructured.Unstructured, before result) (result, error) {
	if !t.lacksStatus(live) {
		return before, nil
	}
	return max(before, updated), t.writeStatus(ctx, live)
}

func (t *attempt) lacksStatus(live *unstructured.Unstructured) bool {
	return len(t.form.status) > 0 && t.version.status && len(dig(live.Object, "status")) == 0
}

// writeStatus writes the status, unless the object was changed since it was looked at: whoever did that may
// have written one. Its observedGeneration is carried over where it was up to date.
func (t *attempt) writeStatus(ctx context.Context, live metav1.Object) error {
	if len(t.form.status) == 0 || !t.version.status {
		return nil
	}
	status := mapGeneration(t.form.status, t.form.generation, live.GetGeneration())
	if t.dry != nil {
		t.dry.reports(status)
		return nil
	}
	raw, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": live.GetResourceVersion()},
		"status":   status,
	})
	if err != nil {
		return fmt.Errorf("encoding its status: %w", err)
	}
	to := t.place(t.item.key, t.version.name)
	to.sub = "status"
	_, err = t.direct.patch(ctx, to, raw,
		"fieldManager", kube.FieldManager)
	if err != nil {
		return fmt.Errorf("restoring its status: %w", err)
	}
	return nil
}

// mapGeneration rewrites every observedGeneration that was the object's own at capture.
func mapGeneration(status map[string]any, from, to int64) map[string]any {
	out := (&unstructured.Unstructured{Object: status}).DeepCopy().Object
	rewrite := func(m map[string]any) {
		if m["observedGeneration"] == from {
			m["observedGeneration"] = to
		}
	}
	rewrite(out)
	for _, c := range maps(out, "conditions") {
		rewrite(c)
	}
	return out
}
