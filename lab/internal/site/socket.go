package site

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
)

// SocketInode finds the socket whose local end is peer and whose remote end is here, of network "tcp" or
// "udp"; 0 if there is none. A UDP socket need not be connected, nor bound to one address.
func SocketInode(network string, peer, here netip.AddrPort) (uint64, error) {
	if network != "tcp" && network != "udp" {
		return 0, fmt.Errorf("look for a socket: unknown network %q", network)
	}
	for _, file := range []string{network, network + "6"} {
		inode, err := socketIn("/proc/self/net/"+file, network == "udp", peer, here)
		if errors.Is(err, os.ErrNotExist) { // no IPv6
			continue
		}
		if err != nil || inode != 0 {
			return inode, err
		}
	}
	return 0, nil
}

func socketIn(path string, datagrams bool, peer, here netip.AddrPort) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("look for a socket: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		e, ok := parseSocket(s.Text())
		if !ok || e.Local.Port() != peer.Port() {
			continue
		}
		exact := e.Local == peer && e.Remote == here
		loose := datagrams && e.Remote.Port() == 0 && (e.Local.Addr() == peer.Addr() || e.Local.Addr().IsUnspecified())
		if exact || loose {
			return e.Inode, nil
		}
	}
	if err := s.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return 0, nil
}

// SocketOwner returns the site marker of the process that has the socket open; empty if no process with
// a marker has it.
func SocketOwner(inode uint64) (string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return "", fmt.Errorf("look for a socket's process: %w", err)
	}
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		_, of := Markers(pid)
		if of != "" && hasFile(pid, want) {
			return of, nil
		}
	}
	return "", nil
}

func hasFile(pid int, want string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // gone
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == want {
			return true
		}
	}
	return false
}
