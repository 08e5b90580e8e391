package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"strings"
	"time"
)

// backend is an object storage, a request a method. It neither repeats nor interprets: its errors are
// what judge explains.
type backend interface {
	put(ctx context.Context, key string, data []byte, cond Condition, m mark) (Version, error)
	get(ctx context.Context, key string, r Range) (Object, error)
	head(ctx context.Context, key string) (header, error)
	// page lists some keys behind a place that an earlier page returned ("": from the start). next is ""
	// with the last page.
	page(ctx context.Context, prefix, after string) (found []Info, next string, err error)
	remove(ctx context.Context, key string) error
	retention(ctx context.Context, key string) (Retention, error) // of an object, or of the bucket for ""
	judge(err error) fault
}

// mark is what a put leaves with an object as metadata, so that a put whose answer was lost knows its
// own work again.
type mark struct {
	id  string // of the put
	was string // the version that it replaced; absentMark when there was none; "" when it did not ask
}

const (
	markID     = "lifeboatput" // letters alone: both S3 and Azure keep such names
	markWas    = "lifeboatwas"
	absentMark = "absent"
)

func newMark(c Condition) mark {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	m := mark{id: hex.EncodeToString(id[:]), was: string(c.version)}
	if c.absent {
		m.was = absentMark
	}
	return m
}

// markOf finds the mark among an object's metadata, whose names come back in any case.
func markOf(metadata func(yield func(name, value string))) mark {
	var m mark
	metadata(func(name, value string) {
		switch strings.ToLower(name) {
		case markID:
			m.id = value
		case markWas:
			m.was = value
		}
	})
	return m
}

// header is what is known of an object without its content.
type header struct {
	size    int64
	version Version
	mark    mark
}

// errCondition is what a backend says of a put whose condition does not hold; which of the contract's
// errors that is shows when the object is looked at.
var errCondition = errors.New("condition does not hold")

// How long a store is asked again where the context sets no earlier end.
const (
	openPatience = 4 * time.Second
	patience     = 45 * time.Second
)

// remote is a Store in an object storage: it repeats what may pass, and keeps the conditions exact when
// answers are lost.
type remote struct {
	backend
	location string
	prefix   string
	patience time.Duration
}

// Location implements Store.
func (s *remote) Location() string { return s.location }

// reach asks for one page, which shows an endpoint, credentials or a bucket that is not as it should be.
func (s *remote) reach(ctx context.Context) error {
	return s.try(ctx, 0, func(ctx context.Context) error {
		_, _, err := s.page(ctx, s.prefix+"control/", "")
		return err
	})
}

// try does what may have to be repeated.
func (s *remote) try(ctx context.Context, size int64, do func(context.Context) error) error {
	began := time.Now()
	for n := 0; ; n++ {
		err := s.once(ctx, n, size, do)
		if err == nil {
			return nil
		}
		f := s.judge(err)
		if ctx.Err() != nil {
			if errors.Is(f.err, context.Canceled) {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), f.err)
		}
		if !f.again {
			return f.err
		}
		pause := backOff(n)
		if spent := time.Since(began); spent+pause > s.patience {
			return fmt.Errorf("%w (tried %d times in %v)", f.err, n+1, spent.Round(100*time.Millisecond))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// once is one try. It has no more than half of the time that is left, so that a connection that hangs
// leaves time for another one; and each has more than the one before, so that a store that is slow gets
// done.
func (s *remote) once(ctx context.Context, n int, size int64, do func(context.Context) error) error {
	const slowest, least = 256 << 10, 250 * time.Millisecond // bytes a second
	allowed := min(10*time.Second<<min(n, 4), 30*time.Second) + time.Duration(size/slowest)*time.Second
	if end, ok := ctx.Deadline(); ok {
		allowed = min(allowed, max(time.Until(end)/2, least))
	}
	ctx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	return do(ctx)
}

// backOff grows from 50 ms to 5 s; half of it is chance, so that many who failed together do not come
// back together.
func backOff(n int) time.Duration {
	full := min(100*time.Millisecond<<min(n, 6), 5*time.Second)
	part, err := rand.Int(rand.Reader, big.NewInt(int64(full/2)))
	if err != nil {
		return full
	}
	return full/2 + time.Duration(part.Int64())
}

// Put implements Store.
func (s *remote) Put(ctx context.Context, name string, data []byte, cond Condition) (Version, error) {
	if err := begin(ctx, name); err != nil {
		return "", err
	}
	m := newMark(cond)
	var version Version
	lost := false // a try may have been carried out without our hearing of it
	err := s.try(ctx, int64(len(data)), func(ctx context.Context) error {
		v, err := s.put(ctx, s.prefix+name, data, cond, m)
		if err == nil {
			version = v
			return nil
		}
		f := s.judge(err)
		if errors.Is(f.err, errCondition) {
			version, err = s.settle(ctx, s.prefix+name, cond, m, lost)
			return err
		}
		lost = lost || f.applied
		return err
	})
	if err != nil {
		return "", fmt.Errorf("put %s: %w", name, s.dated(ctx, name, err))
	}
	return version, nil
}

// settle says what a condition that does not hold means: that somebody else wrote, or that an earlier
// try of this put did.
func (s *remote) settle(ctx context.Context, key string, cond Condition, m mark, lost bool) (Version, error) {
	if cond.absent && !lost {
		return "", settled{ErrExists}
	}
	is, err := s.head(ctx, key)
	if err != nil {
		if f := s.judge(err); errors.Is(f.err, ErrNotFound) {
			if cond.absent {
				return "", errAgain // it was there a moment ago: the condition may hold now
			}
			return "", settled{ErrNotFound}
		}
		return "", err
	}
	switch {
	case is.mark.id == m.id:
		return is.version, nil
	case cond.version != "" && is.version == cond.version:
		return "", errAgain // nobody wrote: the store refused for another conditional write under way
	case lost && is.mark.was != m.was:
		return "", settled{ErrUncertain} // ours may have been between what we know and what is there
	case cond.absent:
		return "", settled{ErrExists}
	}
	return "", settled{ErrStale}
}

// settled is an answer of the contract, which no backend has to judge.
type settled struct{ error }

func (e settled) Unwrap() error { return e.error }

// errAgain asks for another try.
var errAgain = errors.New("the storage contradicts itself")

// judge puts our own answers before the backend's judgement.
func (s *remote) judge(err error) fault {
	var answer settled
	switch {
	case errors.As(err, &answer):
		return fault{err: answer.error}
	case errors.Is(err, errAgain):
		return fault{err: err, again: true}
	}
	return s.backend.judge(err)
}

// dated adds to ErrRetained until when, where the store tells.
func (s *remote) dated(ctx context.Context, name string, err error) error {
	var r *RetainedError
	if !errors.As(err, &r) || !r.Until.IsZero() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if is, failed := s.retention(ctx, s.prefix+name); failed == nil {
		return &RetainedError{Until: is.Until}
	}
	return err
}

// Get implements Store.
func (s *remote) Get(ctx context.Context, name string, r Range) (Object, error) {
	if err := begin(ctx, name); err != nil {
		return Object{}, err
	}
	if r.Offset < 0 || r.Length < 0 {
		return Object{}, fmt.Errorf("get %s: bytes %d+%d: %w", name, r.Offset, r.Length, ErrRange)
	}
	var o Object
	err := s.try(ctx, r.Length, func(ctx context.Context) (err error) {
		o, err = s.get(ctx, s.prefix+name, r)
		return err
	})
	if errors.Is(err, ErrRange) {
		// Stores refuse a range that begins at the end of the object; the contract does not.
		var info Info
		if info, err = s.Stat(ctx, name); err == nil {
			_, _, err = r.clip(info.Size)
			o = Object{Data: []byte{}}
		}
	}
	if err != nil {
		return Object{}, fmt.Errorf("get %s: %w", name, err)
	}
	if !r.Whole() {
		o.Version = ""
	}
	return o, nil
}

// Stat implements Store.
func (s *remote) Stat(ctx context.Context, name string) (Info, error) {
	if err := begin(ctx, name); err != nil {
		return Info{}, err
	}
	var h header
	err := s.try(ctx, 0, func(ctx context.Context) (err error) {
		h, err = s.head(ctx, s.prefix+name)
		return err
	})
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return Info{Name: name, Size: h.size}, nil
}

// List implements Store.
func (s *remote) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last, after := "", ""
		for {
			if ctx.Err() != nil {
				yield(Info{}, context.Cause(ctx))
				return
			}
			var found []Info
			var next string
			err := s.try(ctx, 0, func(ctx context.Context) (err error) {
				found, next, err = s.page(ctx, s.prefix+prefix, after)
				return err
			})
			if err != nil {
				yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			for _, info := range found {
				info.Name = strings.TrimPrefix(info.Name, s.prefix)
				if CheckName(info.Name) != nil {
					continue // not ours: a directory's marker, or what somebody else put here
				}
				if info.Name <= last {
					// Readers rely on the order; a store that has another one would hide objects from them.
					yield(Info{}, fmt.Errorf("list %s: the storage lists %s after %s, out of order (a hierarchical namespace does so)", prefix, info.Name, last))
					return
				}
				last = info.Name
				if !yield(info, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			after = next
		}
	}
}

// Delete implements Store. Where the bucket keeps versions, the object is gone from sight and its bytes
// stay.
func (s *remote) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return err
	}
	err := s.try(ctx, 0, func(ctx context.Context) error { return s.remove(ctx, s.prefix+name) })
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete %s: %w", name, s.dated(ctx, name, err))
	}
	return nil
}
