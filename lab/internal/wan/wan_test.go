package wan

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lifeboat.dev/lifeboat/lab/internal/state"
)

// envDial makes the test binary a process that connects somewhere and says what it hears.
const envDial = "WAN_TEST_DIAL"

func TestMain(m *testing.M) {
	if to := os.Getenv(envDial); to != "" {
		os.Exit(dialAndTell(to))
	}
	goleak.VerifyTestMain(m)
}

func dialAndTell(to string) int {
	c, err := net.Dial("tcp", to)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.LocalAddr())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has seen enough
	return 0
}

// cutsOf returns cuts to which every peer is the one named.
func cutsOf(peer string) *Cuts {
	return &Cuts{
		whois:   func(context.Context, string, netip.AddrPort, netip.AddrPort) (string, error) { return peer, nil },
		log:     slog.New(slog.DiscardHandler),
		changed: make(chan struct{}),
	}
}

func TestBlocked(t *testing.T) {
	t.Parallel()
	both, oneWay := state.Cut{A: "east", B: "west"}, state.Cut{A: Client, B: "east", OneWay: true}
	for _, c := range []struct {
		cuts         []state.Cut
		peer, target string
		want         bool
	}{
		{nil, "east", "west", false},
		{[]state.Cut{both}, "east", "west", true},
		{[]state.Cut{both}, "west", "east", true},
		{[]state.Cut{both}, Client, "west", false},
		{[]state.Cut{both}, "west", "west", false},
		{[]state.Cut{oneWay}, Client, "east", true},
		{[]state.Cut{oneWay}, "east", Client, false},
		{[]state.Cut{oneWay, both}, "west", "east", true},
	} {
		cuts := cutsOf(c.peer)
		cuts.set(c.cuts)
		if got := cuts.Blocked(c.peer, c.target); got != c.want {
			t.Errorf("cuts %v: %s to %s blocked: %v", c.cuts, c.peer, c.target, got)
		}
	}
}

// echo is a site's service behind its gate: an echo server that Forward leads to.
func echo(t *testing.T, cuts *Cuts, target string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	edge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	done := make(chan error, 1)
	go func() { done <- Forward(ctx, cuts.Gate(target).Listener(edge), server.Addr().String()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Forward ended with %v", err)
		}
		server.Close()
	})
	return edge.Addr().String()
}

func say(t *testing.T, c net.Conn, word string, within time.Duration) (string, error) {
	t.Helper()
	if word != "" {
		if _, err := fmt.Fprintln(c, word); err != nil {
			t.Fatalf("a cut is not seen by who sends: %v", err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(c).ReadString('\n')
}

func TestCutFreezesAndHealGoesOn(t *testing.T) {
	t.Parallel()
	cuts := cutsOf("west")
	addr := echo(t, cuts, "east")
	live, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if got, err := say(t, live, "before", 5*time.Second); err != nil || got != "before\n" {
		t.Fatalf("without a cut: %q, %v", got, err)
	}
	cuts.set([]state.Cut{{A: "east", B: "west"}})
	fresh, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("a partition refuses nothing: %v", err)
	}
	defer fresh.Close()
	for name, c := range map[string]net.Conn{"a live connection": live, "a new one": fresh} {
		if got, err := say(t, c, "during", 200*time.Millisecond); !os.IsTimeout(err) {
			t.Errorf("%s, cut: heard %q, %v", name, got, err)
		}
	}
	cuts.set(nil)
	for name, c := range map[string]net.Conn{"a live connection": live, "a new one": fresh} {
		if got, err := say(t, c, "", 5*time.Second); err != nil || got != "during\n" {
			t.Errorf("%s, healed: heard %q, %v", name, got, err)
		}
	}
}

func TestCutConcernsOnlyThoseCutOff(t *testing.T) {
	t.Parallel()
	cuts := cutsOf(Client)
	cuts.set([]state.Cut{{A: "east", B: "west"}, {A: "east", B: Client, OneWay: true}})
	c, err := net.Dial("tcp", echo(t, cuts, "east"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := say(t, c, "hello", 5*time.Second); err != nil || got != "hello\n" {
		t.Errorf("heard %q, %v", got, err)
	}
}

// A server that shuts down must not hang on a connection that is frozen.
func TestForwardEndsWhileCut(t *testing.T) {
	t.Parallel()
	cuts := cutsOf("west")
	cuts.set([]state.Cut{{A: "west", B: "east"}})
	c, err := net.Dial("tcp", echo(t, cuts, "east")) // echo's clean-up waits for Forward
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := say(t, c, "hello", 100*time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("heard something: %v", err)
	}
}

func TestPacketsAreDropped(t *testing.T) {
	t.Parallel()
	cuts := cutsOf("west")
	inner, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	p := cuts.Gate(DNS).PacketConn(inner)
	c, err := net.Dial("udp", inner.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hear := func() (string, error) {
		if err := p.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		n, _, err := p.ReadFrom(b)
		return string(b[:n]), err
	}
	cuts.set([]state.Cut{{A: DNS, B: "west"}})
	fmt.Fprint(c, "lost")
	if got, err := hear(); !os.IsTimeout(err) {
		t.Errorf("cut: heard %q, %v", got, err)
	}
	cuts.set(nil)
	fmt.Fprint(c, "kept")
	if got, err := hear(); err != nil || got != "kept" {
		t.Errorf("healed: heard %q, %v", got, err)
	}
}

func TestWatchFollowsTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cuts := cutsOf("west")
	cuts.file = filepath.Join(dir, "cuts.json")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cuts.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	}()
	for i, want := range []bool{true, false, true} {
		var now []state.Cut
		if want {
			now = []state.Cut{{A: "east", B: "west"}}
		}
		if err := Save(dir, now); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); cuts.Blocked("west", "east") != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("change %d of the file was not seen", i)
			}
		}
	}
}

// The service that tells peers apart is asked about real processes: one with a site's marker, one without.
func TestPeersAreTold(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServePeers(ctx, service) }()
	defer func() { cancel(); <-done }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ marker, want string }{{"west", "west"}, {"", Client}, {state.World, DNS}} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), envDial+"="+l.Addr().String())
		if c.marker != "" {
			cmd.Env = append(cmd.Env, state.EnvLab+"="+t.TempDir(), state.EnvSite+"="+c.marker)
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort(service.Addr().String())
		got, err := askPeer(ctx, at, "tcp", netip.MustParseAddrPort(conn.RemoteAddr().String()), netip.MustParseAddrPort(conn.LocalAddr().String()))
		if err != nil || got != c.want {
			t.Errorf("a process marked %q is told to be %q (%v)", c.marker, got, err)
		}
		in.Close()
		conn.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
