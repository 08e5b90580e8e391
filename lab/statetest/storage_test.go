package statetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/volume"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
)

const claimDoc = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: NAME, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: CLASS, resources: {requests: {storage: 1Gi}}}}`

func claimOf(name, class string) string {
	return strings.NewReplacer("NAME", name, "CLASS", class).Replace(claimDoc)
}

// boundVolume is a volume that was provisioned for a claim, or bound to it by hand.
func boundVolume(name, claim, class, more string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolume, metadata: {name: %s%s}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: %s, persistentVolumeReclaimPolicy: Delete, nfs: {server: nfs.example.com, path: /data},
		claimRef: {namespace: @NS@, name: %s}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [east-1, east-2]}, {key: kubernetes.io/os, operator: In, values: [linux]}]}]}}}}`, name, more, class, claim)
}

// A bound claim is unbound: the target makes a volume of its own, and the old one's name means nothing there.
func TestClaimsAreUnbound(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	_, west := connect(t)
	const ns = "unbound"
	create(t, north, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
`+boundVolume("unbound-pv", "data", "premium-east", "")+"\n---\n"+claimOf("data", "premium-east")+`
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: by-name, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, volumeName: not-there-yet, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: from-snapshot, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s}, resources: {requests: {storage: 1Gi}}}}`)
	eventually(t, "the claim to be bound", func() (bool, string) { return kube.Ready(get(t, north, ns, "v1/PersistentVolumeClaim/data")) })
	v := moving(t, north, west, ns)
	create(t, west, ns, strings.ReplaceAll(classWest, "standard-west", "standard-unbound"))
	v.opts.To.StorageClasses = map[string]string{"*": "standard-unbound"}
	out := v.apply()
	names(t, out.Skipped, "PersistentVolume unbound-pv", "provisioner")
	for _, name := range []string{"data", "by-name", "from-snapshot"} {
		c := get(t, west, ns, "v1/PersistentVolumeClaim/"+name)
		if c == nil || field(c, "spec.volumeName") != nil || field(c, "spec.dataSource") != nil || field(c, "spec.storageClassName") != "standard-unbound" {
			t.Errorf("claim %s: %v", name, c)
		}
		for a := range c.GetAnnotations() {
			if strings.HasPrefix(a, "pv.kubernetes.io/") || strings.HasPrefix(a, "volume.kubernetes.io/") {
				t.Errorf("claim %s has annotation %s", name, a)
			}
		}
	}
	if get(t, west, "", "v1/PersistentVolume/unbound-pv") != nil {
		t.Error("the old site's volume is at the target")
	}
}

// A volume that every site reaches is bound both ways at the target, in a zone of the target, and never
// deleted with its claim there.
func TestVolumeThatEverySiteReaches(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "pinned"
	v := move(t, east, north, ns, emptyNamespace+"---\n"+boundVolume("pinned-pv", "data", "by-hand", ", annotations: {lifeboat.dev/pin: volume}")+`
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, volumeName: pinned-pv, resources: {requests: {storage: 1Gi}}}}`)
	v.opts.To.Zones = map[string]string{"east-1": "north-a"}
	out := v.apply()
	eventually(t, "the claim to be bound", func() (bool, string) { return kube.Ready(get(t, north, ns, "v1/PersistentVolumeClaim/data")) })
	pv := get(t, north, "", "v1/PersistentVolume/pinned-pv")
	if field(pv, "spec.claimRef.uid") != string(get(t, north, ns, "v1/PersistentVolumeClaim/data").GetUID()) || field(pv, "spec.persistentVolumeReclaimPolicy") != "Retain" {
		t.Errorf("volume %v", pv.Object)
	}
	affinity := fmt.Sprint(field(pv, "spec.nodeAffinity"))
	if !strings.Contains(affinity, "north-a") || strings.Contains(affinity, "east-") || !strings.Contains(affinity, "linux") {
		t.Errorf("affinity %s", affinity)
	}
	names(t, out.Notes, "PersistentVolume pinned-pv", "zone", "north-a")
	v.twice()
	v.verify()

	// Where nothing is known of the zones, the demand is dropped, and said so.
	const other = "pinned-nowhere"
	w := move(t, east, north, other, emptyNamespace+"---\n"+boundVolume("pinned-nowhere-pv", "data", "by-hand", ", annotations: {lifeboat.dev/pin: volume}")+`
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, volumeName: pinned-nowhere-pv, resources: {requests: {storage: 1Gi}}}}`)
	out = w.apply()
	names(t, out.Notes, "PersistentVolume pinned-nowhere-pv", "zone", "dropped")
	if got := fmt.Sprint(field(get(t, north, "", "v1/PersistentVolume/pinned-nowhere-pv"), "spec.nodeAffinity")); strings.Contains(got, "zone") || !strings.Contains(got, "linux") {
		t.Errorf("affinity %s", got)
	}
}

// A class that the target does not have stops the restore, wherever it is named, unless it is mapped.
func TestStorageClassesAreMapped(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "classes"
	v := move(t, east, west, ns, emptyNamespace+"---\n"+claimOf("data", "gold-classes")+"\n---\n"+claimOf("odd", "odd-classes")+`
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: none, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: @NS@}, spec: {serviceName: db, replicas: 0, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: "db:1"}]}},
  volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], storageClassName: silver-classes, resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: old, namespace: @NS@, annotations: {volume.beta.kubernetes.io/storage-class: gold-classes}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`)
	v.opts.To.StorageClasses = nil
	v.blocked("storage class gold-classes does not exist", "PersistentVolumeClaim "+ns+"/data")
	v.blocked("storage class silver-classes does not exist", "StatefulSet "+ns+"/db")
	create(t, west, ns, `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a-classes}, provisioner: dir.example}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: b-classes}, provisioner: dir.example}`)
	v.opts.To.StorageClasses = map[string]string{"gold-classes": "a-classes", "*": "b-classes"}
	v.apply()
	for what, want := range map[string]string{"data": "a-classes", "odd": "b-classes", "none": "", "old": ""} {
		c := get(t, west, ns, "v1/PersistentVolumeClaim/"+what)
		if got, _ := field(c, "spec.storageClassName").(string); got != want {
			t.Errorf("claim %s has class %q, want %q", what, got, want)
		}
		if what == "old" && c.GetAnnotations()["volume.beta.kubernetes.io/storage-class"] != "a-classes" {
			t.Errorf("the old way to name a class: %v", c.GetAnnotations())
		}
	}
}

// Until a restore is verified, the volumes outlive their claims.
func TestVolumesOutliveAnUnverifiedRestore(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "reclaim"
	v := move(t, east, north, ns, emptyNamespace+"---\n"+claimOf("data", "by-reclaim")+"\n---\n"+claimOf("kept", "by-reclaim")+`
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}}}`)
	// The provisioner of the target is a person, who is quick.
	create(t, north, ns, strings.ReplaceAll(classWest, "standard-west", "by-reclaim")+"\n---\n"+boundVolume("reclaim-data", "data", "by-reclaim", "")+"\n---\n"+
		strings.Replace(boundVolume("reclaim-kept", "kept", "by-reclaim", ""), "Policy: Delete", "Policy: Retain", 1))
	v.opts.Stage = dr.StageFoundation
	v.apply()
	bound := func() {
		for _, name := range []string{"data", "kept"} {
			eventually(t, "the claim to be bound", func() (bool, string) { return kube.Ready(get(t, north, ns, "v1/PersistentVolumeClaim/"+name)) })
		}
	}
	bound()
	v.opts.Stage = dr.StageWorkloads
	v.apply()
	policy := func(name string) any {
		return field(get(t, north, "", "v1/PersistentVolume/"+name), "spec.persistentVolumeReclaimPolicy")
	}
	if got := policy("reclaim-data"); got != "Retain" {
		t.Errorf("before the restore is verified: %v", got)
	}
	v.opts.Stage = ""
	if out, err := v.set.AwaitReady(deadline(t), north, v.opts, nil); err != nil || len(out.Problems) > 0 {
		t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	if policy("reclaim-data") != "Delete" || policy("reclaim-kept") != "Retain" {
		t.Errorf("after: %v and %v, want what there was", policy("reclaim-data"), policy("reclaim-kept"))
	}
	if a := get(t, north, "", "v1/PersistentVolume/reclaim-data").GetAnnotations()[kube.AnnotationReclaim]; a != "" {
		t.Errorf("the mark is left: %q", a)
	}
	v.opts.Stage = dr.StageCutover
	v.apply()
	if policy("reclaim-data") != "Delete" {
		t.Error("the cutover, which comes after the verification, holds the volume again")
	}
	v.opts.Stage = ""
	said := map[string][]string{}
	if _, err := v.set.DryRun(deadline(t), north, v.opts, nil, func(f restore.Foreseen) error {
		said[f.Object] = f.Notes
		return nil
	}); err != nil || policy("reclaim-data") != "Delete" {
		t.Errorf("dry run: %v", err)
	}
	if notes := said["PersistentVolumeClaim "+ns+"/data"]; len(notes) == 0 || !strings.Contains(notes[len(notes)-1], "reclaim-data becomes Retain until the restore is verified") {
		t.Errorf("the dry run says of the claim %q", notes)
	}
	// A restore that turns out wrong leaves them retained.
	v.opts.Stage = dr.StageWorkloads
	v.apply()
	patch(t, north, ns, "apps/v1/Deployment/web", "spec: {template: {spec: {terminationGracePeriodSeconds: 77}}}")
	v.opts.Stage = ""
	if out, err := v.set.AwaitReady(deadline(t), north, v.opts, nil); err != nil || len(out.Problems) != 1 {
		t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	if got := policy("reclaim-data"); got != "Retain" {
		t.Errorf("after a restore with a problem: %v", got)
	}
}

// A restore that breaks off before the data is there leaves claims that no backup takes for the truth.
func TestClaimsWhoseDataIsYetToCome(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "awaited"
	v := move(t, east, west, ns, emptyNamespace+"---\n"+claimOf("data", "premium-east")+"\n---\n"+claimOf("cache", "premium-east"))
	create(t, west, ns, strings.ReplaceAll(classWest, "standard-west", "standard-awaited"))
	v.opts.To.StorageClasses = map[string]string{"*": "standard-awaited"}
	v.opts.Data = []dr.VolumeRef{{Namespace: ns, Claim: "data"}}
	v.opts.Stage = dr.StageFoundation
	ctx, kill := context.WithCancelCause(t.Context())
	killed := errors.New("killed")
	out, err := v.set.Apply(ctx, west, v.opts, func(p restore.Progress) {
		if p.Waiting == "" && strings.HasSuffix(p.Object, "/data") {
			kill(killed) // right after the claim was made
		}
	})
	if !errors.Is(err, killed) && err != nil {
		t.Fatalf("%v %q", err, out.Problems)
	}
	mark := func() string {
		return get(t, west, ns, "v1/PersistentVolumeClaim/data").GetAnnotations()[kube.AnnotationRestoring]
	}
	if mark() != "point-1" {
		t.Fatalf("the empty claim is marked %q", mark())
	}
	d := volume.New(west, "mover:1", nil) // it gets no further than to a pod that does not start
	protect := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // there is no node that a mover could run on
		defer cancel()
		_, err := d.Protect(ctx, driver.ProtectRequest{Application: ns, Point: "point-2", Datastore: dr.Datastore{Name: "data", Volume: &dr.VolumeRef{Namespace: ns, Claim: "data"}}})
		return err
	}
	if err := protect(); dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "point-1") {
		t.Errorf("a backup of the empty claim: %v", err)
	}
	// Going on does not lose the mark, and the driver takes it off once the data is there.
	out = v.apply()
	v.twice()
	if mark() != "point-1" {
		t.Errorf("the mark was lost: %q", mark())
	}
	names(t, out.Notes, "PersistentVolumeClaim "+ns+"/cache", "comes back empty")
	patch(t, west, ns, "v1/PersistentVolumeClaim/data", `metadata: {annotations: {lifeboat.dev/restoring: null, lifeboat.dev/restored: "{}"}}`)
	v.opts.Stage = ""
	v.apply()
	if mark() != "" {
		t.Errorf("a claim with its data was marked again: %q", mark())
	}
	v.twice()
	if err := protect(); dr.ClassOf(err) == dr.ClassBlocked {
		t.Errorf("a backup of the claim with its data: %v", err)
	}
	v.verify("PersistentVolumeClaim "+ns+"/cache: Pending", "PersistentVolumeClaim "+ns+"/data: Pending")
}
