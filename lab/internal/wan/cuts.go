// Package wan enforces partitions where all sites share one loopback: the lab's own listeners at the edge
// of each site look up which process is at the other end of a connection, and let nothing through
// between two that are cut off from each other.
//
// To the one who connects it looks as a partition does: nothing is refused and nothing is reset; what is
// sent gets no answer, and goes on where it stood once the cut is healed.
package wan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
)

// Endpoints of a cut that are no sites.
const (
	Client   = "client"   // whatever runs on this machine outside the lab
	DNS      = "dns"      // the authoritative server
	Resolver = "resolver" // the caching resolver
	Vault    = "vault"
)

// Cuts are the partitions of a lab as they are now.
type Cuts struct {
	file  string
	whois func(ctx context.Context, network string, peer, here netip.AddrPort) (string, error)
	log   *slog.Logger

	mu      sync.Mutex
	cuts    []state.Cut
	changed chan struct{} // closed, and replaced, at each change
}

// New returns the cuts of a lab; Watch keeps them up to date.
func New(st *state.State, log *slog.Logger) *Cuts {
	at := topology.OfWorld(st).Service
	return &Cuts{
		file: layout.Dir(st.Dir).Cuts(),
		whois: func(ctx context.Context, network string, peer, here netip.AddrPort) (string, error) {
			return askPeer(ctx, at, network, peer, here)
		},
		log:     log,
		changed: make(chan struct{}),
	}
}

// Save writes the cuts of the lab in dir; whoever watches learns of them at once.
func Save(dir string, cuts []state.Cut) error {
	return state.WriteJSON(layout.Dir(dir).Cuts(), cuts)
}

// Load reads the cuts of the lab in dir.
func Load(dir string) ([]state.Cut, error) {
	file := layout.Dir(dir).Cuts()
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var cuts []state.Cut
	if err == nil {
		err = json.Unmarshal(b, &cuts)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cuts in %s: %w", file, err)
	}
	return cuts, nil
}

// Watch follows the file until ctx is done.
func (c *Cuts) Watch(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the lab's cuts: %w", err)
	}
	defer w.Close()
	// The directory, because the file is replaced by renaming, and may not be there yet.
	if err := w.Add(filepath.Dir(c.file)); err != nil {
		return fmt.Errorf("watch the lab's cuts: %w", err)
	}
	for {
		if err := c.reload(); err != nil {
			c.log.Error("cuts stay as they were", "err", err)
		}
		if !c.nextChange(ctx, w) {
			return nil
		}
	}
}

func (c *Cuts) nextChange(ctx context.Context, w *fsnotify.Watcher) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-w.Events:
			if e.Name == c.file {
				return true
			}
		case err := <-w.Errors:
			c.log.Error("watching the lab's cuts", "err", err)
			return true
		}
	}
}

func (c *Cuts) reload() error {
	cuts, err := Load(filepath.Dir(c.file))
	if err != nil {
		return err
	}
	c.set(cuts)
	return nil
}

func (c *Cuts) set(cuts []state.Cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = cuts
	close(c.changed)
	c.changed = make(chan struct{})
}

// look says whether any cut keeps something from reaching target, and what tells of the next change.
func (c *Cuts) look(target string) (concerned bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.cuts {
		concerned = concerned || k.B == target || (k.A == target && !k.OneWay)
	}
	return concerned, c.changed
}

// Blocked says whether what peer begins towards target is lost.
func (c *Cuts) Blocked(peer, target string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.cuts {
		if k.A == peer && k.B == target || !k.OneWay && k.A == target && k.B == peer {
			return true
		}
	}
	return false
}
