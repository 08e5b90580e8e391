package capture

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	watchFor   = 5 * time.Minute // and up to as long again, so that not all end at once
)

// source lists a shelf and watches it, again and again.
type source struct {
	shelf   *shelf
	version string // what the watch goes on from; empty: list first
	stop    context.CancelFunc
	ended   chan struct{}
	retry   chan struct{} // ends a pause

	// Guarded by the mu of sources.
	tried  bool      // the first list ended, one way or the other
	broken time.Time // since when it does not work; zero: it does
	reason string
	asked  bool // it was told to try again because it took long
	named  bool // as missing
	sure   bool // the site said that it may not be read
}

// poke ends a pause.
func (s *source) poke() {
	select {
	case s.retry <- struct{}{}:
	default:
	}
}

// start begins to follow a shelf.
func (f *follower) start(ctx context.Context, s *shelf) {
	ctx, cancel := context.WithCancelCause(ctx)
	src := &source{shelf: s, ended: make(chan struct{}), retry: make(chan struct{}, 1), stop: func() { cancel(errStopped) }}
	f.sources.add(src)
	f.group.Go(func() error {
		defer close(src.ended)
		err := f.follow(ctx, src)
		if errors.Is(context.Cause(ctx), errStopped) {
			return nil
		}
		return err
	})
}

// errStopped: the kind is not followed any more.
var errStopped = errors.New("no longer followed")

// follow keeps a shelf as it is at the site.
func (f *follower) follow(ctx context.Context, src *source) error {
	pause := firstRetry
	for {
		began := time.Now()
		var err error
		if src.version == "" {
			src.version, err = f.list(ctx, src.shelf)
			f.tried(src, err)
		} else {
			err = f.watch(ctx, src)
		}
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		if err == nil && (time.Since(began) > time.Second || pause == firstRetry) {
			pause = min(2*pause, lastRetry) // of watches that end at once, one goes on at once
			continue
		}
		switch judge(ctx, err) {
		case well:
		case fatal:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		case expired: // events were missed: only a list tells what became of them
			src.version = ""
		case gone:
			src.version = ""
			f.trouble(src, errors.New("it is not served any more"), false)
			f.lookAgain(debounce)
		case refused:
			f.trouble(src, err, apierrors.IsForbidden(err))
		case lost:
			f.trouble(src, err, false)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-src.retry:
			pause = firstRetry
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, lastRetry)
	}
}

// tried notes how a list ended.
func (f *follower) tried(src *source, err error) {
	if err == nil {
		f.well(src)
	}
	f.sources.mu.Lock()
	defer f.sources.mu.Unlock()
	src.tried = true
	f.nudge()
}

// well notes that a source works.
func (f *follower) well(src *source) {
	f.sources.mu.Lock()
	was := src.broken
	src.broken, src.reason, src.asked, src.named, src.sure = time.Time{}, "", false, false, false
	f.sources.mu.Unlock()
	if !was.IsZero() && f.missing.clear(src.shelf.what()) {
		f.touch()
	}
}

// trouble notes that a source does not work. What the site says for certain is missing at once; what may be
// a moment's fault only when it lasts.
func (f *follower) trouble(src *source, err error, certain bool) {
	f.sources.mu.Lock()
	if src.broken.IsZero() {
		src.broken = time.Now()
	}
	src.reason = why(err)
	if certain {
		src.named, src.sure = true, true
	}
	f.nudge()
	f.sources.mu.Unlock()
	if certain && f.missing.set(src.shelf.what(), src.reason) {
		f.touch()
	}
}

// lastChance is what a watch that is broken for long gets once the site answers.
const lastChance = 2 * time.Second

// state says whether everything was listed and every watch that broke had time to go on, or what is waited
// for; a source that had its time is late.
func (s *sources) state(now time.Time, grace time.Duration) (late []*source, waits string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.all {
		switch {
		case !src.tried:
			return nil, "the objects to be listed"
		case src.broken.IsZero() || src.named:
		case now.Sub(src.broken) < grace:
			waits = "watches to go on"
		default:
			late = append(late, src)
		}
	}
	return late, waits
}

// giveUp calls what late sources bring missing, when the site answers and they had a last chance.
func (f *follower) giveUp(ctx context.Context, late []*source) {
	if !f.answers(ctx) {
		return
	}
	for _, s := range late {
		f.sources.mu.Lock()
		name := s.asked && !s.broken.IsZero()
		if name {
			s.named = true
		} else if !s.broken.IsZero() {
			s.asked, s.broken = true, time.Now().Add(lastChance-f.o.grace)
			s.poke()
		}
		reason := s.reason
		f.sources.mu.Unlock()
		if name && f.missing.set(s.shelf.what(), reason) {
			f.touch()
		}
	}
}

// sources are all that is followed.
type sources struct {
	mu  sync.Mutex
	all map[string]*source
}

func (s *sources) add(src *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[src.shelf.what()] = src
}

func (s *sources) remove(src *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, src.shelf.what())
}

func (s *sources) follows(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[what] != nil
}

func (s *sources) list() []*source {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.all))
}

// retry lets all that are broken try again, and counts their time from now on.
func (s *sources) retry(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.all {
		if !src.broken.IsZero() && !src.sure {
			src.broken, src.asked, src.named = now, false, false
		}
		src.poke()
	}
}

// clusterOnes are the shelves of kinds of the whole cluster that are followed.
func (s *sources) clusterOnes() []*shelf {
	var out []*shelf
	for _, src := range s.list() {
		if src.shelf.namespace == "" && src.shelf.only == "" {
			out = append(out, src.shelf)
		}
	}
	return out
}
