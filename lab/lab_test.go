package lab

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

func usage(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || dr.ClassOf(err) != dr.ClassUsage {
		t.Errorf("%s: %v, want an error of usage", what, err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	good := Options{Dir: dir, SelfBinary: program, KubeBinary: program}
	o, err := good.complete()
	if err != nil {
		t.Fatal(err)
	}
	if o.Name != DefaultName || o.Nodes != Processes || len(o.Sites) != 2 || o.Progress == nil {
		t.Errorf("what was left out became %+v", o)
	}
	for what, change := range map[string]func(*Options){
		"a name with a slash":      func(o *Options) { o.Name = "../x" },
		"no kind of node":          func(o *Options) { o.Nodes = "vms" },
		"a site twice":             func(o *Options) { o.Sites = []string{"a", "a"} },
		"a site's name in capital": func(o *Options) { o.Sites = []string{"East"} },
		"a reserved name":          func(o *Options) { o.Sites = []string{"east", "client"} },
		"too many sites":           func(o *Options) { o.Sites = strings.Split(strings.Repeat("s ", layout.MaxSites+1), " ") },
		"a program that is absent": func(o *Options) { o.KubeBinary = filepath.Join(dir, "absent") },
	} {
		bad := good
		change(&bad)
		_, err := bad.complete()
		usage(t, what, err)
	}
}

func TestClaimDir(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	foreign := filepath.Join(base, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "precious"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := claimDir(foreign)
	usage(t, "a directory with other things in it", err)
	if _, err := Open(foreign); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is no lab's was opened: %v", err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(filepath.Join(base, "lab"), link); err != nil {
		t.Fatal(err)
	}
	want, err := claimDir(filepath.Join(base, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := claimDir(link); err != nil || got != want {
		t.Errorf("by a link the lab is %q (%v), not %q: its processes would not be found", got, err, want)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	dir, err := claimDir(filepath.Join(t.TempDir(), "lab"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := acquire(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = acquire(ctx, dir)
	if dr.ClassOf(err) != dr.ClassConflict || !strings.Contains(err.Error(), "process") {
		t.Errorf("a second command got: %v", err)
	}
	// Who waits while the lab is removed must not end up with the lock of a file that is gone.
	waited := make(chan error, 1)
	go func() { _, err := acquire(t.Context(), dir); waited <- err }()
	time.Sleep(100 * time.Millisecond)
	if err := os.RemoveAll(string(dir)); err != nil {
		t.Fatal(err)
	}
	first.f.Close()
	if err := <-waited; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock of a removed lab was had: %v", err)
	}
}

func TestCheckCut(t *testing.T) {
	t.Parallel()
	processes := &State{Name: "x", Nodes: state.Processes, Sites: []Site{{Name: "east"}, {Name: "west"}}}
	pods := *processes
	pods.Nodes = state.Pods
	for _, c := range []struct {
		st   *State
		a, b string
		ok   bool
	}{
		{processes, "east", "west", true},
		{processes, "client", "east", true},
		{processes, "west", "dns", true},
		{processes, "client", "resolver", true},
		{processes, "east", "vault", false},
		{&pods, "east", "vault", true},
		{processes, "east", "east", false},
		{processes, "east", "north", false},
		{processes, "dns", "resolver", false},
	} {
		err := checkCut(c.st, c.a, c.b)
		if c.ok && err != nil {
			t.Errorf("%s–%s on %s: %v", c.a, c.b, c.st.Nodes, err)
		}
		if !c.ok {
			usage(t, c.a+"–"+c.b, err)
		}
	}
}

func TestDownOfWhatAnUnfinishedUpLeft(t *testing.T) {
	t.Parallel()
	for what, lab := range map[string]string{"no state": "", "a torn state": "{\"name\":"} {
		dir, err := claimDir(filepath.Join(t.TempDir(), "lab"))
		if err != nil {
			t.Fatal(err)
		}
		if lab != "" {
			if err := os.WriteFile(filepath.Join(string(dir), state.FileName), []byte(lab), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := Open(string(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Down(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(string(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the directory is still there (%v)", what, err)
		}
	}
}

func TestTwoLabsChooseDifferentAddresses(t *testing.T) {
	t.Parallel()
	first, second := &State{Nodes: state.Processes, Sites: []Site{{Name: "east"}}}, &State{Nodes: state.Processes, Sites: []Site{{Name: "east"}}}
	for _, st := range []*State{first, second} {
		release, err := chooseAddresses(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
	if first.Octet == second.Octet || first.Sites[0].APIServer == second.Sites[0].APIServer {
		t.Errorf("both labs have %s", first.Sites[0].APIServer)
	}
}

func TestReadTSIG(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	for text, want := range map[string]tsigKey{
		"key \"lab\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n": {"lab.", "hmac-sha256.", "c2VjcmV0"},
		"key lab. { algorithm \"hmac-sha512\"; secret c2VjcmV0; };":             {"lab.", "hmac-sha512.", "c2VjcmV0"},
		"key lab { secret c2VjcmV0; };":                                         {},
		"key lab { algorithm hmac-sha256; secret \"%%\"; };":                    {},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readTSIG(path)
		if (err == nil) != (want != tsigKey{}) || got != want {
			t.Errorf("%q reads as %+v (%v)", text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestUsageAddsUp(t *testing.T) {
	t.Parallel()
	a, b, gone := site.Ref{PID: 1, Start: 1}, site.Ref{PID: 2, Start: 2}, site.Ref{PID: 3, Start: 3}
	use := func(s, name string, cpu time.Duration, pss uint64) site.Use {
		return site.Use{Proc: site.Proc{Site: s, Name: name}, CPU: cpu, PSSBytes: pss}
	}
	before := map[site.Ref]site.Use{a: use("east", "etcd", time.Second, 5), gone: use("east", "x", time.Second, 9)}
	after := map[site.Ref]site.Use{a: use("east", "etcd", 2*time.Second, 10), b: use("east", "etcd", time.Second, 7), {PID: 4}: use("west", "etcd", time.Hour, 99)}
	u := usageOf("east", before, after, 4*time.Second)
	if u.PSSBytes != 17 || u.Cores != 0.5 || len(u.Programs) != 1 || u.Programs[0].Processes != 2 {
		t.Errorf("the usage is %+v", u)
	}
}
