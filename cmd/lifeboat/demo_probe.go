package main

import (
	"context"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/wire"
)

// watcher stands where a user stands and asks for a sign of life several times a second.
type watcher struct {
	prober driver.Prober
	probe  dr.Probe
	period time.Duration

	mu      sync.Mutex
	lastOK  map[string]time.Time // by the site that answered
	firstOK map[string]time.Time
	failed  time.Time // the first failure since the last good answer; zero when all is well
	changed chan struct{}
}

func newWatcher(p dr.Probe, period time.Duration) *watcher {
	return &watcher{prober: wire.Prober(), probe: p, period: period,
		lastOK: map[string]time.Time{}, firstOK: map[string]time.Time{}, changed: make(chan struct{})}
}

// run probes until ctx is done.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(w.period)
	defer tick.Stop()
	for {
		r := w.prober.Probe(ctx, w.probe)
		if ctx.Err() != nil {
			return
		}
		w.note(r)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watcher) note(r driver.ProbeResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Err != nil {
		if w.failed.IsZero() {
			w.failed = r.Time
		}
	} else {
		w.failed = time.Time{}
		w.lastOK[r.Site] = r.Time
		if _, ok := w.firstOK[r.Site]; !ok {
			w.firstOK[r.Site] = r.Time
		}
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// seen is what the watcher knows of one site.
type seen struct {
	FirstOK, LastOK time.Time
	Failing         time.Time // since when nothing answers; zero: something does
}

func (w *watcher) seen(site string) (seen, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return seen{FirstOK: w.firstOK[site], LastOK: w.lastOK[site], Failing: w.failed}, w.changed
}

// await waits until what the watcher sees of a site satisfies ok.
func (w *watcher) await(ctx context.Context, within time.Duration, what, site string, ok func(seen) bool) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		s, changed := w.seen(site)
		if ok(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, dr.Errorf(dr.ClassIncomplete, ctx.Err(), "", "waited %s for %s", within, what)
		case <-changed:
		}
	}
}
