package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Points looks into an application's recovery points.
type Points struct{ *Operation }

// PointStatus is a recovery point and what can be said of it without reading what it holds.
type PointStatus struct {
	dr.RecoveryPoint
	AgeSeconds  float64  `json:"ageSeconds"`
	Lacks       []string `json:"lacks,omitempty"` // what it would need to bring the whole application back
	DataBytes   int64    `json:"dataBytes"`
	StoredBytes int64    `json:"storedBytes"` // what it added to the vault
}

// List returns the application's recovery points, newest first.
func (o Points) List(ctx context.Context) ([]PointStatus, error) {
	points, err := o.vault.Points(ctx, o.app.Name)
	if err != nil {
		return nil, err
	}
	out := make([]PointStatus, 0, len(points))
	for _, p := range slices.Backward(points) {
		out = append(out, o.pointStatus(p))
	}
	return out, nil
}

func (o Points) pointStatus(p dr.RecoveryPoint) PointStatus {
	s := PointStatus{RecoveryPoint: p, AgeSeconds: time.Since(p.Time).Seconds(), Lacks: slices.Clone(p.Missing)}
	for _, d := range p.Data {
		s.DataBytes += d.Bytes
		s.StoredBytes += d.StoredBytes
	}
	for _, ds := range o.app.Data {
		if !slices.ContainsFunc(p.Data, func(d dr.DataPoint) bool { return d.Datastore == ds.Name }) {
			s.Lacks = append(s.Lacks, "datastore "+ds.Name)
		}
	}
	return s
}

// Choose finds the recovery point that is meant; notes say which it is and what speaks against it.
func (o Points) Choose(ctx context.Context, ref plan.PointRef) (p PointStatus, notes []string, err error) {
	points, err := o.vault.Points(ctx, o.app.Name)
	if err != nil {
		return PointStatus{}, nil, err
	}
	chosen, notes, err := plan.Choose(o.factsOf(points), plan.Request{Point: ref})
	if err != nil {
		return PointStatus{}, nil, err
	}
	return o.pointStatus(chosen.RecoveryPoint), notes, nil
}

func (o Points) factsOf(points []dr.RecoveryPoint) plan.Facts {
	f := plan.Facts{Application: *o.app}
	for _, p := range points {
		f.Points = append(f.Points, plan.Point{RecoveryPoint: p, Age: time.Since(p.Time)})
	}
	return f
}

// KindCount is how many objects of a kind a checkpoint holds in a namespace.
type KindCount struct {
	Namespace string   `json:"namespace,omitempty"` // empty: cluster-scoped
	Kind      string   `json:"kind"`                // plural, with its group: deployments.apps
	Names     []string `json:"names"`
}

// Objects lists what a recovery point's checkpoint holds, by namespace and kind.
func (o Points) Objects(ctx context.Context, p dr.RecoveryPoint) ([]KindCount, error) {
	tree, err := o.stateTree(ctx, p)
	if err != nil {
		return nil, err
	}
	var out []KindCount
	err = walk(ctx, o.vault.Repo(), tree, "", func(path string, _ *repo.Node) error {
		ns, kind, name, ok := document(path)
		if !ok {
			return nil // meta.json
		}
		if n := len(out); n == 0 || out[n-1].Namespace != ns || out[n-1].Kind != kind {
			out = append(out, KindCount{Namespace: ns, Kind: kind})
		}
		last := &out[len(out)-1]
		last.Names = append(last.Names, name)
		return nil
	})
	return out, err
}

// document reads an object's place in a checkpoint: namespaces/NS/GROUP/RESOURCE/NAME.json, or
// cluster/GROUP/RESOURCE/NAME.json.
func document(path string) (namespace, kind, name string, ok bool) {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 5 && parts[0] == "namespaces":
		namespace, parts = parts[1], parts[2:]
	case len(parts) == 4 && parts[0] == "cluster":
		parts = parts[1:]
	default:
		return "", "", "", false
	}
	kind = parts[1] + "." + parts[0]
	if parts[0] == "core" {
		kind = parts[1]
	}
	return namespace, kind, strings.TrimSuffix(parts[2], ".json"), true
}

func (o Points) stateTree(ctx context.Context, p dr.RecoveryPoint) (repo.ID, error) {
	snap, err := o.snapshot(ctx, p.Checkpoint)
	if err != nil {
		return repo.ID{}, fmt.Errorf("read the checkpoint of recovery point %s: %w", p.ID, err)
	}
	return snap.Tree, nil
}

func (o Points) snapshot(ctx context.Context, id string) (repo.Snapshot, error) {
	snap, err := o.vault.Repo().LoadSnapshot(ctx, id)
	if errors.Is(err, repo.ErrNotFound) {
		return snap, dr.Errorf(dr.ClassIncomplete, err, "Choose another recovery point: lifeboat points list "+o.app.Name,
			"the vault no longer holds snapshot %s", id)
	}
	return snap, err
}

// walk calls fn for each file below a tree, in order of path.
func walk(ctx context.Context, r *repo.Repo, tree repo.ID, above string, fn func(path string, n *repo.Node) error) error {
	t, err := r.LoadTree(ctx, tree)
	if err != nil {
		return fmt.Errorf("read %s/ of the snapshot: %w", above, err)
	}
	for _, n := range t.Nodes {
		path := strings.TrimPrefix(above+"/"+n.Name, "/")
		if n.Type == repo.DirNode {
			err = walk(ctx, r, n.Subtree, path, fn)
		} else {
			err = fn(path, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
