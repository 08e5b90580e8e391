package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
)

// endWithin bounds the end of a site, or of a whole lab. A killed process takes milliseconds.
const endWithin = 30 * time.Second

// Kill ends every process of a site at once, as a region dies, and returns when none is left, which it
// has then made sure of. The site's data stays.
func (l *Lab) Kill(ctx context.Context, name string) error {
	lk, err := acquire(ctx, l.dir)
	if err != nil {
		return err
	}
	defer lk.f.Close()
	st, err := l.State()
	if err != nil {
		return err
	}
	s, err := find(st, name)
	if err != nil {
		return err
	}
	if err := l.endSite(ctx, st, name); err != nil {
		return dr.Errorf(dr.ClassIncomplete, err, "Try again; lifeboat-lab down ends the whole lab.", "site %s is not wholly dead", name)
	}
	s.State = state.Killed
	return state.Save(st)
}

// endSite kills a site and proves that nothing of it lives.
func (l *Lab) endSite(ctx context.Context, st *State, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if st.Nodes == state.Pods { // first, so that nobody hears its sockets close
		if err := podnode.Disconnect(ctx, topology.PodPlan(st), name); err != nil {
			return err
		}
	}
	if err := site.End(ctx, st.Dir, name, l.ref(name)); err != nil {
		return err
	}
	if st.Nodes == state.Pods {
		return podnode.Clean(ctx, topology.PodPlan(st), name)
	}
	t, err := topology.Of(st, name)
	if err != nil {
		return err
	}
	loop, err := layout.LoopbackOf(st.Octet, t.Index)
	if err != nil {
		return err
	}
	return awaitSilence(ctx, st, func(a netip.AddrPort) bool { return loop.Holds(a.Addr()) })
}

// awaitSilence returns once nothing listens on those of the lab's loopback addresses. A process that has
// just been killed may keep its sockets a moment longer than its memory.
func awaitSilence(ctx context.Context, st *State, ours func(netip.AddrPort) bool) error {
	for {
		all, err := site.Listeners(layout.Whole(st.Octet))
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(all, func(a netip.AddrPort) bool { return !ours(a) })
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for sockets to close, left %v: %w", left, context.Cause(ctx))
		case <-time.After(waitPause):
		}
	}
}

// Down ends all processes of the lab, whatever crashed before, and removes all that it made.
func (l *Lab) Down(ctx context.Context) error {
	lk, err := acquire(ctx, l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another command removed it meanwhile
	}
	if err != nil {
		return err
	}
	defer lk.f.Close()
	st, err := state.Load(string(l.dir))
	if err != nil {
		st = nil // `up` died before it wrote one, or a full disk tore it: the markers tell what runs
	}
	if err := l.clear(ctx, st); err != nil {
		return dr.Errorf(dr.ClassIncomplete, err, "Try again.", "the lab in %s is not wholly removed", l.dir)
	}
	// Last, and the lock with it: whoever waits for the lock sees that its file is gone.
	if err := os.RemoveAll(string(l.dir)); err != nil {
		return dr.Errorf(dr.ClassIncomplete, err, "Remove the directory by hand.", "the lab's directory is not wholly removed")
	}
	return nil
}

// clear ends everything and empties the directory, but for the marker and the lock. st is nil where
// there is no state.
func (l *Lab) clear(ctx context.Context, st *State) error {
	ctx, cancel := context.WithTimeout(ctx, 2*endWithin)
	defer cancel()
	if err := l.endAll(ctx, st); err != nil {
		return err
	}
	if err := unmountBelow(string(l.dir)); err != nil {
		return err
	}
	entries, err := os.ReadDir(string(l.dir))
	if err != nil {
		return fmt.Errorf("look into the lab's directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(string(l.dir), e.Name())
		if path == l.dir.Marker() || path == l.dir.Lock() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what the lab made: %w", err)
		}
	}
	return nil
}

// endAll ends every process of the lab and takes its network down.
func (l *Lab) endAll(ctx context.Context, st *State) error {
	if st != nil {
		for _, s := range st.Sites { // by namespace first: one signal each, and no time to restart anything
			if err := l.ref(s.Name).Signal(unix.SIGKILL); err != nil {
				return err
			}
		}
	}
	if err := site.End(ctx, string(l.dir), "", l.ref(state.World)); err != nil {
		return err
	}
	if st == nil {
		return podnode.Sweep(ctx, string(l.dir)) // it finds nothing where nodes were of processes
	}
	if st.Nodes != state.Pods {
		claim := netip.AddrPortFrom(layout.Guard(st.Octet), layout.ClaimPort) // our own, during a start that fails
		return awaitSilence(ctx, st, func(a netip.AddrPort) bool { return a != claim })
	}
	plan := topology.PodPlan(st)
	for _, s := range st.Sites {
		if err := podnode.Clean(ctx, plan, s.Name); err != nil {
			return err
		}
	}
	return podnode.NetDown(ctx, plan)
}

// unmountBelow undoes mounts that a crash left below dir. There are none as a rule: sites mount in
// namespaces of their own.
func unmountBelow(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	defer f.Close()
	var below []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 4 {
			at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4])
			if strings.HasPrefix(at, dir+"/") {
				below = append(below, at)
			}
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	for i := len(below) - 1; i >= 0; i-- {
		if err := unix.Unmount(below[i], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", below[i], err)
		}
	}
	return nil
}
