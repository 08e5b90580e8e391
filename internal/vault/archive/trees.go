// Package archive lets drivers keep what they stream in the vault: trees of files, and write-ahead logs.
package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Trees implements driver.Trees in a vault's repository.
type Trees struct{ Repo *repo.Repo }

var _ driver.Trees = Trees{}

// Begin implements driver.Trees.
func (t Trees) Begin(ctx context.Context, from, below string) (driver.Tree, error) {
	saver, err := t.Repo.NewSaver(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin a copy: %w", err)
	}
	n := &tree{repo: t.Repo, saver: saver, began: time.Now(), root: newDir(nil)}
	if from != "" {
		err = n.take(ctx, from, below)
	}
	if err != nil {
		return nil, errors.Join(err, saver.Close(ctx))
	}
	return n, nil
}

// tree is a tree in memory, as far as it was put or looked at: a node for each file, without its content.
type tree struct {
	repo  *repo.Repo
	saver *repo.Saver
	began time.Time
	root  *dir
	files int
	bytes int64
}

// dir is a directory.
type dir struct {
	node    *repo.Node // its own attributes; nil: nobody said
	entries map[string]*repo.Node
	dirs    map[string]*dir
	stored  repo.ID // not zero: what is in it is in the repository, and was not looked at yet
}

func newDir(node *repo.Node) *dir {
	return &dir{node: node, entries: map[string]*repo.Node{}, dirs: map[string]*dir{}}
}

// take begins with a snapshot: what is in its directory becomes what is in the directory below.
func (t *tree) take(ctx context.Context, snapshot, below string) error {
	snap, err := t.repo.LoadSnapshot(ctx, snapshot)
	if errors.Is(err, repo.ErrNotFound) {
		return dr.Errorf(dr.ClassIncomplete, errors.Join(dr.ErrNotFound, err), "Choose another recovery point.", "the vault no longer holds the copy")
	}
	if err != nil {
		return err
	}
	top := newDir(nil)
	top.stored = snap.Tree
	if err := t.look(ctx, top); err != nil {
		return err
	}
	if len(top.dirs) == 1 && len(top.entries) == 0 && top.dirs[repo.RootName] != nil {
		top = top.dirs[repo.RootName]
	}
	below = clean(below)
	if below == "" {
		t.root = top
		return nil
	}
	above, err := t.above(ctx, below, top.node)
	if err != nil {
		return err
	}
	top.node = named(top.node, path.Base(below))
	above.dirs[path.Base(below)] = top
	return nil
}

func named(node *repo.Node, name string) *repo.Node {
	out := &repo.Node{Type: repo.DirNode, Mode: fs.ModeDir | 0o700}
	if node != nil {
		*out = *node
	}
	out.Name = name
	return out
}

// clean returns a path without what would lead anywhere else; "" is the root.
func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// look reads what is in a directory.
func (t *tree) look(ctx context.Context, d *dir) error {
	if d.stored.IsZero() {
		return nil
	}
	in, err := t.repo.LoadTree(ctx, d.stored)
	if err != nil {
		return err
	}
	for _, n := range in.Nodes {
		if n.Type == repo.DirNode {
			sub := newDir(n)
			sub.stored = n.Subtree
			d.dirs[n.Name] = sub
		} else {
			d.entries[n.Name] = n
		}
	}
	d.stored = repo.ID{}
	return nil
}

// above returns the directory that holds a path; missing ones are made, with the owner of like.
func (t *tree) above(ctx context.Context, p string, like *repo.Node) (*dir, error) {
	d := t.root
	for _, name := range strings.Split(p, "/") {
		if err := t.look(ctx, d); err != nil {
			return nil, err
		}
		if p == name {
			break
		}
		_, p, _ = strings.Cut(p, "/")
		sub := d.dirs[name]
		if sub == nil {
			node := &repo.Node{Name: name, Type: repo.DirNode, Mode: fs.ModeDir | 0o700, ModTime: t.began}
			if like != nil {
				node.UID, node.GID = like.UID, like.GID
			}
			sub = newDir(node)
			d.dirs[name] = sub
			delete(d.entries, name)
		}
		d = sub
	}
	return d, nil
}

// find returns the directory of that path; nil when there is none.
func (t *tree) find(ctx context.Context, p string) (*dir, error) {
	d := t.root
	for p != "" {
		if err := t.look(ctx, d); err != nil {
			return nil, err
		}
		var name string
		name, p, _ = strings.Cut(p, "/")
		if d = d.dirs[name]; d == nil {
			return nil, nil
		}
	}
	return d, t.look(ctx, d)
}

// Put implements driver.Tree.
func (t *tree) Put(ctx context.Context, e driver.TreeEntry, content io.Reader) error {
	p := clean(e.Path)
	node := &repo.Node{Name: path.Base(p), Mode: e.Mode, ModTime: e.ModTime, AccessTime: e.ModTime, ChangeTime: e.ModTime, UID: e.UID, GID: e.GID}
	if p == "" {
		node.Name, node.Type = repo.RootName, repo.DirNode
		t.root.node = node
		return nil
	}
	above, err := t.above(ctx, p, node)
	if err != nil {
		return err
	}
	switch {
	case e.Mode.IsDir():
		node.Type = repo.DirNode
		delete(above.entries, node.Name)
		if is := above.dirs[node.Name]; is != nil {
			is.node = node
		} else {
			above.dirs[node.Name] = newDir(node)
		}
		return nil
	case e.Mode&fs.ModeSymlink != 0:
		node.Type, node.LinkTarget = repo.SymlinkNode, e.Link
	case e.Mode.IsRegular():
		node.Type, node.Links = repo.FileNode, 1
		ids, size, err := t.saver.SaveData(ctx, content)
		if err != nil {
			return fmt.Errorf("store %s: %w", p, err)
		}
		node.Content, node.Size = ids, uint64(size)
		t.files++
		t.bytes += size
	default:
		return fmt.Errorf("store %s: it is neither a file nor a directory nor a link, but %v", p, e.Mode)
	}
	delete(above.dirs, node.Name)
	above.entries[node.Name] = node
	return nil
}

// Read implements driver.Tree.
func (t *tree) Read(ctx context.Context, p string) ([]byte, error) {
	p = clean(p)
	dir, name := path.Split(p)
	d, err := t.find(ctx, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	if d == nil || d.entries[name] == nil {
		return nil, fmt.Errorf("%s: %w", p, dr.ErrNotFound)
	}
	if err := t.saver.Flush(ctx); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.repo.ReadFile(ctx, d.entries[name], &out)
	return out.Bytes(), err
}

// Entries implements driver.Tree.
func (t *tree) Entries(ctx context.Context, p string) ([]driver.TreeEntry, error) {
	d, err := t.find(ctx, clean(p))
	if err != nil || d == nil {
		return nil, err
	}
	var out []driver.TreeEntry
	add := func(n *repo.Node) {
		out = append(out, driver.TreeEntry{Path: path.Join(p, n.Name), Mode: n.Mode, ModTime: n.ModTime, UID: n.UID, GID: n.GID, Link: n.LinkTarget})
	}
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		add(d.entries[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.dirs)) {
		add(d.dirs[name].node)
	}
	return out, nil
}

// Remove implements driver.Tree.
func (t *tree) Remove(ctx context.Context, p string) error {
	p = clean(p)
	dir, name := path.Split(p)
	d, err := t.find(ctx, strings.TrimSuffix(dir, "/"))
	if err != nil || d == nil {
		return err
	}
	delete(d.entries, name)
	delete(d.dirs, name)
	return nil
}

// save stores a directory and what is below it.
func (t *tree) save(ctx context.Context, d *dir) (repo.ID, error) {
	if !d.stored.IsZero() {
		return d.stored, nil
	}
	out := &repo.Tree{Nodes: make([]*repo.Node, 0, len(d.entries)+len(d.dirs))}
	for _, n := range d.entries {
		out.Nodes = append(out.Nodes, n)
	}
	for _, sub := range d.dirs {
		id, err := t.save(ctx, sub)
		if err != nil {
			return id, err
		}
		sub.node.Subtree = id
		out.Nodes = append(out.Nodes, sub.node)
	}
	return t.saver.SaveTree(ctx, out)
}

// Save implements driver.Tree.
func (t *tree) Save(ctx context.Context, s driver.TreeLabels) (driver.TreeCopy, error) {
	id, err := t.save(ctx, t.root)
	if err == nil && t.root.node != nil {
		// The root's own attributes are kept as a volume's are.
		node := named(t.root.node, repo.RootName)
		node.Subtree = id
		id, err = t.saver.SaveTree(ctx, &repo.Tree{Nodes: []*repo.Node{node}})
	}
	if err != nil {
		return driver.TreeCopy{}, err
	}
	snap := repo.Snapshot{Time: s.Time, Tree: id, Hostname: s.Host, Paths: []string{"/"}}
	for _, label := range slices.Sorted(maps.Keys(s.Labels)) {
		snap.Tags = append(snap.Tags, label+"="+s.Labels[label])
	}
	saved, err := t.saver.SaveSnapshot(ctx, snap)
	if err != nil {
		return driver.TreeCopy{}, err
	}
	return driver.TreeCopy{Snapshot: saved.String(), Bytes: t.bytes, StoredBytes: t.saver.Stats().StoredBytes, Files: t.files}, nil
}

// Close implements driver.Tree.
func (t *tree) Close(ctx context.Context) error { return t.saver.Close(ctx) }
