package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Names that objects cannot have, because CheckName refuses a leading dot.
const (
	tempDir  = ".tmp"
	lockFile = ".lock"
)

// File is a Store in a directory. Objects are plain files (0600) in plain directories (0700), written
// beside and linked or renamed into place, so that a crash leaves the old object, the new one or none.
// Replacing is serialized by flock(2), which also holds between machines on NFS version 4.
type File struct {
	dir      string
	identity fs.FileInfo   // of dir when it was opened
	turn     chan struct{} // held by the goroutine that may take the lock file
}

// OpenFile opens the store in an existing directory.
func OpenFile(dir string) (*File, error) {
	dir = filepath.Clean(dir)
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", dirError(dir, err))
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open store: %s: %w", dir, ErrNotDirectory)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", dirError(dir, err))
	}
	f := &File{dir: dir, identity: info, turn: make(chan struct{}, 1)}
	f.sweep()
	return f, nil
}

// CreateFile is OpenFile for a directory that may not be there yet; its parent must be.
func CreateFile(dir string) (*File, error) {
	dir = filepath.Clean(dir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create store: %w", dirError(dir, err))
	}
	return OpenFile(dir)
}

func dirError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", path, ErrNoDirectory)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w", path, ErrDenied)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w", path, ErrNotDirectory)
	}
	return err
}

// sweep removes what crashed writers left beside the objects. It is only housekeeping: what it cannot
// remove harms nobody.
func (f *File) sweep() {
	entries, err := os.ReadDir(filepath.Join(f.dir, tempDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.Remove(filepath.Join(f.dir, tempDir, e.Name()))
		}
	}
}

// Location implements Store.
func (f *File) Location() string { return "file://" + f.dir }

func (f *File) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// present tells an absent object from an absent store.
func (f *File) present() error {
	info, err := os.Stat(f.dir)
	if err != nil {
		return dirError(f.dir, err)
	}
	if !os.SameFile(info, f.identity) {
		return fmt.Errorf("%s: %w", f.dir, ErrReplaced)
	}
	return nil
}

// failed words an error of the operation op on an object.
func (f *File) failed(op, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR):
		if err := f.present(); err != nil {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
		return fmt.Errorf("%s %s: %w", op, name, ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s in %s: %w", op, name, f.dir, ErrDenied)
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

// Put implements Store.
func (f *File) Put(ctx context.Context, name string, data []byte, cond Condition) (Version, error) {
	if err := begin(ctx, name); err != nil {
		return "", err
	}
	if err := f.present(); err != nil {
		return "", fmt.Errorf("put %s: %w", name, err)
	}
	temp, err := f.writeTemp(data)
	if err != nil {
		return "", f.failed("put", name, err)
	}
	defer os.Remove(temp) // gone already when it was renamed
	target := f.path(name)
	if err := f.makeDirs(filepath.Dir(target)); err != nil {
		return "", f.failed("put", name, err)
	}
	if cond.absent {
		err = f.create(ctx, temp, target)
	} else {
		err = f.replace(ctx, temp, target, cond)
	}
	if err != nil {
		return "", f.failed("put", name, err)
	}
	if err := syncDir(filepath.Dir(target)); err != nil {
		return "", f.failed("put", name, err)
	}
	return versionOf(data), nil
}

// versionOf is the content itself, condensed: two writes of the same bytes are the same to a reader.
func versionOf(data []byte) Version {
	sum := sha256.Sum256(data)
	return Version(hex.EncodeToString(sum[:]))
}

func (f *File) writeTemp(data []byte) (path string, err error) {
	dir := filepath.Join(f.dir, tempDir)
	w, err := os.CreateTemp(dir, "put-")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		w, err = os.CreateTemp(dir, "put-")
	}
	if err != nil {
		return "", err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Sync(), w.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(w.Name()))
	}
	return w.Name(), nil
}

// makeDirs creates the directories above an object and makes each of them durable in its parent.
func (f *File) makeDirs(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := f.makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// create needs no lock: link(2) never replaces. Where the file system has no links, the lock makes
// looking and renaming one.
func (f *File) create(ctx context.Context, temp, target string) error {
	err := os.Link(temp, target)
	switch {
	case errors.Is(err, fs.ErrExist):
		return ErrExists
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
		return f.replace(ctx, temp, target, IfAbsent())
	}
	return err
}

func (f *File) replace(ctx context.Context, temp, target string, cond Condition) error {
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case cond.absent:
		if _, err := os.Lstat(target); err == nil {
			return ErrExists
		}
	case cond.version != "":
		is, err := os.ReadFile(target)
		if err != nil {
			return err
		}
		if versionOf(is) != cond.version {
			return ErrStale
		}
	}
	return os.Rename(temp, target)
}

// Get implements Store.
func (f *File) Get(ctx context.Context, name string, r Range) (Object, error) {
	if err := begin(ctx, name); err != nil {
		return Object{}, err
	}
	data, err := readRange(f.path(name), r)
	if err != nil {
		return Object{}, f.failed("get", name, err)
	}
	o := Object{Data: data}
	if r.Whole() {
		o.Version = versionOf(data)
	}
	return o, nil
}

func readRange(path string, r Range) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fs.ErrNotExist
	}
	offset, length, err := r.clip(info.Size())
	if err != nil {
		return nil, err
	}
	data := make([]byte, length)
	if n, err := file.ReadAt(data, offset); err != nil && (err != io.EOF || n < len(data)) {
		return nil, err
	}
	return data, nil
}

// Stat implements Store.
func (f *File) Stat(ctx context.Context, name string) (Info, error) {
	if err := begin(ctx, name); err != nil {
		return Info{}, err
	}
	info, err := os.Stat(f.path(name))
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, f.failed("stat", name, err)
	}
	return Info{Name: name, Size: info.Size()}, nil
}

// Delete implements Store.
func (f *File) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return err
	}
	// Under the lock, so that no compare-and-swap brings back what was deleted after it had looked.
	unlock, err := f.lock(ctx)
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	defer unlock()
	err = os.Remove(f.path(name))
	if err == nil {
		err = syncDir(filepath.Dir(f.path(name)))
	}
	if err != nil {
		if err := f.failed("delete", name, err); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// List implements Store.
func (f *File) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := f.present(); err != nil {
			yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		dir := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i+1]
			if err := CheckName(strings.TrimSuffix(dir, "/")); err != nil {
				yield(Info{}, fmt.Errorf("list: %w", err))
				return
			}
		}
		f.walk(ctx, dir, prefix, yield)
	}
}

// walk yields what is below dir ("" or a name with a slash at its end), and says whether to go on.
func (f *File) walk(ctx context.Context, dir, prefix string, yield func(Info, error) bool) bool {
	entries, err := os.ReadDir(f.path(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return true // no object has such a name, or its directory went away meanwhile
	}
	if err != nil {
		return yield(Info{}, f.failed("list", prefix, err)) && false
	}
	// A directory sorts as its objects do: with the slash.
	key := func(e os.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(key(a), key(b)) })
	for _, e := range entries {
		name := dir + key(e)
		if ctx.Err() != nil {
			return yield(Info{}, context.Cause(ctx)) && false
		}
		if strings.HasPrefix(e.Name(), ".") || !strings.HasPrefix(name, prefix) && !strings.HasPrefix(prefix, name) {
			continue
		}
		if e.IsDir() {
			if !f.walk(ctx, name, prefix, yield) {
				return false
			}
			continue
		}
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return yield(Info{}, f.failed("list", name, err)) && false
		}
		if !yield(Info{Name: name, Size: info.Size()}, nil) {
			return false
		}
	}
	return true
}
