package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Differences are how two states of an application differ.
type Differences struct {
	Before  string        `json:"before"` // ids of recovery points, or "site NAME"
	After   string        `json:"after"`
	Objects []diff.Object `json:"objects"`
	// Missing names what could not be read at a live site: of these nothing is known.
	Missing []string `json:"missing,omitempty"`
}

// inMemory takes what a capture reads and keeps it.
type inMemory struct {
	mu   sync.Mutex
	docs map[string][]byte
}

// Put implements capture.Sink.
func (m *inMemory) Put(_ context.Context, path string, doc []byte) (changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.docs[path] = bytes.Clone(doc)
	return true, nil
}

// Delete implements capture.Sink.
func (m *inMemory) Delete(_ context.Context, path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs, path)
	return nil
}

// pair is a document of two states; nil where it is not in one of them.
type pair struct {
	path          string
	before, after *repo.Node
}

// Diff compares two recovery points. Only what differs is read.
func (o Points) Diff(ctx context.Context, a, b dr.RecoveryPoint, only dr.Selector, opts diff.Options) (*Differences, error) {
	match, err := edit.NewMatcher(only)
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "", "cannot choose objects")
	}
	before, err := o.stateTree(ctx, a)
	if err != nil {
		return nil, err
	}
	after, err := o.stateTree(ctx, b)
	if err != nil {
		return nil, err
	}
	r := o.vault.Repo()
	var pairs []pair
	if err := unequal(ctx, r, &before, &after, "", &pairs); err != nil {
		return nil, fmt.Errorf("compare recovery points %s and %s: %w", a.ID, b.ID, err)
	}
	d := &Differences{Before: a.ID, After: b.ID}
	for _, p := range pairs {
		old, err := load(ctx, r, p.before)
		if err != nil {
			return nil, fmt.Errorf("read %s of recovery point %s: %w", p.path, a.ID, err)
		}
		now, err := load(ctx, r, p.after)
		if err != nil {
			return nil, fmt.Errorf("read %s of recovery point %s: %w", p.path, b.ID, err)
		}
		if err := d.add(p.path, old, now, match, opts); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// DiffLive compares a recovery point with what is at a site now.
func (o Points) DiffLive(ctx context.Context, p dr.RecoveryPoint, site string, only dr.Selector, opts diff.Options) (*Differences, error) {
	match, err := edit.NewMatcher(only)
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "", "cannot choose objects")
	}
	client, err := o.connect(ctx, site)
	if err != nil {
		return nil, err
	}
	live := &inMemory{docs: map[string][]byte{}}
	found, err := capture.Run(ctx, client, capture.Scope{Application: o.app.Name, Namespaces: o.app.Namespaces}, live)
	if err != nil {
		return nil, fmt.Errorf("read %s at %s: %w", o.app.Name, site, err)
	}
	tree, err := o.stateTree(ctx, p)
	if err != nil {
		return nil, err
	}
	captured := map[string][]byte{}
	err = o.vault.Repo().WalkDocuments(ctx, tree, func(path string, doc []byte) error {
		captured[path] = slices.Clone(doc)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read recovery point %s: %w", p.ID, err)
	}
	d := &Differences{Before: p.ID, After: "site " + site, Missing: found.Missing}
	paths := make([]string, 0, len(captured)+len(live.docs))
	for path := range captured {
		paths = append(paths, path)
	}
	for path := range live.docs {
		if _, both := captured[path]; !both {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		if bytes.Equal(captured[path], live.docs[path]) {
			continue
		}
		if err := d.add(path, captured[path], live.docs[path], match, opts); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// add notes how one document differs; nil: it is not there.
func (d *Differences) add(path string, before, after []byte, only *edit.Matcher, opts diff.Options) error {
	if _, _, _, ok := document(path); !ok {
		return nil // the description of the checkpoint itself
	}
	old, err := parse(before)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	now, err := parse(after)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	named := old
	if now != nil {
		named = now
	}
	u := &unstructured.Unstructured{Object: named}
	o := diff.Object{Object: kube.Name(u), Op: diff.Changed}
	if !only.Matches(u.GroupVersionKind().GroupKind(), u.GetNamespace(), u.GetName(), u.GetLabels()) {
		return nil
	}
	switch {
	case old == nil:
		o.Op = diff.Added
	case now == nil:
		o.Op = diff.Removed
	default:
		opts.Without = kube.Marks()
		if o.Fields = diff.Fields(old, now, opts); len(o.Fields) == 0 {
			return nil
		}
	}
	d.Objects = append(d.Objects, o)
	return nil
}

// unequal collects the documents that two trees do not share; equal subtrees are not even read.
func unequal(ctx context.Context, r *repo.Repo, a, b *repo.ID, above string, out *[]pair) error {
	before, err := nodes(ctx, r, a)
	if err != nil {
		return err
	}
	after, err := nodes(ctx, r, b)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(before)+len(after))
	for name := range before {
		names = append(names, name)
	}
	for name := range after {
		if before[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		x, y := before[name], after[name]
		path := strings.TrimPrefix(above+"/"+name, "/")
		if x.isDir() || y.isDir() {
			if x.isDir() && y.isDir() && x.Subtree == y.Subtree {
				continue
			}
			if err := unequal(ctx, r, x.subtree(), y.subtree(), path, out); err != nil {
				return err
			}
			continue
		}
		if x != nil && y != nil && slices.Equal(x.Content, y.Content) {
			continue
		}
		p := pair{path: path}
		if x != nil {
			p.before = &x.Node
		}
		if y != nil {
			p.after = &y.Node
		}
		*out = append(*out, p)
	}
	return nil
}

// node is a node that may not be there.
type node struct{ repo.Node }

func (n *node) isDir() bool { return n != nil && n.Type == repo.DirNode }

func (n *node) subtree() *repo.ID {
	if !n.isDir() {
		return nil
	}
	return &n.Subtree
}

func nodes(ctx context.Context, r *repo.Repo, tree *repo.ID) (map[string]*node, error) {
	if tree == nil {
		return nil, nil
	}
	t, err := r.LoadTree(ctx, *tree)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*node, len(t.Nodes))
	for _, n := range t.Nodes {
		out[n.Name] = &node{*n}
	}
	return out, nil
}

func load(ctx context.Context, r *repo.Repo, n *repo.Node) ([]byte, error) {
	if n == nil {
		return nil, nil
	}
	var b bytes.Buffer
	err := r.ReadFile(ctx, n, &b)
	return b.Bytes(), err
}

// parse reads an object as a checkpoint has it.
func parse(doc []byte) (map[string]any, error) {
	if doc == nil {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("not a document of a checkpoint: %w", err)
	}
	return m, nil
}
