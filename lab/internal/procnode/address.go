package procnode

import (
	"fmt"
	"net/netip"
	"sync"
)

// addresses hands out pod addresses, each long unused before it is given again, so that a new pod
// does not meet connections of an old one.
type addresses struct {
	mu     sync.Mutex
	prefix netip.Prefix
	next   netip.Addr
	used   map[netip.Addr]bool
}

func newAddresses(prefix netip.Prefix) *addresses {
	return &addresses{prefix: prefix.Masked(), next: prefix.Masked().Addr(), used: map[netip.Addr]bool{}}
}

// take reserves want if it is free and of the range, else the next free address.
func (a *addresses) take(want string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w, err := netip.ParseAddr(want); err == nil && a.prefix.Contains(w) && !a.used[w] {
		a.used[w] = true
		return w, nil
	}
	for range 1 << (32 - a.prefix.Bits()) {
		addr := a.next
		a.next = a.next.Next()
		if !a.prefix.Contains(a.next) {
			a.next = a.prefix.Addr()
		}
		// People read .0 and .255 as network and broadcast addresses; some programs refuse them.
		if last := addr.As4()[3]; last == 0 || last == 255 || a.used[addr] {
			continue
		}
		a.used[addr] = true
		return addr, nil
	}
	return netip.Addr{}, fmt.Errorf("no pod address left in %s", a.prefix)
}

func (a *addresses) free(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, addr)
}
