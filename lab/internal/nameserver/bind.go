package nameserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"lifeboat.dev/lifeboat/lab/internal/ports"
	"lifeboat.dev/lifeboat/lab/internal/svcproxy"
)

const (
	bindStart = 10 * time.Second // from start to first answer
	bindStop  = 3 * time.Second

	innerAddress = "127.0.0.1"
)

// runBIND runs named as this user, with nothing outside of its directory. BIND listens only on addresses that
// an interface has, which an address of the loopback network need not be: so it gets a port of its own at
// 127.0.0.1, and what comes in at the address wanted is passed on to it as it is.
func runBIND(ctx context.Context, o Options, named string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l, c, port, err := ports.ListenBoth(ctx, o.Address, o.Port)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	inner, err := freePort(ctx)
	if err != nil {
		return errors.Join(err, l.Close(), c.Close())
	}
	go svcproxy.Relay(ctx, l, c, net.JoinHostPort(innerAddress, strconv.Itoa(inner)))
	conf := filepath.Join(o.Dir, "named.conf")
	zoneFile := filepath.Join(o.Dir, "zone")
	if _, err := os.Stat(zoneFile); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(zoneFile, []byte(fresh(o.Zone, o.Address)), 0o600); err != nil {
			return fmt.Errorf("BIND: %w", err)
		}
	}
	if err := os.WriteFile(conf, []byte(bindConfig(o, inner, zoneFile)), 0o600); err != nil {
		return fmt.Errorf("BIND: %w", err)
	}
	cmd := exec.CommandContext(ctx, named, "-g", "-n", "1", "-c", conf)
	cmd.Dir = o.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = bindStop
	log, err := os.OpenFile(filepath.Join(o.Dir, "named.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("BIND: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("start BIND: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	server := net.JoinHostPort(o.Address, strconv.Itoa(port))
	if err := answers(ctx, o.Zone, server, ended); err != nil {
		return fmt.Errorf("BIND (see %s): %w", log.Name(), err)
	}
	o.Ready(Info{Zone: o.Zone, Server: server, KeyFile: o.keyFile(), Software: bindVersion(ctx, named)})
	err = <-ended
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("BIND ended by itself (see %s): %w", log.Name(), err)
}

// freePort finds a port that is free for TCP and UDP.
func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(innerAddress, "0"))
	if err != nil {
		return 0, fmt.Errorf("name server: %w", err)
	}
	port := ports.Of(l, 0)
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", net.JoinHostPort(innerAddress, strconv.Itoa(port)))
	if err != nil {
		return 0, errors.Join(fmt.Errorf("name server: %w", err), l.Close())
	}
	return port, errors.Join(l.Close(), c.Close())
}

func bindConfig(o Options, port int, zoneFile string) string {
	return fmt.Sprintf(`include %q;
options {
	directory %q;
	pid-file none;
	session-keyfile none;
	managed-keys-directory %q;
	listen-on port %d { %s; };
	listen-on-v6 { none; };
	recursion no;
	allow-transfer { none; };
	allow-query { any; };
	dnssec-validation no;
	notify no;
	minimal-responses yes;
};
controls { };
zone %q {
	type primary;
	file %q;
	allow-update { key %q; };
};
`, o.keyFile(), o.Dir, o.Dir, port, innerAddress, o.Zone, zoneFile, KeyName)
}

// answers waits until the server answers for its zone.
func answers(ctx context.Context, zone, server string, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, bindStart)
	defer cancel()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(zone), dns.TypeSOA)
	client := &dns.Client{Timeout: 200 * time.Millisecond}
	for {
		m, _, err := client.ExchangeContext(ctx, q, server)
		if err == nil && m.Rcode == dns.RcodeSuccess && m.Authoritative {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("ended at once: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("no answer for %s from %s within %s: %w", zone, server, bindStart, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func bindVersion(ctx context.Context, named string) string {
	out, err := exec.CommandContext(ctx, named, "-v").Output()
	if err != nil {
		return "BIND"
	}
	fields := strings.Fields(string(out)) // BIND 9.18.41-1~deb12u1-Debian (Extended Support Version) <id:>
	if len(fields) < 2 {
		return "BIND"
	}
	version, _, _ := strings.Cut(fields[1], "-")
	return "BIND " + version
}
