package dns

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
)

const goodKey = `# the key of the tests
key "lifeboat-key" {
	algorithm hmac-sha256; // as tsig-keygen writes it
	secret "bGlmZWJvYXQgdGVzdCBrZXkgbnVtYmVyIG9uZSAgIQ==";
};
`

// bind is a BIND server that is the authority for example.com.
type bind struct {
	address, key string // host:port, path of the key file
	process      *os.Process
	hosts        atomic.Int32
}

func startBind(t *testing.T) *bind {
	t.Helper()
	program, err := exec.LookPath("named")
	if err != nil {
		if program = "/usr/sbin/named"; !executable(program) {
			if os.Getenv("LIFEBOAT_CI") != "" {
				t.Fatal("named is missing: install the Debian package bind9")
			}
			t.Skip("named is missing: install the Debian package bind9")
		}
	}
	dir := t.TempDir()
	b := &bind{address: freeAddress(t), key: filepath.Join(dir, "update.key")}
	_, port, _ := net.SplitHostPort(b.address)
	write(t, b.key, goodKey)
	write(t, filepath.Join(dir, "example.com.zone"), `$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 7
@ IN NS ns
ns IN A 127.0.0.1
alias IN CNAME elsewhere.example.net.
*.wild 20 IN A 192.0.2.77
`)
	write(t, filepath.Join(dir, "static.zone"), "$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 7\n@ IN NS ns.example.com.\n")
	write(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`include "%s";
options {
	directory "%s"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
	listen-on port %s { 127.0.0.1; }; listen-on-v6 { none; }; notify no;
};
controls { };
zone "example.com" { type primary; file "example.com.zone"; update-policy { grant lifeboat-key wildcard *.example.com.; }; };
zone "static.test" { type primary; file "static.zone"; };
`, b.key, dir, port))
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "-g", "-c", filepath.Join(dir, "named.conf"), "-n", "1")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.process = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the last that named said: %s", log.Bytes()[max(0, log.Len()-3000):])
		}
	})
	b.await(t)
	return b
}

// await waits until the server answers for its zone.
func (b *bind) await(t *testing.T) {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion("example.com.", mdns.TypeSOA)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r, err := mdns.Exchange(m, b.address); err == nil && r.Rcode == mdns.RcodeSuccess {
			return
		}
	}
	t.Fatalf("named did not answer at %s within 20 s", b.address)
}

func (b *bind) Driver(t *testing.T) driver.Traffic { return b.driver(t) }

func (b *bind) driver(t *testing.T) *Driver {
	t.Helper()
	d, err := New(dr.Zone{Name: "example.com", RFC2136: &dr.RFC2136{Server: b.address, Key: dr.KeySource{File: b.key}}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (b *bind) Host(*testing.T) string { return fmt.Sprintf("Host%d.example.com", b.hosts.Add(1)) }

func (b *bind) Set(t *testing.T, host string, r driver.Record) {
	t.Helper()
	var script strings.Builder
	server, port, _ := net.SplitHostPort(b.address)
	fmt.Fprintf(&script, "server %s %s\nzone example.com\nupdate delete %s\n", server, port, host)
	for _, a := range r.Addresses {
		kind := "A"
		if strings.Contains(a, ":") {
			kind = "AAAA"
		}
		fmt.Fprintf(&script, "update add %s %d %s %s\n", host, int(r.TTL.Seconds()), kind, a)
	}
	b.nsupdate(t, script.String()+"send\n")
}

// nsupdate changes records as another administrator would, with BIND's own client.
func (b *bind) nsupdate(t *testing.T, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsupdate", "-k", b.key)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nsupdate: %v\n%s\n%s", err, script, out)
	}
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0
}

// freeAddress finds a port that is free for both UDP and TCP.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		u, err := net.ListenPacket("udp", address)
		l.Close()
		if err == nil {
			u.Close()
			return address
		}
	}
	t.Fatal("no port is free for both UDP and TCP")
	return ""
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
