package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Entry is something that a recovery point holds at a path.
type Entry struct {
	Path    string    `json:"path"` // state/namespaces/shop/core/secrets/key.json, data/orders/pgdata/PG_VERSION
	Type    string    `json:"type"` // dir, file, symlink …
	Size    uint64    `json:"size,omitempty"`
	Mode    string    `json:"mode,omitempty"`
	ModTime time.Time `json:"modTime,omitzero"`
	Target  string    `json:"target,omitempty"` // of a link
}

// The parts of a recovery point as they are browsed.
const (
	statePart = "state"
	dataPart  = "data"
)

// Browse looks at a path of a recovery point. A directory gives its entries; anything else gives itself,
// and read, which writes its content.
func (o Points) Browse(ctx context.Context, p dr.RecoveryPoint, at string) (entries []Entry, read func(context.Context, io.Writer) error, err error) {
	at = strings.Trim(path.Clean("/"+at), "/")
	part, rest, _ := strings.Cut(at, "/")
	switch part {
	case "":
		entries = append(entries, Entry{Path: statePart, Type: string(repo.DirNode)})
		if len(p.Data) > 0 {
			entries = append(entries, Entry{Path: dataPart, Type: string(repo.DirNode)})
		}
		return entries, nil, nil
	case statePart:
		tree, err := o.stateTree(ctx, p)
		if err != nil {
			return nil, nil, err
		}
		return o.inTree(ctx, tree, statePart, rest)
	case dataPart:
		return o.browseData(ctx, p, rest)
	}
	return nil, nil, noSuchPath(p, at)
}

func (o Points) browseData(ctx context.Context, p dr.RecoveryPoint, rest string) ([]Entry, func(context.Context, io.Writer) error, error) {
	name, below, _ := strings.Cut(rest, "/")
	var entries []Entry
	for _, d := range p.Data {
		if name == "" {
			entries = append(entries, Entry{Path: dataPart + "/" + d.Datastore, Type: string(repo.DirNode), Size: uint64(max(d.Bytes, 0)), ModTime: d.Beacon.Time})
			continue
		}
		if d.Datastore != name {
			continue
		}
		snap, err := o.snapshot(ctx, d.Snapshot)
		if err != nil {
			return nil, nil, fmt.Errorf("read the copy of %s: %w", name, err)
		}
		tree := snap.Tree
		if root, err := o.vault.Repo().Find(ctx, tree, repo.RootName); err == nil && root.Type == repo.DirNode {
			tree = root.Subtree
		}
		return o.inTree(ctx, tree, dataPart+"/"+name, below)
	}
	if name == "" {
		return entries, nil, nil
	}
	return nil, nil, noSuchPath(p, dataPart+"/"+rest)
}

// inTree looks at a path below a tree, which itself is shown below root.
func (o Points) inTree(ctx context.Context, tree repo.ID, root, at string) ([]Entry, func(context.Context, io.Writer) error, error) {
	r := o.vault.Repo()
	if at != "" {
		node, err := r.Find(ctx, tree, at)
		if errors.Is(err, repo.ErrNotFound) {
			return nil, nil, dr.Errorf(dr.ClassUsage, err, "See what is there: browse "+path.Dir(root+"/"+at), "there is no %s/%s in the recovery point", root, at)
		}
		if err != nil {
			return nil, nil, err
		}
		if node.Type != repo.DirNode {
			read := func(ctx context.Context, w io.Writer) error { return r.ReadFile(ctx, node, w) }
			if node.Type != repo.FileNode {
				read = nil
			}
			return []Entry{entryOf(root+"/"+path.Dir(at), node)}, read, nil
		}
		tree, root = node.Subtree, root+"/"+at
	}
	t, err := r.LoadTree(ctx, tree)
	if err != nil {
		return nil, nil, err
	}
	entries := make([]Entry, 0, len(t.Nodes))
	for _, n := range t.Nodes {
		entries = append(entries, entryOf(root, n))
	}
	return entries, nil, nil
}

func entryOf(dir string, n *repo.Node) Entry {
	e := Entry{Path: path.Join(dir, n.Name), Type: string(n.Type), Size: n.Size, Mode: n.Mode.String(), Target: n.LinkTarget}
	if n.ModTime.Unix() > 0 { // documents have none
		e.ModTime = n.ModTime.UTC()
	}
	return e
}

func noSuchPath(p dr.RecoveryPoint, at string) error {
	parts := []string{statePart}
	for _, d := range p.Data {
		parts = append(parts, dataPart+"/"+d.Datastore)
	}
	return dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "It has "+strings.Join(parts, ", ")+".", "recovery point %s has no %q", p.ID, at)
}
