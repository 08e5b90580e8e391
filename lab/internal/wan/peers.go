package wan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// ServePeers answers which site the process at one end of a connection belongs to. It runs outside of
// all PID and user namespaces of the sites, because from inside one the others' processes cannot be seen.
//
// One question is a line "NETWORK PEER HERE"; the answer is a line with the site's name, or "client".
func ServePeers(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve questions about peers: %w", err)
		}
		go answer(c)
	}
}

func answer(c net.Conn) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(whoisWithin)); err != nil {
		return
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return
	}
	f := strings.Fields(line)
	if len(f) != 3 {
		return
	}
	peer, err1 := netip.ParseAddrPort(f[1])
	here, err2 := netip.ParseAddrPort(f[2])
	if err1 != nil || err2 != nil {
		return
	}
	name, err := PeerOf(f[0], peer, here)
	if err != nil {
		_, _ = fmt.Fprintf(c, "! %v\n", err)
		return
	}
	_, _ = fmt.Fprintln(c, name)
}

// PeerOf finds the site of the process that has the socket with the local address peer connected to
// here; Client if no process of a lab has it. Only processes of labs are looked into.
func PeerOf(network string, peer, here netip.AddrPort) (string, error) {
	inode, err := site.SocketInode(network, peer, here)
	if err != nil || inode == 0 {
		return Client, err
	}
	name, err := site.SocketOwner(inode)
	if err != nil {
		return "", err
	}
	switch name {
	case "":
		return Client, nil
	case state.World:
		return DNS, nil
	}
	return name, nil
}

func askPeer(ctx context.Context, at netip.AddrPort, network string, peer, here netip.AddrPort) (string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return "", fmt.Errorf("ask who is at %s: %w", peer, err)
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(t); err != nil {
			return "", fmt.Errorf("ask who is at %s: %w", peer, err)
		}
	}
	if _, err := fmt.Fprintf(c, "%s %s %s\n", network, peer, here); err != nil {
		return "", fmt.Errorf("ask who is at %s: %w", peer, err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("ask who is at %s: %w", peer, err)
	}
	line = strings.TrimSpace(line)
	if msg, bad := strings.CutPrefix(line, "! "); bad {
		return "", errors.New(msg)
	}
	return line, nil
}
