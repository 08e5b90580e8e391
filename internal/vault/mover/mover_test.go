package mover

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// childVariable makes the test binary a mover: it does what `lifeboat mover work` does in a pod.
const childVariable = "LIFEBOAT_TEST_MOVER"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := Work(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a mover in a process of its own; it gets its volume's path as pods do.
type child struct {
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

func startChild(t *testing.T, path string) *child {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", MountVariable+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{Reader: out, WriteCloser: in, cmd: cmd}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return c
}

// bigVolume holds 200 files, one of 50 MiB, in directories; half of it does not compress.
func bigVolume(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	for i := range 199 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		data := make([]byte, 1+i*97)
		if i%2 == 0 {
			_, _ = rand.Read(data) // never fails
		}
		if err := errors.Join(os.MkdirAll(sub, 0o750), os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), data, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	big := make([]byte, 50<<20)
	_, _ = rand.Read(big[:25<<20])
	if err := os.WriteFile(filepath.Join(dir, "big"), big, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func protectOrder(path string) driver.MoverOrder {
	return driver.MoverOrder{Verb: driver.MoverProtect, Path: path, Host: "east", Beacon: dr.Beacon{Application: "shop", Datastore: "files", Site: "east"},
		Labels: map[string]string{"application": "shop", "datastore": "files", "point": "p1"}}
}

func restoreOrder(path, snapshot string) driver.MoverOrder {
	return driver.MoverOrder{Verb: driver.MoverRestore, Path: path, Snapshot: snapshot, Point: "p1",
		Labels: map[string]string{"application": "shop", "datastore": "files", "point": "p1"}}
}

func wantSame(t *testing.T, got, want string) {
	t.Helper()
	g, w := contents(t, got), contents(t, want)
	if !maps.EqualFunc(g, w, bytes.Equal) {
		t.Errorf("%d files are not the %d that were copied", len(g), len(w))
	}
}

// TestMoverProcess moves a volume into the vault and back through real processes: broken off in the
// middle each time, once by the stream and once by SIGKILL, and then done again.
func TestMoverProcess(t *testing.T) {
	t.Parallel()
	store, source, target := newVault(t), bigVolume(t), tempDir(t)

	cut := startChild(t, source)
	stalled := &hooked{Store: store, put: func(name string) {
		if strings.HasPrefix(name, "data/") {
			_ = cut.WriteCloser.Close()
		}
	}}
	_, err := runner(stalled).Run(t.Context(), cut, protectOrder(""), nil)
	if dr.ClassOf(err) != dr.ClassUnreachable || !strings.Contains(err.Error(), "lost the mover of shop/files while it was saving files") {
		t.Fatalf("the stream broke: got error %v, want one of class unreachable that says what was being done", err)
	}
	time.Sleep(2500 * time.Millisecond) // a file that changed within two seconds of a backup is read again by the next (ADR 0011)
	var seen atomic.Int64
	report, err := runner(store).Run(t.Context(), startChild(t, source), protectOrder(""), func(p driver.Progress) { seen.Store(max(seen.Load(), p.Bytes)) })
	if err != nil {
		t.Fatal(err)
	}
	if report.Files != 201 || report.Bytes < 50<<20 || report.Beacon.Sequence != 2 || report.Snapshot == "" {
		t.Errorf("got report %+v", report)
	}
	if seen.Load() == 0 {
		t.Error("no progress was said")
	}

	// Once more, with what there is to compare with: only the beacon has changed.
	again := protectOrder("")
	again.Parent = report.Snapshot
	if err := os.WriteFile(filepath.Join(source, "fresh"), []byte("fresh"), 0o600); err != nil {
		t.Fatal(err)
	}
	incremental, err := runner(store).Run(t.Context(), startChild(t, source), again, nil)
	if err != nil {
		t.Fatal(err)
	}
	if incremental.Files != report.Files+1 || incremental.Unchanged < 150 || incremental.StoredBytes > 1<<20 {
		t.Errorf("with a parent: %+v, want nearly all of %d files unchanged", incremental, report.Files)
	}
	if err := os.Remove(filepath.Join(source, "fresh")); err != nil {
		t.Fatal(err)
	}
	again.Parent = strings.Repeat("0", 64)
	if forgotten, err := runner(store).Run(t.Context(), startChild(t, source), again, nil); err != nil || forgotten.Unchanged != 0 {
		t.Errorf("with a parent that was forgotten: %+v, %v", forgotten, err)
	}

	killed := startChild(t, target)
	var reads atomic.Int32
	stalled = &hooked{Store: store, get: func(name string) {
		if strings.HasPrefix(name, "data/") && reads.Add(1) == 3 {
			_ = killed.cmd.Process.Kill()
		}
	}}
	if _, err = runner(stalled).Run(t.Context(), killed, restoreOrder("", report.Snapshot), nil); dr.ClassOf(err) != dr.ClassUnreachable {
		t.Fatalf("the mover was killed: got error %v, want one of class unreachable", err)
	}
	if errors.Is(err, driver.ErrUntouched) {
		t.Errorf("the mover was killed: %v claims that nothing was changed", err)
	}
	refused, err := runner(store).Run(t.Context(), startChild(t, target), protectOrder(""), nil)
	if dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("protect of half a restore: got %+v, %v; want an error of class blocked", refused, err)
	}
	restored, err := runner(store).Run(t.Context(), startChild(t, target), restoreOrder("", report.Snapshot), nil)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Beacon != report.Beacon || restored.Files != report.Files || restored.Bytes != report.Bytes || !restored.Done {
		t.Errorf("got %+v, want what was saved: %+v", restored, report)
	}
	wantSame(t, target, source)
}

// hooked tells of requests to a store.
type hooked struct {
	blob.Store
	put, get func(name string)
}

func (s *hooked) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	if s.put != nil {
		s.put(name)
	}
	return s.Store.Put(ctx, name, data, cond)
}

func (s *hooked) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if s.get != nil {
		s.get(name)
	}
	return s.Store.Get(ctx, name, r)
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	const wrong = "a password that must not show"
	r := &Runner{Store: newVault(t), Password: func(context.Context) ([]byte, error) { return []byte(wrong), nil }}
	path := tempDir(t)
	_, err := inProcess(t.Context(), t, r, protectOrder(path), nil)
	if !errors.Is(err, dr.ErrWrongKey) || dr.ClassOf(err) != dr.ClassDenied || !errors.Is(err, driver.ErrUntouched) {
		t.Errorf("got error %v, want dr.ErrWrongKey of class denied, with nothing changed", err)
	}
	if err != nil && strings.Contains(err.Error(), wrong) {
		t.Error("the error holds the password")
	}
	if left := contents(t, path); len(left) != 0 {
		t.Errorf("it left %d files", len(left))
	}
	r.Password = func(context.Context) ([]byte, error) { return nil, dr.ErrNotFound }
	if _, err := inProcessUnstarted(t, r, protectOrder(path)); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("no key: got error %v", err)
	}
}

// inProcessUnstarted runs an order for which no worker may be needed.
func inProcessUnstarted(t *testing.T, r *Runner, o driver.MoverOrder) (driver.MoverReport, error) {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	return r.Run(t.Context(), near, o, nil)
}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	store := newVault(t)
	source := tempDir(t)
	report, err := inProcess(t.Context(), t, runner(store), protectOrder(source), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		order func(path string) driver.MoverOrder
		class dr.Class
		says  string
	}{
		{"stray data", map[string]string{"order-1": "precious"}, func(p string) driver.MoverOrder { return restoreOrder(p, report.Snapshot) }, dr.ClassBlocked, "for example order-1"},
		{"another restore goes on", map[string]string{".lifeboat/restoring.json": `{"point":"p0"}`}, func(p string) driver.MoverOrder { return restoreOrder(p, report.Snapshot) }, dr.ClassBlocked, "p0"},
		{"protect of half a restore", map[string]string{".lifeboat/restoring.json": `{"point":"p0"}`}, protectOrder, dr.ClassBlocked, "p0"},
		{"a mark that cannot be read", map[string]string{".lifeboat/restoring.json": `{`}, protectOrder, dr.ClassBlocked, "restoring.json"},
		{"a beacon that cannot be read", map[string]string{".lifeboat/beacon.json": ``}, protectOrder, dr.ClassBlocked, "beacon.json"},
		{"no such snapshot", nil, func(p string) driver.MoverOrder { return restoreOrder(p, strings.Repeat("0", 64)) }, dr.ClassIncomplete, "vault lacks"},
		{"unknown verb", nil, func(p string) driver.MoverOrder { return driver.MoverOrder{Verb: "shred", Path: p} }, dr.ClassInternal, "shred"},
		{"no volume", nil, func(p string) driver.MoverOrder { return protectOrder(p + "/none") }, dr.ClassInternal, "finds no volume"},
	} {
		path := tempDir(t)
		for name, text := range c.files {
			full := filepath.Join(path, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := inProcess(t.Context(), t, runner(store), c.order(path), nil)
		if err == nil || dr.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want one of class %s that says %q", c.name, err, c.class, c.says)
		}
		if !errors.Is(err, driver.ErrUntouched) {
			t.Errorf("%s: got error %v, want one that says that nothing was changed", c.name, err)
		}
		for name, text := range c.files {
			if got, err := os.ReadFile(filepath.Join(path, name)); err != nil || string(got) != text {
				t.Errorf("%s: %s holds %q, %v", c.name, name, got, err)
			}
		}
	}
}

func TestLinksOutOfTheVolumeAreNotFollowed(t *testing.T) {
	t.Parallel()
	outside, path := tempDir(t), tempDir(t)
	if err := os.Symlink(outside, filepath.Join(path, ownDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := inProcess(t.Context(), t, runner(newVault(t)), protectOrder(path), nil); err == nil {
		t.Error("it wrote its beacon through a link")
	}
	if left := contents(t, outside); len(left) != 0 {
		t.Errorf("it wrote %d files outside of the volume", len(left))
	}
}

// TestWorkersThatAreNone: what else may be at the other end of an exec.
func TestWorkersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		far  func(net.Conn)
		says string
	}{
		{"a shell", func(c net.Conn) { fmt.Fprintln(c, "sh: lifeboat: not found"); c.Close() }, `it said "sh: lifeboat: not found"`},
		{"nobody", func(c net.Conn) { c.Close() }, "it ended before it said a word"},
		{"a mute", func(net.Conn) {}, "it said nothing within 300ms"},
		{"one that stops after its greeting", func(c net.Conn) { fmt.Fprint(c, greeting) }, "the stream to it broke"},
		{"one of another protocol", func(c net.Conn) { fmt.Fprint(c, greeting+"HELO mover\r\n\r\n") }, "the stream to it broke"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			defer far.Close()
			go func() {
				c.far(far)
				_, _ = io.Copy(io.Discard, far)
			}()
			r := runner(blob.NewMem())
			r.Silence = 300 * time.Millisecond
			start := time.Now()
			_, err := r.Run(t.Context(), near, protectOrder("/data"), nil)
			if dr.ClassOf(err) != dr.ClassUnreachable || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got error %v, want one of class unreachable that says %q", err, c.says)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// TestOrchestratorFallsSilent: a worker that is not spoken to any more ends by itself.
func TestOrchestratorFallsSilent(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		b := make([]byte, 1<<10)
		_, _ = near.Read(b) // the greeting, and then nothing any more
	}()
	ended := make(chan error, 1)
	go func() { ended <- work(t.Context(), far, far, 300*time.Millisecond) }()
	select {
	case err := <-ended:
		if !errors.Is(err, errStream) {
			t.Errorf("got error %v, want one that says that the stream broke", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on 10 s later")
	}
}

func TestCancelledOrder(t *testing.T) {
	t.Parallel()
	store, source := newVault(t), bigVolume(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("the lease was lost")
	var once sync.Once
	slow := &hooked{Store: store, put: func(name string) {
		if strings.HasPrefix(name, "data/") {
			once.Do(func() { cancel(lost) })
		}
	}}
	start := time.Now()
	near, far := net.Pipe()
	go func() {
		_ = Work(context.WithoutCancel(ctx), far, far)
		far.Close()
	}()
	_, err := runner(slow).Run(ctx, near, protectOrder(source), nil)
	if !errors.Is(err, lost) {
		t.Errorf("got error %v, want the cause", err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("it took %s", d)
	}
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(info.Name, "locks/") || strings.HasPrefix(info.Name, "snapshots/") {
			t.Errorf("it left %s", info.Name)
		}
	}
}

func TestMoversMayOnlyAdd(t *testing.T) {
	t.Parallel()
	store := blob.NewMem()
	if _, err := store.Put(t.Context(), "data/00/old", []byte("old"), blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	going := func() bool { return false }
	protect := restricted{Store: store, verb: driver.MoverProtect, stopped: going}
	restore := restricted{Store: store, verb: driver.MoverRestore, stopped: going}
	put := func(s blob.Store, name string, c blob.Condition) error {
		_, err := s.Put(t.Context(), name, nil, c)
		return err
	}
	for what, err := range map[string]error{
		"replace a pack":              put(protect, "data/00/old", blob.Condition{}),
		"write a key":                 put(protect, "keys/x", blob.IfAbsent()),
		"delete a pack":               protect.Delete(t.Context(), "data/00/old"),
		"delete a snapshot":           restore.Delete(t.Context(), "snapshots/x"),
		"add a pack while it reads":   put(restore, "data/00/new", blob.IfAbsent()),
		"add a pack after it was off": put(restricted{Store: store, verb: driver.MoverProtect, stopped: func() bool { return true }}, "data/00/new", blob.IfAbsent()),
	} {
		if err == nil || !errors.Is(err, blob.ErrDenied) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got error %v, want blob.ErrDenied", what, err)
		}
	}
	if err := errors.Join(put(protect, "data/00/new", blob.IfAbsent()), put(restore, "locks/x", blob.IfAbsent()), restore.Delete(t.Context(), "locks/x")); err != nil {
		t.Error(err)
	}
}
