package site

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// scanPause is the time between two looks for processes that have been told to die.
const scanPause = 20 * time.Millisecond

// End kills init (a PID namespace's first process takes all others with it), then whatever still
// carries the markers of the site (of the whole lab if site is empty), and returns once none is left.
func End(ctx context.Context, dir, site string, init Ref) error {
	if err := init.Signal(unix.SIGKILL); err != nil {
		return err
	}
	for {
		left, err := Scan(dir, site)
		if err != nil {
			return err
		}
		if len(left) == 0 && !init.Alive() {
			return nil
		}
		var failed []error
		for _, p := range left {
			failed = append(failed, Ref{PID: p.PID, Start: p.Start}.Signal(unix.SIGKILL))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the processes of %s to die, left %v: %w", orAll(site), left,
				errors.Join(append(failed, context.Cause(ctx))...))
		case <-time.After(scanPause):
		}
	}
}

func orAll(site string) string {
	if site == "" {
		return "the lab"
	}
	return site
}

// Listeners returns the loopback addresses inside prefix on which any process of this network
// namespace listens (TCP) or is bound (UDP).
func Listeners(prefix netip.Prefix) ([]netip.AddrPort, error) {
	var found []netip.AddrPort
	for _, file := range []string{"tcp", "udp"} {
		f, err := os.Open("/proc/self/net/" + file)
		if err != nil {
			return nil, fmt.Errorf("look for listeners in %s: %w", prefix, err)
		}
		s := bufio.NewScanner(f)
		for s.Scan() {
			e, ok := parseSocket(s.Text())
			listening := file == "udp" || e.State == tcpListen
			if ok && listening && prefix.Contains(e.Local.Addr()) {
				found = append(found, e.Local)
			}
		}
		if err := errors.Join(s.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read /proc/self/net/%s: %w", file, err)
		}
	}
	return found, nil
}

const tcpListen = 0x0A

// Socket is a line of /proc/net/tcp or udp.
type Socket struct {
	Local, Remote netip.AddrPort
	State         uint8
	Inode         uint64
}

// parseSocket reads "  1: 0100007F:1F90 00000000:0000 0A … uid timeout inode …"; addresses are
// little-endian hexadecimal on the machines that a lab runs on.
func parseSocket(line string) (Socket, bool) {
	f := strings.Fields(line)
	if len(f) < 10 || !strings.HasSuffix(f[0], ":") {
		return Socket{}, false
	}
	local, ok1 := parseHexAddr(f[1])
	remote, ok2 := parseHexAddr(f[2])
	st, err1 := strconv.ParseUint(f[3], 16, 8)
	inode, err2 := strconv.ParseUint(f[9], 10, 64)
	return Socket{Local: local, Remote: remote, State: uint8(st), Inode: inode}, ok1 && ok2 && err1 == nil && err2 == nil
}

func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || (len(b) != 4 && len(b) != 16) {
		return netip.AddrPort{}, false
	}
	if len(b) == 16 { // four little-endian words; IPv4 is mapped into the last
		for i := 0; i < 16; i += 4 {
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), uint16(p)), true
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}), uint16(p)), true
}
