package capture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	// Guarded by the follower's mu.
	tried  bool      // the first list ended, one way or the other
	broken time.Time // since when it does not work; zero: it does
	reason string
	asked  bool // it was told to try again because it took long
	named  bool // as missing
	sure   bool // the site said that it may not be read
}

// retryNow ends a pause, and counts trouble from now on; the caller holds mu.
func (s *source) retryNow(now time.Time) {
	if !s.broken.IsZero() && !s.sure {
		s.broken, s.asked, s.named = now, false, false
	}
	s.poke()
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
	f.mu.Lock()
	f.sources[s.what()] = src
	f.mu.Unlock()
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
	f.mu.Lock()
	defer f.mu.Unlock()
	src.tried = true
	f.nudge()
}

// well notes that a source works.
func (f *follower) well(src *source) {
	f.mu.Lock()
	was := src.broken
	src.broken, src.reason, src.asked, src.named, src.sure = time.Time{}, "", false, false, false
	f.mu.Unlock()
	if !was.IsZero() && f.missing.clear(src.shelf.what()) {
		f.touch()
	}
}

// trouble notes that a source does not work. What the site says for certain is missing at once; what may be
// a moment's fault only when it lasts.
func (f *follower) trouble(src *source, err error, certain bool) {
	f.mu.Lock()
	if src.broken.IsZero() {
		src.broken = time.Now()
	}
	src.reason = why(err)
	if certain {
		src.named, src.sure = true, true
	}
	f.nudge()
	f.mu.Unlock()
	if certain && f.missing.set(src.shelf.what(), src.reason) {
		f.touch()
	}
}

// lastChance is what a watch that is broken for long gets once the site answers.
const lastChance = 2 * time.Second

// state says whether a checkpoint can be made, or what it waits for: everything was listed, and a watch that
// broke had time to go on. One that had is late.
func (f *follower) state(now time.Time) (late []*source, ready bool, waits string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	listing, shaky := false, false
	for _, s := range f.sources {
		switch {
		case !s.tried:
			listing = true
		case s.broken.IsZero() || s.named:
		case now.Sub(s.broken) < f.o.grace:
			shaky = true
		default:
			late = append(late, s)
		}
	}
	switch {
	case listing:
		return nil, false, fmt.Sprintf("reading %s at site %s", f.scope.Application, f.client.Site)
	case len(late) > 0:
		return late, false, ""
	case shaky:
		return nil, false, fmt.Sprintf("waiting for watches at site %s to go on", f.client.Site)
	}
	return nil, true, ""
}

// giveUp calls what late sources bring missing, when the site answers and they had a last chance.
func (f *follower) giveUp(ctx context.Context, late []*source) {
	if !f.answers(ctx) {
		return
	}
	for _, s := range late {
		f.mu.Lock()
		name := s.asked && !s.broken.IsZero()
		if name {
			s.named = true
		} else if !s.broken.IsZero() {
			s.asked, s.broken = true, time.Now().Add(lastChance-f.o.grace)
			s.poke()
		}
		reason := s.reason
		f.mu.Unlock()
		if name && f.missing.set(s.shelf.what(), reason) {
			f.touch()
		}
	}
}

// clusterOnes are the shelves of kinds of the whole cluster that are followed.
func (f *follower) clusterOnes() []*shelf {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*shelf
	for _, s := range f.sources {
		if s.shelf.namespace == "" && s.shelf.only == "" {
			out = append(out, s.shelf)
		}
	}
	return out
}
