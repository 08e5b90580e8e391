package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// NodeType is what a node of a tree is.
type NodeType string

// The types that we write; other programs may write more (devices, sockets, pipes).
const (
	FileNode    NodeType = "file"
	DirNode     NodeType = "dir"
	SymlinkNode NodeType = "symlink"
)

// Tree is a directory.
type Tree struct {
	Nodes []*Node `json:"nodes"` // sorted by name
}

// Node is an entry of a directory.
type Node struct {
	Name       string
	Type       NodeType
	Mode       os.FileMode
	ModTime    time.Time
	AccessTime time.Time
	ChangeTime time.Time
	UID, GID   uint32
	User       string
	Group      string
	Inode      uint64
	DeviceID   uint64
	Size       uint64
	Links      uint64
	LinkTarget string
	Xattrs     []Xattr
	Content    []ID // of a file
	Subtree    ID   // of a directory
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// nodeJSON is a Node as the format stores it: names are escaped like Go strings, because JSON cannot
// hold bytes that are no UTF-8.
type nodeJSON struct {
	Name          string      `json:"name"`
	Type          NodeType    `json:"type"`
	Mode          os.FileMode `json:"mode,omitempty"`
	ModTime       time.Time   `json:"mtime"`
	AccessTime    time.Time   `json:"atime"`
	ChangeTime    time.Time   `json:"ctime"`
	UID           uint32      `json:"uid"`
	GID           uint32      `json:"gid"`
	User          string      `json:"user,omitempty"`
	Group         string      `json:"group,omitempty"`
	Inode         uint64      `json:"inode,omitempty"`
	DeviceID      uint64      `json:"device_id,omitempty"`
	Size          uint64      `json:"size,omitempty"`
	Links         uint64      `json:"links,omitempty"`
	LinkTarget    string      `json:"linktarget,omitempty"`
	LinkTargetRaw []byte      `json:"linktarget_raw,omitempty"`
	Xattrs        []Xattr     `json:"extended_attributes,omitempty"`
	Content       []ID        `json:"content"`
	Subtree       *ID         `json:"subtree,omitempty"`
}

// MarshalJSON writes the format's form.
func (n *Node) MarshalJSON() ([]byte, error) {
	quoted := strconv.Quote(n.Name)
	j := nodeJSON{
		Name: quoted[1 : len(quoted)-1], Type: n.Type, Mode: n.Mode,
		ModTime: jsonTime(n.ModTime), AccessTime: jsonTime(n.AccessTime), ChangeTime: jsonTime(n.ChangeTime),
		UID: n.UID, GID: n.GID, User: n.User, Group: n.Group, Inode: n.Inode, DeviceID: n.DeviceID,
		Size: n.Size, Links: n.Links, LinkTarget: n.LinkTarget, Xattrs: n.Xattrs, Content: n.Content,
	}
	if !utf8.ValidString(n.LinkTarget) {
		j.LinkTargetRaw = []byte(n.LinkTarget)
	}
	if n.Type == FileNode && j.Content == nil {
		j.Content = []ID{}
	}
	if !n.Subtree.IsZero() {
		j.Subtree = &n.Subtree
	}
	return json.Marshal(j)
}

// jsonTime keeps within the years that JSON times can say.
func jsonTime(t time.Time) time.Time {
	if y := t.Year(); y < 0 || y > 9999 {
		return time.Date(min(max(y, 0), 9999), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	}
	return t
}

// UnmarshalJSON reads the format's form.
func (n *Node) UnmarshalJSON(b []byte) error {
	var j nodeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	name, err := strconv.Unquote(`"` + j.Name + `"`)
	if err != nil {
		return fmt.Errorf("node %q: %w", j.Name, err)
	}
	*n = Node{
		Name: name, Type: j.Type, Mode: j.Mode, ModTime: j.ModTime, AccessTime: j.AccessTime, ChangeTime: j.ChangeTime,
		UID: j.UID, GID: j.GID, User: j.User, Group: j.Group, Inode: j.Inode, DeviceID: j.DeviceID,
		Size: j.Size, Links: j.Links, LinkTarget: j.LinkTarget, Xattrs: j.Xattrs, Content: j.Content,
	}
	if j.LinkTargetRaw != nil {
		n.LinkTarget = string(j.LinkTargetRaw)
	}
	if j.Subtree != nil {
		n.Subtree = *j.Subtree
	}
	return nil
}

// checkName refuses names that could lead out of their directory.
func (n *Node) checkName() error {
	if n.Name == "" || n.Name == "." || n.Name == ".." || strings.ContainsAny(n.Name, "/\x00") {
		return fmt.Errorf("%w: a node is named %q", ErrDamaged, n.Name)
	}
	return nil
}

// SaveTree stores a directory; its nodes are sorted first.
func (s *Saver) SaveTree(ctx context.Context, t *Tree) (ID, error) {
	slices.SortFunc(t.Nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	for i, n := range t.Nodes {
		if err := n.checkName(); err != nil {
			return ID{}, err
		}
		if i > 0 && t.Nodes[i-1].Name == n.Name {
			return ID{}, fmt.Errorf("two nodes of a tree are named %q", n.Name)
		}
	}
	if t.Nodes == nil {
		t.Nodes = []*Node{}
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return ID{}, err
	}
	return s.saveSmall(ctx, TreeBlob, append(raw, '\n'))
}

// LoadTree reads a directory. Error: ErrNotFound.
func (r *Repo) LoadTree(ctx context.Context, id ID) (*Tree, error) {
	raw, err := r.LoadBlob(ctx, TreeBlob, id)
	if err != nil {
		return nil, err
	}
	return parseTree(id, raw)
}

func parseTree(id ID, raw []byte) (*Tree, error) {
	t := &Tree{}
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("tree %s: %w: %w", id.short(), ErrDamaged, err)
	}
	for _, n := range t.Nodes {
		if n == nil {
			return nil, fmt.Errorf("tree %s: %w: null node", id.short(), ErrDamaged)
		}
		if err := n.checkName(); err != nil {
			return nil, fmt.Errorf("tree %s: %w", id.short(), err)
		}
	}
	return t, nil
}

// Find returns the node at a path below a tree: "var/lib/data". A directory of documents that is cut is
// looked at as a whole. Error: ErrNotFound.
func (r *Repo) Find(ctx context.Context, tree ID, p string) (*Node, error) {
	names := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	for i, name := range names {
		n, err := findIn(ctx, r, tree, name, 0)
		if err != nil {
			return nil, err
		}
		if n == nil {
			break
		}
		if i == len(names)-1 {
			return n, nil
		}
		if n.Type != DirNode {
			break
		}
		tree = n.Subtree
	}
	return nil, fmt.Errorf("path %s: %w", p, ErrNotFound)
}

// findIn returns a node of a directory, or of the part of it at some depth that holds its name; nil when
// there is none.
func findIn(ctx context.Context, r *Repo, tree ID, name string, depth int) (*Node, error) {
	t, err := r.LoadTree(ctx, tree)
	if err != nil {
		return nil, err
	}
	h := nameHash(name)
	for _, look := range []string{name, partName(digit(&h, depth))} {
		at := slices.IndexFunc(t.Nodes, func(n *Node) bool { return n.Name == look })
		switch {
		case at < 0:
		case look == name:
			return t.Nodes[at], nil
		case t.Nodes[at].Type == DirNode && depth < len(h)-1:
			return findIn(ctx, r, t.Nodes[at].Subtree, name, depth+1)
		}
	}
	return nil, nil
}
