package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeSample fills dir with what volumes hold.
func makeSample(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(os.WriteFile(filepath.Join(dir, name), data, mode))
		must(os.Chmod(filepath.Join(dir, name), mode))
	}
	write("orders.log", noise(11, 5<<20), 0o640)
	write("empty", nil, 0o600)
	write("small", []byte("hello"), 0o444)
	write("run.sh", []byte("#!/bin/sh\n"), 0o755)
	write("setuid", []byte("x"), 0o755|fs.ModeSetuid)
	write("deep/a/b/c/d/file", []byte("deep"), 0o600)
	write("with space \"quoted\" \\ and \xff no utf8 \n newline", []byte("odd"), 0o600)
	write("umlaut-ä-日本", []byte("utf8"), 0o600)
	for i := range 300 {
		write(fmt.Sprintf("many/%03d", i), noise(uint64(i), i*7), 0o600)
	}
	must(os.Mkdir(filepath.Join(dir, "emptydir"), 0o700))
	must(os.Chmod(filepath.Join(dir, "emptydir"), 0o1777&0o777|fs.ModeSticky))
	must(os.Symlink("small", filepath.Join(dir, "link")))
	must(os.Symlink("/nowhere/at/all", filepath.Join(dir, "deep/dangling")))
	must(os.Link(filepath.Join(dir, "small"), filepath.Join(dir, "hardlink")))
	old := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	must(os.Chtimes(filepath.Join(dir, "small"), old, old))
	must(os.Chtimes(filepath.Join(dir, "deep/a"), old, old))
	if os.Getuid() == 0 {
		must(os.Lchown(filepath.Join(dir, "run.sh"), 1234, 5678))
		must(os.Lchown(filepath.Join(dir, "link"), 1234, 5678))
		must(os.Lchown(filepath.Join(dir, "many"), 1234, 5678))
	}
	must(os.Chmod(dir, 0o750))
}

// describe lists everything below dir, a line for each entry.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&out, "%q %v %d:%d", rel, info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&out, " -> %q %v", target, info.ModTime().UTC())
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d %x %v", len(data), sha256.Sum256(data), info.ModTime().UTC())
		default:
			fmt.Fprintf(&out, " %v", info.ModTime().UTC())
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func saveDir(t testing.TB, r *Repo, dir string, opts SaveDirOptions) (SaveDirResult, ID) {
	t.Helper()
	s, err := r.NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	result, err := s.SaveDir(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: result.Tree, Paths: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return result, id
}

func diff(t testing.TB, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range g {
		if !slices.Contains(w, line) {
			t.Errorf("got  %s", line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			t.Errorf("want %s", line)
		}
	}
}

func TestDirectoryRoundTrip(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "new")
	makeSample(t, source)
	want := describe(t, source)
	r, store := newTestRepo(t)
	var last Progress
	result, _ := saveDir(t, r, source, SaveDirOptions{Progress: func(p Progress) { last = p }})
	if len(result.Missing)+len(result.Changed) > 0 {
		t.Errorf("missing %v, changed %v", result.Missing, result.Changed)
	}
	if last.Files != result.Files || last.Bytes != result.Bytes || result.Files != 309 {
		t.Errorf("progress ended at %+v, result %+v", last, result)
	}
	other := reopen(t, store)
	restored, err := other.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if restored.Files != result.Files || restored.Bytes != result.Bytes || restored.Dirs != result.Dirs {
		t.Errorf("saved %+v, restored %+v", result, restored)
	}
	if last.Files != restored.Files || last.Bytes != restored.Bytes {
		t.Errorf("progress ended at %+v", last)
	}
	diff(t, describe(t, target), want)
	// Once more over itself: the same again.
	if _, err := other.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describe(t, target), want)
	if again, _ := saveDir(t, other, source, SaveDirOptions{}); again.Tree != result.Tree {
		t.Error("an unchanged directory is another tree")
	}
	sound(t, other)
}

func TestExclude(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	makeSample(t, source)
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{Exclude: func(rel string, dir bool) bool {
		if rel == "deep/a" && !dir {
			t.Error("deep/a is a directory")
		}
		return rel == "many" || rel == "deep/a" || rel == "orders.log"
	}})
	_, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{Exclude: func(rel string, _ bool) bool {
		return rel == "small" || rel == "emptydir"
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"many", "deep/a", "orders.log", "small", "emptydir"} {
		if _, err := os.Lstat(filepath.Join(target, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there", gone)
		}
	}
	for _, there := range []string{"deep/dangling", "run.sh"} {
		if _, err := os.Lstat(filepath.Join(target, there)); err != nil {
			t.Error(err)
		}
	}
}

// TestFilesThatChangeUnderWay removes, grows and shrinks files while the directory is saved.
func TestFilesThatChangeUnderWay(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	for i := range 50 {
		for _, kind := range []string{"vanish", "grow", "shrink", "pipe"} {
			if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("%s-%02d", kind, i)), noise(1, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, _ := newTestRepo(t)
	// Exclude is asked for each entry between the directory's listing and the file's opening.
	result, _ := saveDir(t, r, source, SaveDirOptions{Exclude: func(rel string, _ bool) bool {
		path := filepath.Join(source, rel)
		var err error
		switch kind, _, _ := strings.Cut(rel, "-"); kind {
		case "vanish":
			err = os.Remove(path)
		case "grow":
			err = os.WriteFile(path, noise(1, 600<<10), 0o600)
		case "shrink":
			err = os.Truncate(path, 0)
		case "pipe":
			err = errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))
		}
		if err != nil {
			t.Error(err)
		}
		return false
	}})
	if len(result.Missing) != 100 || !strings.HasPrefix(result.Missing[0], "pipe-00: ") || !strings.HasPrefix(result.Missing[50], "vanish-00: ") {
		t.Errorf("missing: %q", result.Missing)
	}
	if _, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	grown, err := os.ReadFile(filepath.Join(target, "grow-07"))
	if err != nil || !bytes.Equal(grown, noise(1, 600<<10)) {
		t.Errorf("a file that grew: %d bytes, %v", len(grown), err)
	}
	if _, err := newSaver(t, r).SaveDir(t.Context(), filepath.Join(source, "gone"), SaveDirOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root that is missing: %v", err)
	}
}

// growing is a reader whose file is longer than its size said.
type growing struct{ data []byte }

func (g *growing) Read(p []byte) (int, error) {
	if len(g.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.data)
	g.data = g.data[n:]
	return n, nil
}

func TestAFileThatGrowsWhileItIsRead(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	w := &dirSaver{saver: newSaver(t, r)}
	w.buffers.New = func() any { return new([]byte) }
	data := noise(3, 3<<20)
	for _, said := range []int64{0, 10, 1 << 20, 3 << 20, 9 << 20} {
		ids, n, err := w.content(t.Context(), &growing{data}, said)
		if err != nil || n != int64(len(data)) || len(ids) < 2 {
			t.Errorf("size said to be %d: %d bytes in %d blobs, %v", said, n, len(ids), err)
		}
	}
}

// TestTreesCannotEscape restores trees that a forger, or a fault, made.
func TestTreesCannotEscape(t *testing.T) {
	t.Parallel()
	r, _ := newTestRepo(t)
	s := newSaver(t, r)
	raw := func(names ...string) ID {
		t.Helper()
		var nodes []string
		for _, n := range names {
			nodes = append(nodes, fmt.Sprintf(`{"name":%q,"type":"file","mode":384,"content":[]}`, n))
		}
		id, err := s.saveSmall(t.Context(), TreeBlob, []byte(`{"nodes":[`+strings.Join(nodes, ",")+`]}`))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for _, name := range []string{"..", ".", "", "a/b", "../up", "/abs", `nul\x00`} {
		id := raw(name)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.RestoreDir(t.Context(), id, t.TempDir(), RestoreDirOptions{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", name, err)
		}
	}
	// A link that is in the way must not be followed.
	outside, target := t.TempDir(), t.TempDir()
	for _, name := range []string{"dir", "file"} {
		if err := os.Symlink(outside, filepath.Join(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	inner := raw("planted")
	tree, err := s.SaveTree(t.Context(), &Tree{Nodes: []*Node{
		{Name: "dir", Type: DirNode, Mode: fs.ModeDir | 0o700, Subtree: inner},
		{Name: "file", Type: FileNode, Mode: 0o600},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RestoreDir(t.Context(), tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("written outside of the target: %v", entries)
	}
	if _, err := os.Lstat(filepath.Join(target, "dir", "planted")); err != nil {
		t.Error(err)
	}
}

func TestRestoreStopsWhenAskedAndLeavesNoHalfFile(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	makeSample(t, source)
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := r.RestoreDir(ctx, result.Tree, target, RestoreDirOptions{Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(target, ".lifeboat-*"))
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestRestoreSaysWhatIsDamaged(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeSample(t, source)
	r, store := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	for info := range store.List(t.Context(), dataDir) {
		if info.Size > 4<<20 {
			flip(t, store, info.Name, 1<<20)
		}
	}
	_, err := reopen(t, store).RestoreDir(t.Context(), result.Tree, t.TempDir(), RestoreDirOptions{})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "data/") {
		t.Errorf("got %v", err)
	}
}

func TestXattrs(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	file := filepath.Join(source, "f")
	if err := os.WriteFile(file, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, source} {
		if err := unix.Setxattr(path, "user.lifeboat", []byte("\x00\xffvalue"), 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("the file system of the temporary directory has no extended attributes")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	if _, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(target, "f"), target} {
		value := make([]byte, 100)
		n, err := unix.Getxattr(path, "user.lifeboat", value)
		if err != nil || string(value[:n]) != "\x00\xffvalue" {
			t.Errorf("%s: %q, %v", path, value[:max(n, 0)], err)
		}
	}
}

// TestSavingIntoAFullStore: an error of the store is an error, however late it comes.
func TestSavingIntoAFullStore(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeSample(t, source)
	_, store := newTestRepo(t)
	for writes := range 4 {
		r := reopen(t, &failingStore{Store: store, left: writes + 1})
		s, err := r.NewSaver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		result, err := s.SaveDir(t.Context(), source, SaveDirOptions{})
		if err == nil {
			_, err = s.SaveSnapshot(t.Context(), Snapshot{Tree: result.Tree})
		}
		if writes < 3 && !errors.Is(err, errCrash) {
			t.Errorf("after %d writes: %v", writes, err)
		}
	}
}
