package repo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
)

// A directory with more documents than dirLimit has them in fanout directories below it, by a digit of the
// SHA-256 of their names, and so on: ~0 to ~7. A change then rewrites a few small trees, not one that names
// thousands of documents. How a directory is cut depends on the names in it alone.
const (
	dirLimit = 32
	fanout   = 8
)

// DocumentTree is a tree of documents in memory: where each is in the repository and how long it is, about
// 120 bytes a document. It is changed document by document, and saving it writes what changed. Its methods
// may be called at the same time.
type DocumentTree struct {
	mu    sync.Mutex
	root  *documentDir
	count int
}

// NewDocumentTree returns a tree without documents.
func NewDocumentTree() *DocumentTree { return &DocumentTree{root: &documentDir{}} }

// documentDir is a directory: those below it, and its documents.
type documentDir struct {
	dirs  map[string]*documentDir
	files bucket
	saved ID // zero: it changed since
}

// bucket is the documents of a directory, or a part of them.
type bucket struct {
	count int
	files []documentFile // ordered by name; none where it is cut
	parts *[fanout]*bucket
	saved ID // of a part: its tree; zero: it changed since
}

type documentFile struct {
	name    string
	content ID
	more    *[]ID // of a document in several blobs: all of them
	size    int64
}

// digit says which part of a cut directory a document is in, at some depth.
func digit(hash *ID, depth int) int { return int(hash[depth]) % fanout }

// partName is the name of a part's directory. No document's directory may be called so.
func partName(i int) string { return "~" + string(rune('0'+i)) }

func isPart(name string) bool {
	return len(name) == 2 && name[0] == '~' && name[1] >= '0' && name[1] < '0'+fanout
}

// Len is the number of documents.
func (t *DocumentTree) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Put stores a document, in the place of one that has its path, and says whether it differs from that one.
// The same content is not stored again. After an error of the saver the tree may name what is not in the
// repository, and has to be loaded anew.
func (t *DocumentTree) Put(ctx context.Context, s *Saver, p string, data []byte) (changed bool, err error) {
	if err := checkDocumentPath(p); err != nil {
		return false, err
	}
	f := documentFile{size: int64(len(data))}
	if len(data) <= minChunk {
		f.content = hash(data)
		if is, ok := t.find(p); ok && is.same(f) {
			return false, nil
		}
		if len(data) > 0 {
			err = s.saveHashed(ctx, DataBlob, f.content, data)
		}
	} else {
		f.content, f.more, err = s.largeDocument(ctx, data)
	}
	if err != nil {
		return false, fmt.Errorf("save document %s: %w", p, err)
	}
	return t.put(p, f), nil
}

// Holds says whether a document is there with this content, as far as can be told without storing it.
func (t *DocumentTree) Holds(p string, data []byte) bool {
	is, ok := t.find(p)
	return ok && len(data) <= minChunk && is.same(documentFile{content: hash(data), size: int64(len(data))})
}

func (f documentFile) same(g documentFile) bool {
	if f.more != nil && g.more != nil {
		return slices.Equal(*f.more, *g.more)
	}
	return f.more == nil && g.more == nil && f.content == g.content && f.size == g.size
}

func checkDocumentPath(p string) error {
	if p == "" || p == "." || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return fmt.Errorf("document path %q is not a clean relative path", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if isPart(name) {
			return fmt.Errorf("document path %q: the name %s is taken", p, name)
		}
	}
	return nil
}

func (t *DocumentTree) find(p string) (documentFile, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, name := t.root, p
	for {
		first, rest, below := strings.Cut(name, "/")
		if !below {
			return dir.files.find(name)
		}
		if dir = dir.dirs[first]; dir == nil {
			return documentFile{}, false
		}
		name = rest
	}
}

// put enters a document, and says whether it differs from what was there.
func (t *DocumentTree) put(p string, f documentFile) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	dirs := []*documentDir{t.root}
	name := p
	for {
		first, rest, below := strings.Cut(name, "/")
		if !below {
			break
		}
		dir := dirs[len(dirs)-1]
		next := dir.dirs[first]
		if next == nil {
			if dir.dirs == nil {
				dir.dirs = map[string]*documentDir{}
			}
			next = &documentDir{}
			dir.dirs[strings.Clone(first)] = next
		}
		dirs, name = append(dirs, next), rest
	}
	dir := dirs[len(dirs)-1]
	if is, ok := dir.files.find(name); ok && is.same(f) {
		return false
	}
	f.name = strings.Clone(name) // the path it is a part of must not stay in memory
	h := nameHash(name)
	if dir.files.put(f, &h, 0) {
		t.count++
	}
	for _, d := range dirs {
		d.saved = ID{}
	}
	return true
}

// Delete takes a document out, and says whether it was there. Directories that are left empty go too.
func (t *DocumentTree) Delete(p string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.root.remove(p) {
		return false
	}
	t.count--
	return true
}

func (d *documentDir) remove(p string) bool {
	first, rest, below := strings.Cut(p, "/")
	if !below {
		h := nameHash(p)
		if !d.files.remove(p, &h, 0) {
			return false
		}
		d.saved = ID{}
		return true
	}
	next := d.dirs[first]
	if next == nil || !next.remove(rest) {
		return false
	}
	if len(next.dirs) == 0 && next.files.count == 0 {
		delete(d.dirs, first)
	}
	d.saved = ID{}
	return true
}

// Paths yields the paths of all documents, as they are when it begins.
func (t *DocumentTree) Paths() iter.Seq[string] {
	t.mu.Lock()
	defer t.mu.Unlock()
	paths := make([]string, 0, t.count)
	t.root.paths("", func(p string) { paths = append(paths, p) })
	return slices.Values(paths)
}

func (d *documentDir) paths(above string, fn func(string)) {
	d.files.each(func(f documentFile) { fn(path.Join(above, f.name)) })
	for name, below := range d.dirs {
		below.paths(path.Join(above, name), fn)
	}
}

func nameHash(name string) ID { return sha256.Sum256([]byte(name)) }

func compareName(f documentFile, name string) int { return strings.Compare(f.name, name) }

func (b *bucket) find(name string) (documentFile, bool) {
	if b.parts != nil {
		h := nameHash(name)
		for depth := 0; b.parts != nil; depth++ {
			if b = b.parts[digit(&h, depth)]; b == nil {
				return documentFile{}, false
			}
		}
	}
	i, ok := slices.BinarySearchFunc(b.files, name, compareName)
	if !ok {
		return documentFile{}, false
	}
	return b.files[i], true
}

// put enters a document and says whether its name is new.
func (b *bucket) put(f documentFile, h *ID, depth int) bool {
	b.saved = ID{}
	if b.parts != nil {
		fresh := b.part(digit(h, depth)).put(f, h, depth+1)
		if fresh {
			b.count++
		}
		return fresh
	}
	i, ok := slices.BinarySearchFunc(b.files, f.name, compareName)
	if ok {
		b.files[i] = f
		return false
	}
	b.files = slices.Insert(b.files, i, f)
	b.count++
	if b.count > dirLimit && depth < len(h) {
		b.cut(depth)
	}
	return true
}

func (b *bucket) part(i int) *bucket {
	if b.parts[i] == nil {
		b.parts[i] = &bucket{}
	}
	return b.parts[i]
}

func (b *bucket) cut(depth int) {
	files := b.files
	b.files, b.parts = nil, &[fanout]*bucket{}
	for _, f := range files {
		h := nameHash(f.name)
		b.part(digit(&h, depth)).put(f, &h, depth+1)
	}
}

// remove takes a document out and says whether it was there.
func (b *bucket) remove(name string, h *ID, depth int) bool {
	if b.parts == nil {
		i, ok := slices.BinarySearchFunc(b.files, name, compareName)
		if ok {
			b.files = slices.Delete(b.files, i, i+1)
			b.count--
			b.saved = ID{}
		}
		return ok
	}
	i := digit(h, depth)
	if b.parts[i] == nil || !b.parts[i].remove(name, h, depth+1) {
		return false
	}
	if b.parts[i].count == 0 {
		b.parts[i] = nil
	}
	b.count--
	b.saved = ID{}
	if b.count <= dirLimit {
		files := make([]documentFile, 0, b.count)
		b.each(func(f documentFile) { files = append(files, f) })
		slices.SortFunc(files, func(a, b documentFile) int { return strings.Compare(a.name, b.name) })
		b.files, b.parts = files, nil
	}
	return true
}

func (b *bucket) each(fn func(documentFile)) {
	for _, f := range b.files {
		fn(f)
	}
	if b.parts != nil {
		for _, p := range b.parts {
			if p != nil {
				p.each(fn)
			}
		}
	}
}
