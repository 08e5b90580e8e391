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
)

// NodeType is what a node of a tree is.
type NodeType string

// The types.
const (
	FileNode       NodeType = "file"
	DirNode        NodeType = "dir"
	SymlinkNode    NodeType = "symlink"
	FifoNode       NodeType = "fifo"
	DeviceNode     NodeType = "dev" // a block device
	CharDeviceNode NodeType = "chardev"
	SocketNode     NodeType = "socket"
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
	Device     uint64 // of a device: its number
	Xattrs     []Xattr
	Content    []ID // of a file
	Subtree    ID   // of a directory
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// nodeJSON is a Node as the format stores it.
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
	Device        uint64      `json:"device,omitempty"`
	Content       []ID        `json:"content"`
	Subtree       *ID         `json:"subtree,omitempty"`
}

// MarshalJSON writes the format's form.
func (n *Node) MarshalJSON() ([]byte, error) { return appendNode(nil, n), nil }

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
		Size: j.Size, Links: j.Links, LinkTarget: j.LinkTarget, Xattrs: j.Xattrs, Device: j.Device, Content: j.Content,
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
	var w nodeWriter
	for _, n := range t.Nodes {
		if err := w.add(n); err != nil {
			return ID{}, err
		}
	}
	return s.saveSmall(ctx, TreeBlob, w.finish())
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
	in, err := newTreeReader(id, raw)
	if err != nil {
		return nil, err
	}
	t := &Tree{}
	for {
		n, err := in.next()
		if err != nil {
			return nil, err
		}
		if n == nil {
			return t, nil
		}
		t.Nodes = append(t.Nodes, n)
	}
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
