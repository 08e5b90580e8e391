package podnode

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long a test waits for an answer that comes in no time, and for one that never comes.
const (
	long  = 5 * time.Second
	short = 150 * time.Millisecond
)

// needRoot skips, or fails where everything must be present, a test that changes the machine's network.
func needRoot(t *testing.T) {
	t.Helper()
	if err := Preflight(); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatalf("LIFEBOAT_CI is set, and this machine cannot run nodes of real pods: %v", err)
		}
		t.Skipf("needs a machine that can run nodes of real pods: %v", err)
	}
}

// testPlan is the plan of a lab of its own, whose network is gone when the test has ended.
func testPlan(t *testing.T, sites ...string) Plan {
	t.Helper()
	octet, err := FreeOctet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := Plan{Dir: t.TempDir(), Octet: octet, Sites: sites}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own context has ended
		defer cancel()
		if err := NetDown(ctx, p); err != nil {
			t.Error(err)
		}
		assertNothingLeft(t, p)
	})
	return p
}

func assertNothingLeft(t *testing.T, p Plan) {
	t.Helper()
	for _, argv := range [][]string{{"ip", "link"}, {"ip", "netns"}, {"ip", "route", "show", "table", "all"}, {"nft", "list", "tables"},
		{"find", cgroupRoot, "-maxdepth", "2", "-name", "lifeboat-*"}, {"cat", "/proc/mounts"}} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", argv, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, p.ID()) {
				t.Errorf("left behind, says %v: %s", argv, line)
			}
		}
	}
}

// in runs f on a thread that is in the site's network.
func in(t *testing.T, p Plan, site string, f func() error) error {
	t.Helper()
	s, err := p.Site(site)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(namespacePath(s.Namespace), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// echo answers on the address with what it is sent; at is a site or "" for the root namespace.
func echo(t *testing.T, p Plan, at, address string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) { l, err = net.Listen("tcp4", address); return err }
	var err error
	if at == "" {
		err = listen()
	} else {
		err = in(t, p, at, listen)
	}
	if err != nil {
		t.Fatalf("listen on %s in %q: %v", address, at, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

func dial(t *testing.T, p Plan, from, address string, within time.Duration) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	connect := func() (err error) { c, err = net.DialTimeout("tcp4", address, within); return err }
	if from == "" {
		return c, connect()
	}
	err := in(t, p, from, connect)
	return c, err
}

// talks says whether the connection carries data both ways.
func talks(c net.Conn, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil {
		return err
	}
	if !bytes.Equal(b, []byte("hello")) {
		return errors.New("another answer")
	}
	return nil
}

// stalls says whether an error is a silence, and not a refusal.
func stalls(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// trial is a network of two sites on which paths are tried.
type trial struct {
	t *testing.T
	p Plan
}

func newTrial(t *testing.T) trial {
	needRoot(t)
	p := testPlan(t, "east", "west")
	for range 2 { // the second time it is there already
		if err := NetUp(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	echo(t, p, "east", "0.0.0.0:7000")
	echo(t, p, "west", "0.0.0.0:7000")
	echo(t, p, "", p.DNSAddr().String()+":7000")
	echo(t, p, "", p.VaultAddr().String()+":7000")
	return trial{t, p}
}

func (tr trial) must(err error) {
	tr.t.Helper()
	if err != nil {
		tr.t.Fatal(err)
	}
}

// expect tries every path; broken are those that must stall, as "from>to".
func (tr trial) expect(when string, broken ...string) {
	tr.t.Helper()
	east, west := tr.p.site(1), tr.p.site(2)
	eastLB := east.LB.Addr().Next().String()
	for _, path := range []struct{ from, to, address string }{
		{Client, "east", east.Address.String()}, {Client, "west", west.Address.String()}, {Client, "east", eastLB},
		{"west", "east", east.Address.String()}, {"west", "east", eastLB}, {"east", "west", west.Address.String()},
		{"east", DNS, tr.p.DNSAddr().String()}, {"west", DNS, tr.p.DNSAddr().String()}, {"west", Vault, tr.p.VaultAddr().String()},
	} {
		want, within, from := true, long, path.from
		if slices.Contains(broken, path.from+">"+path.to) {
			want, within = false, short
		}
		if from == Client {
			from = ""
		}
		c, err := dial(tr.t, tr.p, from, path.address+":7000", within)
		if err == nil {
			err = errors.Join(talks(c, within), c.Close())
		}
		if want && err != nil {
			tr.t.Errorf("%s: %s to %s (%s): %v", when, path.from, path.to, path.address, err)
		}
		if !want && !stalls(err) {
			tr.t.Errorf("%s: %s to %s (%s): %v, want a silence", when, path.from, path.to, path.address, err)
		}
	}
}

func TestCutsAndHeals(t *testing.T) {
	tr, ctx := newTrial(t), t.Context()
	p, must, expect := tr.p, tr.must, tr.expect
	expect("at first")

	open, err := dial(t, p, "west", p.site(1).Address.String()+":7000", long)
	must(err)
	defer open.Close()
	must(talks(open, long))
	must(Cut(ctx, p, "east", "west", false))
	must(Cut(ctx, p, "east", "west", false))
	if err := talks(open, short); !stalls(err) {
		t.Errorf("an open connection across the cut: %v, want a silence", err)
	}
	expect("east–west cut", "east>west", "west>east")
	must(Heal(ctx, p, "west", "east"))
	expect("east–west healed")

	must(Cut(ctx, p, "east", "west", true))
	expect("east→west cut", "east>west")
	must(Cut(ctx, p, Client, "east", true))
	must(Cut(ctx, p, "west", Vault, false))
	expect("east→west, client→east, west–vault cut", "east>west", "client>east", "west>vault")
	must(NetUp(ctx, p))
	expect("the network made again", "east>west", "client>east", "west>vault")
	must(Heal(ctx, p, "east", Client))
	expect("client healed", "east>west", "west>vault")
	must(HealAll(ctx, p))
	expect("all healed")
}

func TestCutLosesDatagramsWithoutAWord(t *testing.T) {
	tr, ctx := newTrial(t), t.Context()
	p, must := tr.p, tr.must
	must(Cut(ctx, p, "east", DNS, false))
	must(Cut(ctx, p, "east", Vault, true))
	tr.expect("east–dns cut", "east>dns")
	for _, to := range []string{p.DNSAddr().String(), p.VaultAddr().String()} {
		must(in(t, p, "east", func() error {
			c, err := net.Dial("udp4", to+":9")
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			return errors.Join(err, c.Close())
		}))
	}
}

func TestDisconnectedSiteIsSilent(t *testing.T) {
	tr, ctx := newTrial(t), t.Context()
	p, must, expect := tr.p, tr.must, tr.expect
	dark := []string{"client>east", "west>east", "east>west", "east>dns"}
	must(Disconnect(ctx, p, "east"))
	expect("east off the bridge", dark...)
	must(NetUp(ctx, p))
	expect("the network made again, east off the bridge", dark...)
	must(Connect(ctx, p, "east"))
	expect("east on the bridge")
	must(Clean(ctx, p, "east"))
	expect("east cleaned")
	must(NetDown(ctx, p))
	assertNothingLeft(t, p)
	must(NetDown(ctx, p))
	must(Disconnect(ctx, p, "east"))
}

func TestNetUpMendsWhatACrashLeft(t *testing.T) {
	needRoot(t)
	p := testPlan(t, "east")
	ctx := t.Context()
	if err := NetUp(ctx, p); err != nil {
		t.Fatal(err)
	}
	east := p.site(1)
	// Each is a state that an interruption can leave.
	for what, argv := range map[string][]string{
		"a name without a namespace":     {"umount", namespacePath(east.Namespace)},
		"no interface in the root":       {"ip", "link", "delete", p.Interface()},
		"no interface in the site":       {"nsenter", "--net=" + namespacePath(east.Namespace), "ip", "link", "delete", uplink},
		"no namespace of the bridge":     {"ip", "netns", "delete", p.bridgeNS()},
		"no masquerading and no routes":  {"nsenter", "--net=" + namespacePath(east.Namespace), "sh", "-c", "nft flush ruleset; ip route delete default"},
		"a bridge without its interface": {"nsenter", "--net=" + namespacePath(p.bridgeNS()), "ip", "link", "set", "root", "nomaster"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		if err := NetUp(ctx, p); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		// The address answers, with a refusal.
		if _, err := dial(t, p, "", east.LB.Addr().Next().String()+":7001", long); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s, mended: %v, want a refusal from the site", what, err)
		}
	}
}

func TestSweepNeedsNoPlan(t *testing.T) {
	needRoot(t)
	p := testPlan(t, "east", "west")
	ctx := t.Context()
	if err := Sweep(ctx, p.Dir); err != nil {
		t.Fatalf("with nothing there: %v", err)
	}
	if err := NetUp(ctx, p); err != nil {
		t.Fatal(err)
	}
	h, err := cgroupLayout()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range h.mounts {
		if err := os.MkdirAll(filepath.Join(m, cgroupName(p, "west"), "pod"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(ctx, p.Dir); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, p)
}
