package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/lab/internal/state"
)

// envRole makes the test binary play a part in a test.
const envRole = "SITE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		os.Exit(play(role))
	}
	os.Exit(m.Run())
}

func play(role string) int {
	switch role {
	case "supervisor":
		return playSupervisor()
	case "sleeper":
		time.Sleep(time.Minute)
	}
	return 0
}

func marked(t *testing.T, dir, site string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), state.EnvLab+"="+dir, state.EnvSite+"="+site)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestScanFindsByMarkers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	east := marked(t, dir, "east", "sleep", "60")
	west := marked(t, dir, "west", "sleep", "60")
	marked(t, dir+"x", "east", "sleep", "60") // another lab, whose directory begins alike
	for _, c := range []struct {
		site string
		want []int
	}{{"east", []int{east.Process.Pid}}, {"west", []int{west.Process.Pid}}, {"", []int{east.Process.Pid, west.Process.Pid}}, {"eas", nil}} {
		// A child has its own environment only once it has become the program.
		await(t, fmt.Sprintf("Scan(%q) finds %v", c.site, c.want), func() bool {
			found, err := Scan(dir, c.site)
			if err != nil {
				t.Fatal(err)
			}
			return samePIDs(found, c.want)
		})
	}
}

func samePIDs(found []Proc, want []int) bool {
	got := map[int]bool{}
	for _, p := range found {
		got[p.PID] = true
	}
	for _, pid := range want {
		if !got[pid] {
			return false
		}
	}
	return len(found) == len(want)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestScanSparesCallerAndAncestors(t *testing.T) {
	t.Parallel()
	if spare := lineage(os.Getpid()); !spare[os.Getpid()] || !spare[os.Getppid()] {
		t.Errorf("of %d with parent %d only %v are spared", os.Getpid(), os.Getppid(), spare)
	}
}

func TestEndKillsTheMarkedAndNoOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// One that ignores SIGTERM, one whose child has left its session and process group.
	marked(t, dir, "east", "sh", "-c", "trap '' TERM; sleep 60 & wait")
	marked(t, dir, "east", "sh", "-c", "setsid sleep 60 & sleep 60")
	west := marked(t, dir, "west", "sleep", "60")
	await(t, "the children run", func() bool { p, err := Scan(dir, "east"); return err == nil && len(p) >= 4 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := End(ctx, dir, "east", Ref{}); err != nil {
		t.Fatal(err)
	}
	if found, err := Scan(dir, "east"); err != nil || len(found) > 0 {
		t.Errorf("left over: %v (%v)", found, err)
	}
	if ref, err := RefOf(west.Process.Pid); err != nil || !ref.Alive() {
		t.Errorf("the other site died too (%v)", err)
	}
}

func TestRefIsNotFooledByReuse(t *testing.T) {
	t.Parallel()
	cmd := marked(t, t.TempDir(), "east", "sleep", "60")
	ref, err := RefOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := Ref{PID: ref.PID, Start: ref.Start - 1} // what had the PID before
	if other.Alive() {
		t.Error("a process is taken for the one that had its PID before")
	}
	if err := other.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	time.Sleep(50 * time.Millisecond)
	if !ref.Alive() {
		t.Fatal("the wrong process was killed")
	}
	if err := ref.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the process is dead, a zombie that nobody has waited for", func() bool { return !ref.Alive() })
	if (Ref{}).Alive() {
		t.Error("the zero Ref is alive")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "4242 (a b) (c)) S 7 4242 4242 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 9 0 987654 1 1 18446744073709551615"
	got, err := parseStat(line)
	want := stat{comm: "a b) (c)", state: 'S', ppid: 7, flags: 4194560, ticks: 42, start: 987654}
	if err != nil || got != want {
		t.Errorf("parsed %+v (%v), want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 noname S 1", "1 (x) S 1 2", strings.Replace(line, "987654", "soon", 1)} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("parsed %q", bad)
		}
	}
}

func TestParseSocket(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Socket{
		"  15: 010A427F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0000": {netip.MustParseAddrPort("127.66.10.1:6443"), netip.MustParseAddrPort("0.0.0.0:0"), tcpListen, 777},
		// IPv4 mapped into IPv6, as of a socket that listens on both
		"   0: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C001 01 0:0 00:0 0 0 0 42 1": {netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("127.0.0.1:49153"), 1, 42},
	} {
		if got, ok := parseSocket(line); !ok || got != want {
			t.Errorf("parsed %+v (%v), want %+v", got, ok, want)
		}
	}
	if _, ok := parseSocket("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"); ok {
		t.Error("the header line was taken for a socket")
	}
}

func TestListenersAndOwners(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.255.213.9:0")
	if err != nil {
		t.Skipf("this machine gives no address of 127.255.213.0/24: %v", err)
	}
	defer l.Close()
	found, err := Listeners(netip.MustParsePrefix("127.255.213.0/24"))
	if err != nil || len(found) != 1 || found[0].String() != l.Addr().String() {
		t.Errorf("found %v (%v), want %s", found, err, l.Addr())
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inode, err := SocketInode("tcp", netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil || inode == 0 {
		t.Fatalf("the connection's socket is %d (%v)", inode, err)
	}
	if !hasFile(os.Getpid(), fmt.Sprintf("socket:[%d]", inode)) {
		t.Error("this process does not seem to have its own socket")
	}
	if owner, err := SocketOwner(inode); err != nil || owner != os.Getenv(state.EnvSite) {
		t.Errorf("the socket's site is %q (%v)", owner, err)
	}
	if _, err := SocketInode("unix", netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("a unix socket was looked for")
	}
}

// playSupervisor runs three daemons as site-init would, outside of any PID namespace.
func playSupervisor() int {
	dir := os.Getenv("SITE_TEST_DIR")
	ctx, stop := context.WithCancel(context.Background())
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	go func() { <-sig; stop() }()
	if err := EnterNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	touched := func(name string) func(context.Context) error {
		return func(context.Context) error { _, err := os.Stat(filepath.Join(dir, name)); return err }
	}
	say := func(word string) string { return "echo " + word + " >> " + filepath.Join(dir, "events") }
	s := Supervisor{LogDir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	err := s.Run(ctx, []Daemon{
		{Name: "first", Argv: []string{"/bin/sh", "-c", say("first-up") + "; sleep 0.3; touch " + dir + "/go; trap '" + say("first-down") + "; exit 0' TERM; while :; do sleep 0.05; done"}, Ready: touched("go")},
		// Ends again and again; each time it leaves an orphan for the supervisor to reap.
		{Name: "flaky", Argv: []string{"/bin/sh", "-c", say("flaky-up") + "; (sleep 0.01 &) ; exit 3"}},
		{Name: "last", Argv: []string{"/bin/sh", "-c", say("last-up") + "; trap '" + say("last-down") + "; exit 0' TERM; while :; do sleep 0.05; done"}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestSupervisor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envRole+"=supervisor", "SITE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	events := func() string { b, _ := os.ReadFile(filepath.Join(dir, "events")); return string(b) }
	await(t, "all daemons run and one was restarted twice", func() bool {
		e := events()
		return strings.Count(e, "flaky-up") >= 3 && strings.Contains(e, "last-up")
	})
	if e := events(); !strings.HasPrefix(e, "first-up\n") || strings.Index(e, "flaky-up") < strings.Index(e, "first-up") {
		t.Errorf("the order of events was\n%s", e)
	}
	await(t, "no zombie is left", func() bool { return zombies(t, cmd.Process.Pid) == 0 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the supervisor ended with %v", err)
	}
	e := events()
	if down := strings.Index(e, "last-down"); down < 0 || down > strings.Index(e, "first-down") {
		t.Errorf("daemons did not stop in reverse order:\n%s", e)
	}
}

func zombies(t *testing.T, parent int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.ppid == parent && st.state == 'Z' {
			n++
		}
	}
	return n
}

func TestDaemonsDieWithTheirSupervisor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envRole+"=supervisor", "SITE_TEST_DIR="+dir, state.EnvLab+"="+dir, state.EnvSite+"=east")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	await(t, "daemons run", func() bool { p, err := Scan(dir, ""); return err == nil && len(p) >= 3 })
	ref, err := RefOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := End(ctx, dir, "east", ref); err != nil {
		t.Fatal(err)
	}
	if left, err := Scan(dir, ""); err != nil || len(left) > 0 {
		t.Errorf("left %v (%v)", left, err)
	}
}

func TestEndSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := marked(t, dir, "east", "sleep", "60")
	await(t, "the child runs", func() bool { p, err := Scan(dir, "east"); return err == nil && len(p) == 1 })
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no time left")
	cancel(why)
	err := End(ctx, dir, "east", Ref{})
	if !errors.Is(err, why) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("the error is %v", err)
	}
}

func TestBaseEnvKeepsLittle(t *testing.T) {
	t.Parallel()
	got := strings.Join(baseEnv([]string{"PATH=/bin", "AWS_SECRET_ACCESS_KEY=x", "HOME=/root", "KUBECONFIG=y", "PATHS=z"}), " ")
	if got != "PATH=/bin HOME=/root" {
		t.Errorf("kept %q", got)
	}
}
