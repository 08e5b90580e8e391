package shop

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestMain is a shop where it is started by startShop, so that shops can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("SHOP_TEST_SERVE") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := ConfigFrom(os.Getenv)
	if err == nil {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		err = Serve(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func startShop(t *testing.T, site, dir, listen string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SHOP_TEST_SERVE=1", "SHOP_SITE="+site, "SHOP_DATA="+dir, "SHOP_LISTEN="+listen)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()
		}
	})
	return cmd
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Every order that was acknowledged is there after the shop was killed in the middle of its work, again
// and again.
func TestKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	dir, listen := t.TempDir(), freeAddress(t)
	url, log := "http://"+listen, filepath.Join(t.TempDir(), "acked.jsonl")
	for round := range 6 {
		cmd := startShop(t, "east-node", dir, listen)
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		var load sync.WaitGroup
		for n := range 4 {
			load.Go(func() {
				_, err := Load(ctx, LoadOptions{ClientOptions: ClientOptions{URL: url, Timeout: time.Second}, Rate: 400, Log: log, Prefix: fmt.Sprintf("r%d-%d", round, n)})
				if err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(250*time.Millisecond + time.Duration(round*7)*time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		load.Wait()
		cancel()
	}
	cmd := startShop(t, "east-node", dir, listen)
	v, err := Verify(t.Context(), ClientOptions{URL: url, Timeout: time.Second}, log, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if v.Acknowledged < 100 || v.Recovered != v.Acknowledged || v.Lost != 0 || v.Site != "east" {
		t.Fatalf("after kills: %+v", v)
	}
	t.Logf("%d acknowledged, %d there though not acknowledged", v.Acknowledged, v.Unacknowledged)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ending on SIGTERM: %v", err)
	}
}

// A load follows the name to another site when the TTL has ended, and what only the first site had is
// reported as lost.
func TestLoadFollowsTheName(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	address := "127.0.0.1"
	resolver := serveDNS(t, func() string { mu.Lock(); defer mu.Unlock(); return address })
	east := startInProcess(t, "east", "127.0.0.1:0")
	_, port, err := net.SplitHostPort(east)
	if err != nil {
		t.Fatal(err)
	}
	west := startInProcess(t, "west", "127.0.0.2:"+port)
	o := ClientOptions{URL: "http://shop.lab.test:" + port, Resolver: resolver, Timeout: time.Second}
	log := filepath.Join(t.TempDir(), "acked.jsonl")
	done := make(chan LoadResult, 1)
	go func() {
		r, err := Load(t.Context(), LoadOptions{ClientOptions: o, Rate: 50, Duration: 2500 * time.Millisecond, Log: log, Prefix: "l"})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	time.Sleep(500 * time.Millisecond)
	mu.Lock()
	address = "127.0.0.2"
	mu.Unlock()
	r := <-done
	if r.Sites["east"] < 20 || r.Sites["west"] < 20 {
		t.Fatalf("load: %+v", r)
	}
	v, err := Verify(t.Context(), o, log, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if v.Site != "west" || v.Lost != r.Sites["east"] || v.Recovered != r.Sites["west"] || v.FirstLostAt == nil {
		t.Fatalf("verification %+v of load %+v", v, r)
	}
	if st, err := Ask(t.Context(), ClientOptions{URL: "http://" + west, Timeout: time.Second}); err != nil || st.Site != "west" || st.Orders != int64(v.Stored) {
		t.Fatalf("status %+v, %v", st, err)
	}
}

func startInProcess(t *testing.T, site, listen string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Config{Site: site, DataDir: t.TempDir(), Listen: listen, Log: quiet(), Ready: func(a net.Addr) { ready <- a }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-ready:
		return a.String()
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
		return ""
	}
}

func serveDNS(t *testing.T, address func() string) string {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(address())}}
		_ = w.WriteMsg(m) // the client asks again
	})}
	go func() { _ = s.ActivateAndServe() }() // ends at Shutdown
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return p.LocalAddr().String()
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	base := "http://" + startInProcess(t, "east", "127.0.0.1:0")
	for _, c := range []struct {
		path string
		code int
	}{
		{"/", 200}, {"/healthz", 200}, {"/livez", 200}, {"/status", 200}, {"/orders", 200}, {"/orders?after=3&limit=1", 200},
		{"/orders?after=x", 400}, {"/orders/none", 404}, {"/nothing", 404},
	} {
		resp, err := http.Get(base + c.path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code || resp.Header.Get(SiteHeader) != "east" {
			t.Errorf("GET %s: %s from site %q, want %d from east", c.path, resp.Status, resp.Header.Get(SiteHeader), c.code)
		}
	}
}

func TestSiteOf(t *testing.T) {
	t.Parallel()
	for node, want := range map[string]string{"east": "east", "east-node": "east", "east-node-2": "east", "node": "node", "my-node-site": "my-node-site"} {
		if got := siteOf(node); got != want {
			t.Errorf("site of node %s is %s, want %s", node, got, want)
		}
	}
}
