package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// DefaultLease is how long a lease is good for unless the request says otherwise.
const DefaultLease = 15 * time.Second

// LeaseRequest asks for the right to change an application.
type LeaseRequest struct {
	Application string
	// Holder names this process and no other: a run's id and a token that a restart changes.
	Holder   string
	By       string        // user@host, for people
	Duration time.Duration // DefaultLease when zero; at least a second
	// Wait for a lease that somebody else holds to run out; otherwise that is a conflict at once.
	Wait bool
	// Progress is told, while it waits, whose lease it waits for.
	Progress func(LeaseWait)
}

// LeaseWait is what AcquireLease waits for.
type LeaseWait struct {
	Holder string
	By     string
	Left   time.Duration // until it is taken over, if its holder renews it no more
}

// Lease is the right to change an application, as long as it is renewed, which happens in the
// background. Time is measured on the machine's monotonic clock alone: the holder counts from before
// it asked for a renewal and stops after two thirds of the duration; a waiter counts the whole
// duration from after it saw the renewal.
type Lease struct {
	vault    *Vault
	app      string
	holder   string
	by       string
	duration time.Duration
	cancel   context.CancelCauseFunc // of the context that AcquireLease returned
	stop     chan struct{}
	stopOnce sync.Once
	done     sync.WaitGroup

	writing sync.Mutex // one write of the record at a time
	mu      sync.Mutex // guards what follows
	record  dr.Ownership
	token   Token
	renewed time.Time // before the last renewal was asked for
	lost    error
}

// AcquireLease takes the lease of an application. The returned context is cancelled with a cause that
// wraps dr.ErrLeaseLost as soon as the lease may belong to somebody else; all work under the lease
// uses it. Release the lease in any case: it is renewed until then, even when ctx is done.
// Error: *dr.Error of class conflict when somebody else holds it and the request says not to wait.
func (v *Vault) AcquireLease(ctx context.Context, req LeaseRequest) (context.Context, *Lease, error) {
	if req.Duration == 0 {
		req.Duration = DefaultLease
	}
	if req.Holder == "" || req.Duration < time.Second {
		return nil, nil, fmt.Errorf("lease of %s: holder %q, duration %v: want a name and a second or more", req.Application, req.Holder, req.Duration)
	}
	l := &Lease{vault: v, app: req.Application, holder: req.Holder, by: req.By, duration: req.Duration, stop: make(chan struct{})}
	if err := l.acquire(ctx, req); err != nil {
		return nil, nil, err
	}
	leased, cancel := context.WithCancelCause(ctx)
	l.cancel = cancel
	// The renewal outlives ctx, so that work which is being wound down is still protected.
	l.done.Go(func() { l.keep(context.WithoutCancel(ctx)) })
	return leased, l, nil
}

// seen is the record while somebody else holds the lease, and since when it has not moved. The token
// tells more than the lease's sequence: it changes with every write.
type seen struct {
	token Token
	since time.Time
}

func (l *Lease) acquire(ctx context.Context, req LeaseRequest) error {
	var other seen
	for {
		o, token, err := l.vault.Ownership(ctx, l.app)
		switch {
		case errors.Is(err, dr.ErrNotFound):
			o, token = dr.Ownership{Application: l.app, Changed: time.Now().UTC()}, ""
		case err != nil:
			return err
		}
		if o.Lease != nil {
			left := other.left(token, o.Lease.Duration)
			if !req.Wait {
				return dr.Errorf(dr.ClassConflict, nil, "Wait for it to end; if its process is gone, the lease runs out by itself: run the command again with waiting allowed.",
					"%s is being changed by %s (%s)", l.app, o.Lease.By, o.Lease.Holder)
			}
			if left > 0 {
				if err := waitFor(ctx, req, *o.Lease, left); err != nil {
					return err
				}
				continue
			}
		}
		asked := time.Now()
		next := o
		next.Lease = &dr.Lease{Holder: l.holder, By: l.by, Duration: l.duration, Sequence: sequenceAfter(o)}
		token, err = l.vault.PutOwnership(ctx, next, token)
		if errors.Is(err, dr.ErrStale) {
			continue // somebody was faster, or its holder renewed it after all
		}
		if err != nil {
			return err
		}
		l.record, l.token, l.renewed = next, token, asked
		return nil
	}
}

// sequenceAfter: after a release the sequence starts anew, which hurts nobody, because a waiter goes
// by the record's token.
func sequenceAfter(o dr.Ownership) uint64 {
	if o.Lease == nil {
		return 1
	}
	return o.Lease.Sequence + 1
}

// left says how long a lease has to stay as it is until it has run out, and notes when it moved.
func (s *seen) left(is Token, duration time.Duration) time.Duration {
	if s.token != is {
		s.token, s.since = is, time.Now()
	}
	return duration - time.Since(s.since)
}

// waitFor lets some of the time pass; the record is looked at several times before the lease runs out,
// because its holder may release it.
func waitFor(ctx context.Context, req LeaseRequest, is dr.Lease, left time.Duration) error {
	if req.Progress != nil {
		req.Progress(LeaseWait{Holder: is.Holder, By: is.By, Left: left})
	}
	timer := time.NewTimer(min(left, max(is.Duration/20, 100*time.Millisecond)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		return nil
	}
	class, cause := dr.ClassConflict, context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		class = dr.ClassInterrupted
	}
	return dr.Errorf(class, cause, "Wait for that process to end, or stop it.", "%s is still being changed by %s (%s)", req.Application, is.By, is.Holder)
}

// keep renews the lease until it is released or lost. A watch beside the renewals ends it in time even
// while a renewal hangs.
func (l *Lease) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var renewing sync.WaitGroup
	defer renewing.Wait()
	defer cancel()
	renewing.Go(func() { l.renewals(ctx) })
	tick := time.NewTicker(min(l.duration/30, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if l.expired() {
			_ = l.lose(fmt.Errorf("%w: it could not be renewed for %v", dr.ErrLeaseLost, l.term()))
			return
		}
		if l.Err() != nil {
			return
		}
	}
}

// term is how long the holder trusts a renewal: a third is left for the work to end.
func (l *Lease) term() time.Duration { return l.duration * 2 / 3 }

// expired also looks at the wall clock, which goes on while a laptop sleeps and the monotonic one may
// not. A wall clock that is set forward ends a lease early, which is safe.
func (l *Lease) expired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return now.Sub(l.renewed) >= l.term() || now.Round(0).Sub(l.renewed.Round(0)) >= l.term()
}

func (l *Lease) renewals(ctx context.Context) {
	pause := l.duration / 3
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		try, cancel := context.WithTimeout(ctx, l.term())
		err := l.update(try, func(*dr.Ownership) (bool, error) { return true, nil })
		cancel()
		pause = l.duration / 3
		if err != nil {
			if l.Err() != nil {
				return
			}
			pause = l.duration / 20 // the vault does not answer: try while there is time
		}
	}
}

// update changes the record by compare-and-swap and renews the lease with the same write. change may
// say that no write is needed. When the outcome of an earlier write is not known, the record itself
// tells whether it is still ours.
func (l *Lease) update(ctx context.Context, change func(*dr.Ownership) (write bool, err error)) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for {
		l.mu.Lock()
		next, token, lost := l.record, l.token, l.lost
		l.mu.Unlock()
		if lost != nil {
			return lost
		}
		lease := *next.Lease
		lease.Sequence++
		next.Lease = &lease
		write, err := change(&next)
		if err != nil || !write {
			return err
		}
		asked := time.Now()
		token, err = l.vault.PutOwnership(ctx, next, token)
		if errors.Is(err, dr.ErrStale) {
			if err := l.reread(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.record, l.token, l.renewed = next, token, asked
		l.mu.Unlock()
		return nil
	}
}

// reread takes the record as it is in the vault, or finds that the lease is lost.
func (l *Lease) reread(ctx context.Context) error {
	o, token, err := l.vault.Ownership(ctx, l.app)
	if errors.Is(err, dr.ErrNotFound) {
		return l.lose(fmt.Errorf("%w: the ownership record of %s is gone", dr.ErrLeaseLost, l.app))
	}
	if err != nil {
		return err
	}
	switch {
	case o.Lease == nil:
		return l.lose(fmt.Errorf("%w: somebody took it and released it", dr.ErrLeaseLost))
	case o.Lease.Holder != l.holder:
		return l.lose(fmt.Errorf("%w: %s (%s) took it", dr.ErrLeaseLost, o.Lease.By, o.Lease.Holder))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record, l.token = o, token
	return nil
}

// lose ends the lease once, and returns why it ended.
func (l *Lease) lose(cause error) error {
	l.mu.Lock()
	if l.lost == nil {
		l.lost = dr.Errorf(dr.ClassConflict, cause, "Look at what happened with 'lifeboat status', then resume the run.", "no longer allowed to change %s", l.app)
	}
	cause = l.lost
	l.mu.Unlock()
	l.cancel(cause)
	return cause
}

// Err says why the lease is lost, or nil while it is held.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Ownership is the application's record as this lease last wrote it.
func (l *Lease) Ownership() dr.Ownership {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.record
	lease := *o.Lease
	o.Lease = &lease
	return o
}

// Claim makes a site the application's owner and raises the epoch, for a run. A claim that the same run
// has made already is not made again: its epoch is returned. breakGlass is the reason of an override,
// if it is one.
func (l *Lease) Claim(ctx context.Context, site, run, breakGlass string) (epoch uint64, err error) {
	err = l.update(ctx, func(o *dr.Ownership) (bool, error) {
		if o.Site == site && o.Run == run && run != "" {
			epoch = o.Epoch
			return false, nil
		}
		o.Site, o.Run, o.BreakGlass, o.Changed = site, run, breakGlass, time.Now().UTC()
		o.Epoch++
		epoch = o.Epoch
		return true, nil
	})
	if err != nil {
		return 0, fmt.Errorf("claim %s for %s: %w", l.app, site, err)
	}
	return epoch, nil
}

// Check asks the vault whether the lease is still held and the epoch still the expected one. An error
// that wraps dr.ErrLeaseLost says that it is not; any other, that the vault did not answer.
func (l *Lease) Check(ctx context.Context, epoch uint64) error {
	l.writing.Lock() // no renewal moves the record meanwhile
	defer l.writing.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	if err := l.reread(ctx); err != nil {
		return err
	}
	if is := l.Ownership().Epoch; is != epoch {
		return dr.Errorf(dr.ClassConflict, dr.ErrLeaseLost, "Make a new plan.", "%s is at epoch %d, and this work was meant for %d", l.app, is, epoch)
	}
	if l.expired() {
		return l.lose(fmt.Errorf("%w: it could not be renewed for %v", dr.ErrLeaseLost, l.term()))
	}
	return nil
}

// Release gives the lease back and keeps the record, with its epoch. A lease that is lost is not
// there to be given back, which is no error.
func (l *Lease) Release(ctx context.Context) error {
	l.stopOnce.Do(func() { close(l.stop) })
	l.done.Wait()
	released := fmt.Errorf("%w: it was released", dr.ErrLeaseLost)
	l.cancel(released) // first: what still runs under the lease must not run under the next holder's
	// Work that was cancelled gives its lease back too, within bounds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := l.free(ctx)
	_ = l.lose(released)
	return err
}

func (l *Lease) free(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for l.Err() == nil {
		o := l.Ownership()
		o.Lease = nil
		l.mu.Lock()
		token := l.token
		l.mu.Unlock()
		_, err := l.vault.PutOwnership(ctx, o, token)
		if !errors.Is(err, dr.ErrStale) {
			if err != nil {
				return fmt.Errorf("release the lease of %s: %w", l.app, err)
			}
			return nil
		}
		if err := l.reread(ctx); err != nil {
			if l.Err() != nil {
				return nil
			}
			return fmt.Errorf("release the lease of %s: %w", l.app, err)
		}
	}
	return nil
}
