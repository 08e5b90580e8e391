package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Save stores what changed of the tree and returns its id, which depends on the paths and contents of its
// documents alone. No document may be put or deleted meanwhile.
func (t *DocumentTree) Save(ctx context.Context, s *Saver) (ID, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, err := t.root.save(ctx, s)
	if err != nil {
		return ID{}, fmt.Errorf("save documents: %w", err)
	}
	return id, nil
}

// save stores a directory after those below it.
func (d *documentDir) save(ctx context.Context, s *Saver) (ID, error) {
	if !d.saved.IsZero() {
		return d.saved, nil
	}
	var tree treeWriter
	names := slices.Sorted(maps.Keys(d.dirs))
	for _, name := range names {
		id, err := d.dirs[name].save(ctx, s)
		if err != nil {
			return ID{}, err
		}
		tree.dirs = append(tree.dirs, treeDir{name, id})
	}
	if err := d.files.save(ctx, s, &tree); err != nil {
		return ID{}, err
	}
	var err error
	d.saved, err = tree.save(ctx, s)
	return d.saved, err
}

// save enters a bucket's documents, or the parts that it is cut into, in the tree that they belong to.
func (b *bucket) save(ctx context.Context, s *Saver, into *treeWriter) error {
	if b.parts == nil {
		into.files = b.files
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, p := range b.parts {
		if p == nil || !p.saved.IsZero() {
			continue
		}
		store := func() (err error) {
			var tree treeWriter
			if err := p.save(ctx, s, &tree); err != nil {
				return err
			}
			p.saved, err = tree.save(ctx, s)
			return err
		}
		if i == fanout-1 || b.count < 512 { // small ones are not worth a goroutine
			if err := store(); err != nil {
				return errorsOf(group, err)
			}
			continue
		}
		group.Go(store)
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, p := range b.parts {
		if p != nil {
			into.dirs = append(into.dirs, treeDir{partName(i), p.saved})
		}
	}
	return nil
}

// errorsOf waits for a group and returns the error that ended it.
func errorsOf(group *errgroup.Group, err error) error {
	_ = group.Wait() // the first error is the one that counts
	return err
}

// treeWriter writes the tree of a directory as SaveTree does, without a Node for each document.
type treeWriter struct {
	dirs  []treeDir
	files []documentFile
}

type treeDir struct {
	name string
	tree ID
}

// The fields of a node that are the same for all, in the order in which Node writes them.
const (
	nodeTimes = `,"mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0`
	dirMode   = uint64(0o700 | fs.ModeDir)
	fileMode  = uint64(0o600)
)

func (w *treeWriter) save(ctx context.Context, s *Saver) (ID, error) {
	slices.SortFunc(w.dirs, func(a, b treeDir) int { return strings.Compare(a.name, b.name) })
	out := make([]byte, 0, 256*(len(w.dirs)+len(w.files))+64)
	out = append(out, `{"nodes":[`...)
	dirs, files := w.dirs, w.files
	for first := true; len(dirs)+len(files) > 0; first = false {
		if !first {
			out = append(out, ',')
		}
		switch {
		case len(files) == 0 || len(dirs) > 0 && dirs[0].name < files[0].name:
			out = appendDirNode(out, dirs[0])
			dirs = dirs[1:]
		case len(dirs) > 0 && dirs[0].name == files[0].name:
			return ID{}, fmt.Errorf("a document and a directory are both named %q", files[0].name)
		default:
			out = appendFileNode(out, files[0])
			files = files[1:]
		}
	}
	out = append(out, "]}\n"...)
	return s.saveSmall(ctx, TreeBlob, out)
}

func appendDirNode(out []byte, d treeDir) []byte {
	out = appendNodeName(out, d.name)
	out = append(out, `,"type":"dir","mode":`...)
	out = strconv.AppendUint(out, dirMode, 10)
	out = append(out, nodeTimes+`,"content":null,"subtree":`...)
	out = appendID(out, d.tree)
	return append(out, '}')
}

func appendFileNode(out []byte, f documentFile) []byte {
	out = appendNodeName(out, f.name)
	out = append(out, `,"type":"file","mode":`...)
	out = strconv.AppendUint(out, fileMode, 10)
	out = append(out, nodeTimes...)
	if f.size > 0 {
		out = append(out, `,"size":`...)
		out = strconv.AppendInt(out, f.size, 10)
	}
	out = append(out, `,"content":[`...)
	for i, id := range f.blobs() {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendID(out, id)
	}
	return append(out, "]}"...)
}

// blobs are what a document consists of.
func (f documentFile) blobs() []ID {
	switch {
	case f.more != nil:
		return *f.more
	case f.size == 0:
		return nil
	}
	return []ID{f.content}
}

// appendNodeName writes the beginning of a node. Names are escaped twice, once by the format and once as
// JSON; most need neither.
func appendNodeName(out []byte, name string) []byte {
	out = append(out, `{"name":`...)
	for _, c := range []byte(name) {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			escaped, _ := json.Marshal(strconv.Quote(name)[1 : len(strconv.Quote(name))-1]) // a string can always be encoded
			return append(out, escaped...)
		}
	}
	out = append(out, '"')
	out = append(out, name...)
	return append(out, '"')
}

func appendID(out []byte, id ID) []byte {
	out = append(out, '"')
	out = hex.AppendEncode(out, id[:])
	return append(out, '"')
}
