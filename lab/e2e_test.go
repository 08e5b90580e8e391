package lab

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

func needE2E(t *testing.T) {
	t.Helper()
	if os.Getenv("LIFEBOAT_E2E") == "" {
		t.Skip("starts whole clusters: run with `make e2e`")
	}
}

// bin is where `make build` puts the programs.
func bin(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lab-kube")); err != nil {
		t.Fatalf("%v: build it with `make build`", err)
	}
	return dir
}

func options(t *testing.T, nodes Nodes) Options {
	t.Helper()
	b := bin(t)
	return Options{
		Name: "e2e", Dir: filepath.Join(t.TempDir(), "lab"), Nodes: nodes,
		SelfBinary: filepath.Join(b, "lifeboat-lab"), KubeBinary: filepath.Join(b, "lab-kube"),
		LifeboatBinary: filepath.Join(b, "lifeboat"), ShopBinary: filepath.Join(b, "shop"), PauseBinary: filepath.Join(b, "pause"),
		Progress: func(line string) { t.Log(line) },
	}
}

// start brings a lab up, and takes it down when the test ends, whatever the test made of it.
func start(t *testing.T, o Options) *Lab {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // the test's own has ended
		defer cancel()
		if l, err := Open(o.Dir); err == nil {
			if err := l.Down(ctx); err != nil {
				t.Errorf("the lab is not taken down: %v", err)
			}
		}
	})
	began := time.Now()
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up after %s", time.Since(began).Round(100*time.Millisecond))
	return l
}

func status(t *testing.T, l *Lab) *State {
	t.Helper()
	st, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func ctl(t *testing.T, l *Lab, name string, args ...string) (string, error) {
	t.Helper()
	st := status(t, l)
	s, err := find(st, name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := kubectl(ctx, st, s, nil, args...)
	return strings.TrimSpace(string(out)), err
}

func mustCtl(t *testing.T, l *Lab, name string, args ...string) string {
	t.Helper()
	out, err := ctl(t, l, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLifeOfALab(t *testing.T) {
	needE2E(t)
	o := options(t, Processes)
	l := start(t, o)
	if st := status(t, l); len(st.Notes) != 1 && os.Getuid() == 0 {
		t.Errorf("a lab with nothing wrong notes %q", st.Notes)
	}
	mustCtl(t, l, "east", "create", "configmap", "kept", "--from-literal=word=aye")
	if got := mustCtl(t, l, "west", "get", "nodes", "-o", "name"); got != "node/west" {
		t.Errorf("the nodes of west are %q", got)
	}
	if err := l.Sample(t.Context(), "east", SampleHost, time.Second, o.Progress); err != nil {
		t.Fatal(err)
	}
	if got := mustCtl(t, l, "east", "-n", SampleNamespace, "exec", "deploy/shop", "--", "/bin/sh", "-c", "echo $SHOP_SITE"); got != "east" {
		t.Errorf("in its pod the sample is at %q", got)
	}

	t.Run("up again", func(t *testing.T) {
		said := ""
		again := o
		again.Progress = func(line string) { said = line }
		if _, err := Up(t.Context(), again); err != nil || !strings.Contains(said, "already running") {
			t.Errorf("said %q (%v)", said, err)
		}
		again.Sites = []string{"north"}
		if _, err := Up(t.Context(), again); err == nil {
			t.Error("another lab was started in its place")
		}
	})
	t.Run("cut and heal", func(t *testing.T) { cutAndHeal(t, l) })
	t.Run("kill and start", func(t *testing.T) { killAndStart(t, l, o) })
	t.Run("up after a crash of one daemon", func(t *testing.T) {
		signalAll(t, l, "east", "kube-controller-manager")
		await(t, "the controller manager runs again", 30*time.Second, func() bool { return has(t, l, "east", "kube-controller-manager") })
	})
	t.Run("down after a crash of everything", func(t *testing.T) { downAfterCrash(t, l) })
}

func cutAndHeal(t *testing.T, l *Lab) {
	st := status(t, l)
	east, west := st.Sites[0], st.Sites[1]
	answers := func(marker, url string) bool {
		// curl's part, by a process that carries a site's marker or none
		cmd := exec.Command("curl", "-sk", "--max-time", "1", url+"/readyz")
		if marker != "" {
			cmd.Env = append(os.Environ(), state.EnvLab+"="+l.Dir(), state.EnvSite+"="+marker)
		}
		out, err := cmd.Output()
		return err == nil && string(out) == "ok"
	}
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip("install curl")
	}
	for _, c := range []struct {
		a, b                                       string
		oneWay                                     bool
		clientEast, clientWest, westEast, eastWest bool
	}{
		{"client", "east", false, false, true, true, true},
		{"east", "west", false, true, true, false, false},
		{"west", "east", true, true, true, false, true},
	} {
		if err := l.Cut(t.Context(), c.a, c.b, c.oneWay); err != nil {
			t.Fatal(err)
		}
		got := [4]bool{answers("", east.APIServer), answers("", west.APIServer), answers("west", east.APIServer), answers("east", west.APIServer)}
		if want := [4]bool{c.clientEast, c.clientWest, c.westEast, c.eastWest}; got != want {
			t.Errorf("cut %s %s (one way %v): client-east, client-west, west-east, east-west answer %v, want %v", c.a, c.b, c.oneWay, got, want)
		}
		if err := l.Heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !answers("", east.APIServer) || !answers("west", east.APIServer) || !answers("east", west.APIServer) {
			t.Errorf("healed after %s %s, and yet not everything answers", c.a, c.b)
		}
	}
	if err := l.Cut(t.Context(), "east", "vault", false); err == nil {
		t.Error("a vault was cut off that the lab does not know")
	}
}

func killAndStart(t *testing.T, l *Lab, o Options) {
	began := time.Now()
	if err := l.Kill(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	t.Logf("dead after %s", time.Since(began).Round(time.Millisecond))
	if left, err := site.Scan(l.Dir(), "east"); err != nil || len(left) > 0 {
		t.Errorf("of east there lives %v (%v)", left, err)
	}
	st := status(t, l)
	if st.Sites[0].State != state.Killed || st.Sites[1].State != state.Running {
		t.Errorf("east is %s, west is %s", st.Sites[0].State, st.Sites[1].State)
	}
	mustCtl(t, l, "west", "get", "namespaces")
	if err := l.Kill(t.Context(), "east"); err != nil {
		t.Errorf("killing a dead site: %v", err)
	}
	if err := l.Start(t.Context(), "east", o.Progress); err != nil {
		t.Fatal(err)
	}
	if got := mustCtl(t, l, "east", "get", "configmap", "kept", "-o", "jsonpath={.data.word}"); got != "aye" {
		t.Errorf("after its death east holds %q", got)
	}
	mustCtl(t, l, "east", "-n", SampleNamespace, "rollout", "status", "deployment/shop", "--timeout=50s")
}

// has says whether a program of that name runs on a site.
func has(t *testing.T, l *Lab, siteName, program string) bool {
	t.Helper()
	procs, err := site.Scan(l.Dir(), siteName)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if p.Name == program {
			return true
		}
	}
	return false
}

// signalAll kills the processes of a lab: of one site, or program, or all where those are empty.
func signalAll(t *testing.T, l *Lab, siteName, program string) {
	t.Helper()
	procs, err := site.Scan(l.Dir(), siteName)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range procs {
		if program == "" || p.Name == program {
			n++
			if err := (site.Ref{PID: p.PID, Start: p.Start}).Signal(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n == 0 {
		t.Fatalf("nothing of %q %q to kill", siteName, program)
	}
}

func await(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", within, what)
		}
	}
}

func downAfterCrash(t *testing.T, l *Lab) {
	st := status(t, l)
	// A first process that is gone while its record stays, and a PID that is now somebody else's.
	stale := site.Ref{PID: os.Getpid(), Start: 1}
	if err := state.WriteJSON(l.dir.Site("west").Init(), stale); err != nil {
		t.Fatal(err)
	}
	signalAll(t, l, "", "")
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, st)
}

func nothingLeft(t *testing.T, st *State) {
	t.Helper()
	if left, err := site.Scan(st.Dir, ""); err != nil || len(left) > 0 {
		t.Errorf("there lives %v (%v)", left, err)
	}
	if _, err := os.Stat(st.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there (%v)", err)
	}
	if st.Nodes == state.Processes {
		if at, err := site.Listeners(layout.Whole(st.Octet)); err != nil || len(at) > 0 {
			t.Errorf("somebody listens on %v (%v)", at, err)
		}
		return
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	own := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(st.Octet), 0, 0}), 16)
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && own.Contains(p.Addr()) {
			t.Errorf("the address %s is still there", a)
		}
	}
}

func TestInterruptedUpLeavesNothingRunning(t *testing.T) {
	needE2E(t)
	o := options(t, Processes)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := Up(ctx, o); err == nil {
		t.Fatal("up was not interrupted")
	}
	if left, err := site.Scan(o.Dir, ""); err != nil || len(left) > 0 {
		t.Errorf("there lives %v (%v)", left, err)
	}
	if _, err := os.Stat(layout.Dir(o.Dir).Site("east").Log("init")); err != nil {
		t.Errorf("the logs are gone: %v", err)
	}
	l := start(t, o) // starts over
	signalAll(t, l, "", "")
	await(t, "everything is dead", 10*time.Second, func() bool { p, err := site.Scan(l.Dir(), ""); return err == nil && len(p) == 0 })
	again, err := Up(t.Context(), o) // a lab that was up comes back with its data, after a reboot say
	if err != nil {
		t.Fatal(err)
	}
	mustCtl(t, again, "east", "get", "node", "east")
}

func TestPodsLifeOfALab(t *testing.T) {
	needE2E(t)
	if err := podnode.Preflight(); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	o := options(t, Pods)
	l := start(t, o)
	if err := l.Sample(t.Context(), "east", SampleHost, time.Second, o.Progress); err != nil {
		t.Fatal(err)
	}
	mustCtl(t, l, "east", "create", "configmap", "kept", "--from-literal=word=aye")
	killAndStart(t, l, o)
	downAfterCrash(t, l)
}

// The command as an ordinary user, and where not even user namespaces are to be had.
func TestUnprivileged(t *testing.T) {
	needE2E(t)
	if os.Getuid() != 0 {
		t.Skip("the other tests are unprivileged already")
	}
	programs := t.TempDir()
	if err := os.Chmod(filepath.Dir(programs), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lifeboat-lab", "lab-kube", "lifeboat", "shop"} {
		copyFile(t, filepath.Join(bin(t), name), filepath.Join(programs, name))
	}
	// One shell for all commands: a user namespace can see into itself, but not into its siblings.
	const all = `status=0
for args in "up" "sample east" "kill east" "start east" "kill east"; do
	"$0" --dir "$1" $args || { echo "FAILED: $args"; status=1; }
done
grep -lz "^LIFEBOAT_LAB_SITE=east$" /proc/[0-9]*/environ 2>/dev/null && { echo "FAILED: these live after the kill"; status=1; }
"$0" --dir "$1" down || status=1
exit $status`
	none := `echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all --inh-caps -all sh -c "$2" "$0" "$1"`
	for name, c := range map[string]struct {
		argv []string
		note bool
	}{"user namespace": {[]string{"sh", "-c", all}, false}, "no namespace": {[]string{"unshare", "-Ur", "sh", "-c", none}, true}} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			if err := os.Chmod(filepath.Dir(home), 0o755); err != nil { // others may pass through
				t.Fatal(err)
			}
			if err := os.Chown(home, 65534, 65534); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(home, "lab")
			argv := append(append([]string{}, c.argv...), filepath.Join(programs, "lifeboat-lab"), dir, all)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, home
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if strings.Contains(string(out), "no PID namespaces") != c.note {
				t.Errorf("it says\n%s", out)
			}
			if err := site.End(ctx, dir, "", site.Ref{}); err != nil { // what a failure left
				t.Error(err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory is still there (%v)", err)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
