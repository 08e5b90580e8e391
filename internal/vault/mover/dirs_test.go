package mover

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/drivertest"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

const password = "bGlmZWJvYXQncyB0ZXN0cyBuZWVkIGEga2V5IG9mIDMyIGJ5dGVz" // 32 bytes and more, as vaults have: cheap to open

// newVault makes a repository in a store of files.
func newVault(t *testing.T) blob.Store {
	t.Helper()
	store, err := blob.Create(t.Context(), "file://"+filepath.Join(tempDir(t), "vault"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), store, []byte(password)); err != nil {
		t.Fatal(err)
	}
	return store
}

// tempDir lies in memory where it can: what reaches the disk durably takes its time there.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lifeboat-mover-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func runner(store blob.Store) *Runner {
	return &Runner{Store: store, Password: func(context.Context) ([]byte, error) { return []byte(password), nil }}
}

// inProcess runs an order with the worker in a goroutine at the other end of a pipe.
func inProcess(ctx context.Context, t *testing.T, r *Runner, o driver.MoverOrder, tell func(driver.Progress)) (driver.MoverReport, error) {
	t.Helper()
	near, far := net.Pipe()
	worked := make(chan error, 1)
	go func() {
		err := Work(ctx, far, far)
		far.Close()
		worked <- err
	}()
	report, err := r.Run(ctx, near, o, tell)
	select {
	case workErr := <-worked:
		if err == nil && workErr != nil {
			t.Errorf("the order was done, and yet the worker ended with: %v", workErr)
		}
	case <-time.After(10 * time.Second):
		t.Error("the worker goes on 10 s after the end of Run")
	}
	return report, err
}

// dirs is a site whose volumes are directories and whose movers are goroutines.
type dirs struct {
	store blob.Store
	base  string
	count atomic.Int32
	test  *testing.T
}

// dirDriver is driver/volume without a cluster.
type dirDriver struct {
	dirs   *dirs
	runner *Runner
}

func (d *dirDriver) path(ds dr.Datastore) (string, error) {
	path := filepath.Join(d.dirs.base, ds.Volume.Claim)
	if _, err := os.Stat(path); err != nil {
		return "", errors.Join(dr.ErrNotFound, err)
	}
	return path, nil
}

func (d *dirDriver) run(ctx context.Context, ds dr.Datastore, o driver.MoverOrder, tell func(driver.Progress)) (driver.MoverReport, error) {
	path, err := d.path(ds)
	if err != nil {
		return driver.MoverReport{}, err
	}
	o.Path = path
	return inProcess(ctx, d.dirs.test, d.runner, o, tell)
}

func (d *dirDriver) Inspect(_ context.Context, ds dr.Datastore) (driver.DataState, error) {
	path, err := d.path(ds)
	if err != nil {
		return driver.DataState{}, err
	}
	v, err := openVolume(path)
	if err != nil {
		return driver.DataState{}, err
	}
	defer v.close()
	s := driver.DataState{Description: "directory " + path}
	mark, err := v.mark(restoringFile)
	if mark != nil {
		s.Restoring = mark.Point
	}
	return s, err
}

func (d *dirDriver) Protect(ctx context.Context, req driver.ProtectRequest) (dr.DataPoint, error) {
	r, err := d.run(ctx, req.Datastore, driver.MoverOrder{Verb: driver.MoverProtect, Parent: req.Parent, Beacon: req.Beacon, Host: "east",
		Labels: map[string]string{"application": req.Application, "datastore": req.Datastore.Name, "point": req.Point}}, req.Progress)
	return dr.DataPoint{Datastore: req.Datastore.Name, Snapshot: r.Snapshot, Consistency: dr.LiveCopy, Beacon: r.Beacon,
		Bytes: r.Bytes, StoredBytes: r.StoredBytes, Files: r.Files}, err
}

func (d *dirDriver) Restored(ctx context.Context, req driver.RestoreRequest) (*dr.DataOutput, error) {
	r, err := d.run(ctx, req.Datastore, driver.MoverOrder{Verb: driver.MoverRestored, Point: req.Point}, nil)
	if err != nil || !r.Done {
		return nil, err
	}
	return &dr.DataOutput{Bytes: r.Bytes, Files: r.Files, Beacon: r.Beacon}, nil
}

func (d *dirDriver) Restore(ctx context.Context, req driver.RestoreRequest) (dr.DataOutput, error) {
	r, err := d.run(ctx, req.Datastore, driver.MoverOrder{Verb: driver.MoverRestore, Point: req.Point, Snapshot: req.Data.Snapshot}, req.Progress)
	return dr.DataOutput{Bytes: r.Bytes, Files: r.Files, Beacon: r.Beacon}, err
}

func (h *dirs) Driver(*testing.T) driver.Datastore { return &dirDriver{h, runner(h.store)} }

func (h *dirs) Broken(*testing.T) driver.Datastore {
	return &dirDriver{h, runner(&failing{Store: h.store, after: 1})}
}

func (h *dirs) New(t *testing.T) dr.Datastore {
	t.Helper()
	name := string('a' + h.count.Add(1))
	if err := os.MkdirAll(filepath.Join(h.base, name, "lost+found"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dr.Datastore{Name: "orders", Volume: &dr.VolumeRef{Claim: name}}
}

func (h *dirs) Missing(*testing.T) dr.Datastore {
	return dr.Datastore{Name: "orders", Volume: &dr.VolumeRef{Claim: "none"}}
}

// Write puts a value on disk as careful applications do: whole, or not at all.
func (h *dirs) Write(t *testing.T, ds dr.Datastore, key string, value []byte) {
	path := filepath.Join(h.base, ds.Volume.Claim, key)
	if err := errors.Join(os.WriteFile(path+".tmp", value, 0o644), os.Rename(path+".tmp", path)); err != nil {
		t.Error(err)
	}
}

func (h *dirs) Read(t *testing.T, ds dr.Datastore) map[string][]byte {
	t.Helper()
	found := contents(t, filepath.Join(h.base, ds.Volume.Claim))
	maps.DeleteFunc(found, func(k string, _ []byte) bool { return strings.HasSuffix(k, ".tmp") })
	return found
}

// contents reads all files below a directory but Lifeboat's own.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if err == nil && e.Name() == ownDir {
				return filepath.SkipDir
			}
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		found[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// failing is a store that stops giving out data after some reads of it.
type failing struct {
	blob.Store
	after int32
	reads atomic.Int32
	fail  func() error // nil: an error
}

func (s *failing) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if strings.HasPrefix(name, "data/") && s.reads.Add(1) > s.after {
		if s.fail != nil {
			return blob.Object{}, s.fail()
		}
		return blob.Object{}, io.ErrUnexpectedEOF
	}
	return s.Store.Get(ctx, name, r)
}

func TestDirectoriesKeepTheContract(t *testing.T) {
	t.Parallel()
	drivertest.Datastore(t, &dirs{store: newVault(t), base: tempDir(t), test: t})
}
