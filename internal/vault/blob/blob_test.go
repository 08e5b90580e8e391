package blob_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/blob/blobtest"
)

func same(_ *testing.T, s blob.Store) blob.Store { return s }

func openFile(t *testing.T) blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), "file://"+t.TempDir(), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMem(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(*testing.T) blob.Store { return blob.NewMem() }, same)
}

func TestFile(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, openFile, func(t *testing.T, s blob.Store) blob.Store {
		other, err := blob.Open(t.Context(), s.Location(), blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return other
	})
}

func TestSub(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store {
		m := blob.NewMem()
		if _, err := m.Put(t.Context(), "other/x", nil, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		return blob.Sub(m, "deep/er")
	}, same)
}

func TestLocationsThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]error{
		"s3://": blob.ErrScheme, "s3:///x": blob.ErrScheme, "s3://b/../x": blob.ErrScheme, "s3://b?style=path": blob.ErrScheme,
		"s3://b?endpoint=host:9000": blob.ErrScheme, "s3://user:pass@b/x": blob.ErrScheme, "azblob://account": blob.ErrScheme,
		"azblob://a/c?region=x": blob.ErrScheme, "gs://bucket/x": blob.ErrScheme, "": blob.ErrScheme, "/tmp": blob.ErrScheme,
		"file://": blob.ErrScheme, "file://relative/path": blob.ErrScheme, "file:///": blob.ErrScheme,
		"file://" + dir + "/missing":   blob.ErrNoDirectory,
		"file://" + file:               blob.ErrNotDirectory,
		"file://" + file + "/below":    blob.ErrNotDirectory,
		"file://" + dir + "/no/parent": blob.ErrNoDirectory,
	} {
		if _, err := blob.Open(t.Context(), location, blob.Options{}); !errors.Is(err, want) {
			t.Errorf("open %q: %v, want %v", location, err, want)
		}
	}
	if _, err := blob.Create(t.Context(), "file://"+dir+"/no/parent", blob.Options{}); !errors.Is(err, blob.ErrNoDirectory) {
		t.Errorf("create without parent: %v", err)
	}
	if _, err := blob.Create(t.Context(), "file://"+dir+"/new", blob.Options{}); err != nil {
		t.Errorf("create: %v", err)
	}
	if _, err := blob.Create(t.Context(), "file://"+dir+"/new", blob.Options{}); err != nil {
		t.Errorf("create what is there: %v", err)
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	s := openFile(t)
	if _, err := s.Put(t.Context(), "a/b", []byte("x"), blob.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	root := strings.TrimPrefix(s.Location(), "file://")
	err := filepath.WalkDir(filepath.Join(root, "a"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDirectoryGone: a vault that was unmounted or deleted is not an empty vault.
func TestDirectoryGone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "vault")
	s, err := blob.CreateFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a", nil, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	check := func(want error) {
		t.Helper()
		_, err := s.Get(t.Context(), "a", blob.Range{})
		if !errors.Is(err, want) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("get: %v, want %v", err, want)
		}
		if _, err := s.Put(t.Context(), "b", nil, blob.Condition{}); !errors.Is(err, want) {
			t.Errorf("put: %v, want %v", err, want)
		}
		n := 0
		for _, err := range s.List(t.Context(), "") {
			if n++; !errors.Is(err, want) {
				t.Errorf("list: %v, want %v", err, want)
			}
		}
		if n != 1 {
			t.Errorf("list yielded %d times", n)
		}
	}
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	check(blob.ErrNoDirectory)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	check(blob.ErrReplaced)
}

func TestLeftoversOfACrashAreInvisibleAndSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"put-old": 48 * time.Hour, "put-new": 0} {
		path := filepath.Join(dir, ".tmp", name)
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	for info := range s.List(t.Context(), "") {
		t.Errorf("listed %s", info.Name)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".tmp", "*"))
	if len(left) != 1 || filepath.Base(left[0]) != "put-new" {
		t.Errorf("left: %v", left)
	}
}

// TestCounterBetweenProcesses lets several processes increment one counter.
func TestCounterBetweenProcesses(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("BLOB_TEST_COUNTER"); dir != "" {
		countUp(t, dir)
		return
	}
	dir := t.TempDir()
	s, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "counter", []byte("0"), blob.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	const processes = 4
	var running []*exec.Cmd
	for range processes {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCounterBetweenProcesses$")
		c.Env = append(os.Environ(), "BLOB_TEST_COUNTER="+dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, c)
	}
	for _, c := range running {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	o, err := s.Get(t.Context(), "counter", blob.Range{})
	if err != nil || string(o.Data) != strconv.Itoa(processes*perProcess) {
		t.Errorf("counted %s of %d (%v)", o.Data, processes*perProcess, err)
	}
}

const perProcess = 25

func countUp(t *testing.T, dir string) {
	s, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	for done := 0; done < perProcess; {
		o, err := s.Get(t.Context(), "counter", blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(string(o.Data))
		_, err = s.Put(t.Context(), "counter", fmt.Append(nil, n+1), blob.IfVersion(o.Version))
		if err == nil {
			done++
		} else if !errors.Is(err, blob.ErrStale) {
			t.Fatal(err)
		}
	}
}

// TestStoreOfAnotherUser needs an unprivileged identity, because root may read everything.
func TestStoreOfAnotherUser(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("BLOB_TEST_DENIED"); dir != "" {
		if _, err := blob.OpenFile(dir); !errors.Is(err, blob.ErrDenied) {
			t.Errorf("got %v, want %v", err, blob.ErrDenied)
		}
		return
	}
	dir, err := os.MkdirTemp("", "blob-denied-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if os.Getuid() != 0 {
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := blob.OpenFile(dir); !errors.Is(err, blob.ErrDenied) {
			t.Errorf("got %v, want %v", err, blob.ErrDenied)
		}
		return
	}
	open, err := os.MkdirTemp("", "blob-open-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(open)
	program := filepath.Join(open, "test")
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	// Copied by another process: a child that a parallel test forks must not hold it open for writing.
	if out, err := exec.CommandContext(t.Context(), "cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := exec.CommandContext(t.Context(), program, "-test.run=^TestStoreOfAnotherUser$")
	c.Dir = "/"
	c.Env = append(os.Environ(), "BLOB_TEST_DENIED="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
