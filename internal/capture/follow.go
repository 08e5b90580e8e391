package capture

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/kube"
)

// Store keeps the checkpoints of a capture that goes on.
type Store interface {
	Sink
	// Paths are the documents of the newest checkpoint that is kept.
	Paths() iter.Seq[string]
	// Commit makes a checkpoint of what was put and deleted so far. Nothing is put or deleted meanwhile.
	Commit(ctx context.Context, c Checkpoint) error
}

// Checkpoint is the state of an application at one moment.
type Checkpoint struct {
	Result
	Time    time.Time // nothing that the site acknowledged before is missing
	Changed int       // documents put and deleted since the checkpoint before
	Last    time.Time // when the last of them came in
}

// FollowOptions are what a caller may set.
type FollowOptions struct {
	Interval   time.Duration                 // the least time between two checkpoints; default 5 s
	Once       bool                          // end when one checkpoint is made, or none is needed
	Say        func(format string, a ...any) // what is done and waited for, a line each; nil: nothing
	grace      time.Duration                 // how long a broken watch may hold up a checkpoint; default 10 s
	rediscover time.Duration                 // between two looks at what is served; default 5 min
}

const (
	defaultInterval   = 5 * time.Second
	defaultGrace      = 10 * time.Second
	defaultRediscover = 5 * time.Minute
	// quiet is how long nothing must change before a checkpoint begins, unless it is due anyway.
	quiet = 150 * time.Millisecond
	// debounce lets the definitions of several kinds come in before their kinds are looked for.
	debounce = 500 * time.Millisecond
)

// Follow lists the scope once and then watches it, and makes a checkpoint whenever something changed, at most
// one an interval. It ends with ctx, or with an error: of the store, or of a site that rejects us before
// anything was read. A site that stops answering is waited for.
//
// A document is deleted only for a watch event or a complete list that says so. What cannot be read is kept as
// it was, and makes checkpoints incomplete by name.
func Follow(ctx context.Context, c *kube.Client, scope Scope, store Store, o FollowOptions) error {
	f := &follower{store: store, o: o.withDefaults(), sources: sources{all: map[string]*source{}}, wake: make(chan struct{}, 1)}
	var err error
	if f.engine, err = newEngine(ctx, c, scope, store); err != nil {
		return err
	}
	f.engine.changed = f.touch
	found, err := f.discover(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	f.group = group
	f.rediscoverAt = time.Now().Add(f.o.rediscover)
	shelves := f.shelves(found)
	if err := f.recall(ctx, found); err != nil {
		return err
	}
	for _, s := range shelves {
		f.start(ctx, s)
	}
	group.Go(func() error {
		err := f.loop(ctx)
		if err == nil {
			err = errDone // ends the watches too
		}
		return err
	})
	if err := group.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

// errDone ends a capture that was to make one checkpoint.
var errDone = errors.New("the checkpoint is made")

func (o FollowOptions) withDefaults() FollowOptions {
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	if o.grace <= 0 {
		o.grace = defaultGrace
	}
	if o.rediscover <= 0 {
		o.rediscover = defaultRediscover
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	return o
}

// follower is a capture that goes on.
type follower struct {
	*engine
	store Store
	o     FollowOptions
	group *errgroup.Group
	wake  chan struct{} // something has happened that the loop may wait for

	sources sources

	mu           sync.Mutex
	dirty        int       // changes since the last checkpoint
	first, last  time.Time // of them
	committed    time.Time // when the last checkpoint began
	rediscoverAt time.Time
	said         string // what was last said to be waited for
}

// touch notes a change.
func (f *follower) touch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = time.Now()
	if f.dirty++; f.dirty == 1 {
		f.first = f.last
	}
	f.nudge()
}

func (f *follower) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// waiting says what a checkpoint waits for, once.
func (f *follower) waiting(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); text != f.said {
		f.said = text
		f.o.Say("%s", text)
	}
}

// recall takes over what the newest checkpoint has. Documents of a kind that the site says it does not serve,
// or of a namespace that is the application's no longer, are deleted.
func (f *follower) recall(ctx context.Context, found discovered) error {
	for _, path := range f.held.recall(f.store.Paths()) {
		group, namespace := splitPath(path)
		if f.scope.has(namespace) && found.failed[group] {
			continue // its server does not answer: the group is missing by name
		}
		if err := f.store.Delete(ctx, path); err != nil {
			return &sinkError{err}
		}
		f.touch()
	}
	return nil
}

// loop makes checkpoints when they are due.
func (f *follower) loop(ctx context.Context) error {
	ready := false
	for {
		var again time.Duration
		switch late, waits := f.sources.state(time.Now(), f.o.grace); {
		case waits != "":
			f.waiting("waiting for %s at site %s", waits, f.client.Site)
			again = quiet
		case len(late) > 0:
			f.giveUp(ctx, late)
		case !ready:
			// From here on a checkpoint is made only of what changes; the first one if there is none, or
			// if it would say something else.
			ready = true
			if err := f.firstCheckpoint(ctx); err != nil {
				return err
			}
			continue
		default:
			var err error
			if again, err = f.step(ctx); err != nil {
				return err
			}
			if f.o.Once && again > quiet {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.wake:
		case <-time.After(again):
		}
	}
}

// step does what is due, and says how long nothing will be unless something happens.
func (f *follower) step(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	f.mu.Lock()
	look, due, dirty := f.rediscoverAt, f.due(), f.dirty > 0
	f.mu.Unlock()
	if !now.Before(look) {
		return quiet, f.rediscover(ctx)
	}
	if !dirty {
		return look.Sub(now), nil
	}
	if now.Before(due) {
		return min(due.Sub(now), look.Sub(now)), nil
	}
	return quiet, f.checkpoint(ctx)
}

// due says when the next checkpoint is; the caller holds mu.
func (f *follower) due() time.Time {
	t := f.last.Add(quiet)
	if at := f.first.Add(f.o.Interval); at.Before(t) {
		t = at
	}
	if at := f.committed.Add(f.o.Interval); at.After(t) {
		t = at
	}
	return t
}

// firstCheckpoint makes one unless the newest that is kept says the same already.
func (f *follower) firstCheckpoint(ctx context.Context) error {
	if err := f.settleCluster(ctx); err != nil {
		return err
	}
	f.gate.Lock()
	_, changed, err := f.describe(ctx)
	f.gate.Unlock()
	if changed {
		f.touch()
	}
	return err
}

// checkpoint makes a checkpoint, unless the site does not answer: what is known may be old then.
func (f *follower) checkpoint(ctx context.Context) error {
	asOf := time.Now()
	if !f.answers(ctx) {
		return nil
	}
	if err := f.settleCluster(ctx); err != nil {
		return err
	}
	f.gate.Lock()
	defer f.gate.Unlock()
	r, _, err := f.describe(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	c := Checkpoint{Result: r, Time: asOf, Changed: f.dirty, Last: f.last}
	f.dirty, f.committed = 0, asOf
	f.mu.Unlock()
	if err := f.store.Commit(ctx, c); err != nil {
		return &sinkError{err}
	}
	f.said = ""
	return nil
}

// answers asks the site whether it is there. When it is again, the watches that it broke get a chance to go
// on before a checkpoint calls what they bring missing.
func (f *follower) answers(ctx context.Context) bool {
	err := f.reader.ping(ctx)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		f.waiting("waiting for site %s to answer: %v", f.client.Site, err)
	}
	f.outage(ctx)
	return false
}

// outage waits until the site answers again.
func (f *follower) outage(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		if f.reader.ping(ctx) == nil {
			break
		}
	}
	f.sources.retry(time.Now())
}

// settleCluster captures what has come to be needed of the cluster; a site that goes away meanwhile is for the
// next try.
func (f *follower) settleCluster(ctx context.Context) error {
	err := f.settle(ctx, f.sources.clusterOnes())
	if err == nil || judge(ctx, err) == fatal {
		return err
	}
	f.waiting("waiting for site %s to answer: %v", f.client.Site, err)
	f.outage(ctx)
	return f.settleCluster(ctx)
}
