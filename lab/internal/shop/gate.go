package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// RestoringMarker, in a data directory, says that a restore of it has not ended.
const RestoringMarker = ".lifeboat/restoring.json"

const openRetry = time.Second

// gate hands out the store, opened on first use, unless the data is being restored: then there must be
// no new empty store, no order taken, and the store that was open is read again afterwards.
type gate struct {
	marker string // path; empty: none
	open   func(context.Context) (Store, error)
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	store   Store
	failed  error // of the last try to open, given again until retryAt
	retryAt time.Time
}

func newGate(dataDir string, open func(context.Context) (Store, error), now func() time.Time, log *slog.Logger) *gate {
	g := &gate{open: open, now: now, log: log}
	if dataDir != "" {
		g.marker = filepath.Join(dataDir, RestoringMarker)
	}
	return g
}

func (g *gate) get(ctx context.Context) (Store, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.restoring(); err != nil {
		if g.store != nil {
			g.log.Warn("letting go of the data", "reason", err)
			err = errors.Join(err, g.store.Close())
			g.store = nil
		}
		return nil, err
	}
	if g.store != nil {
		return g.store, nil
	}
	if g.failed != nil && g.now().Before(g.retryAt) {
		return nil, g.failed
	}
	s, err := g.open(ctx)
	if err != nil {
		g.log.Error("the data cannot be served", "error", err)
		g.failed, g.retryAt = err, g.now().Add(openRetry)
		return nil, err
	}
	g.store, g.failed = s, nil
	return s, nil
}

func (g *gate) restoring() error {
	if g.marker == "" {
		return nil
	}
	_, err := os.Lstat(g.marker)
	switch {
	case err == nil:
		return fmt.Errorf("%w: %s exists", ErrRestoring, g.marker)
	case errors.Is(err, os.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("looking for a restore under way: %w", err)
	}
}

func (g *gate) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.store == nil {
		return nil
	}
	err := g.store.Close()
	g.store = nil
	return err
}
