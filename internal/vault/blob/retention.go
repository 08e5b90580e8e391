package blob

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Retention is what a storage keeps although somebody deletes or replaces it.
type Retention struct {
	Versions bool          // replaced and deleted objects stay, as older versions
	Lock     bool          // objects may be locked against deletion
	Default  time.Duration // for which each new object is locked; 0: none by itself
	Until    time.Time     // of one object: when its lock ends; zero: none, or not known
}

// tellOfRetention warns of a bucket that keeps what is deleted. What it cannot find out it leaves: the
// right to ask is often not given, and Lifeboat needs no delete to work.
func (s *remote) tellOfRetention(ctx context.Context, o Options) {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	r, err := s.retention(ctx, "")
	switch {
	case err != nil:
	case r.Default > 0:
		o.warn("%s locks every object for %d days: pruning frees space only after that", s.location, int(r.Default.Hours()/24))
	case r.Lock:
		o.warn("%s is under object lock: what is locked is kept until its retention ends", s.location)
	case r.Versions:
		o.warn("%s keeps older versions: let a lifecycle rule expire them, or they pile up", s.location)
	}
}

// Verify makes sure that a store honours conditional puts, because single ownership rests on them. It
// leaves one small object below probe/ where deletes are refused. Errors: ErrConditions; ErrRetained,
// when objects cannot be replaced at all.
func Verify(ctx context.Context, s Store) error {
	name := "probe/" + newMark(Condition{}).id
	if err := verify(ctx, s, name); err != nil {
		return fmt.Errorf("verify %s: %w", s.Location(), err)
	}
	if err := s.Delete(ctx, name); err != nil && !errors.Is(err, ErrRetained) && !errors.Is(err, ErrDenied) {
		return fmt.Errorf("verify %s: %w", s.Location(), err)
	}
	return nil
}

func verify(ctx context.Context, s Store, name string) error {
	first, err := s.Put(ctx, name, []byte("first"), IfAbsent())
	if err != nil {
		return err
	}
	if _, err := s.Put(ctx, name, []byte("second"), IfAbsent()); !errors.Is(err, ErrExists) {
		return broken("If-None-Match", err)
	}
	if _, err := s.Put(ctx, name, []byte("third"), IfVersion(first)); err != nil {
		return fmt.Errorf("replace an object: %w", err)
	}
	if _, err := s.Put(ctx, name, []byte("fourth"), IfVersion(first)); !errors.Is(err, ErrStale) {
		return broken("If-Match", err)
	}
	o, err := s.Get(ctx, name, Range{})
	if err != nil {
		return err
	}
	if string(o.Data) != "third" {
		return fmt.Errorf("%w: what was written last is not what is read", ErrConditions)
	}
	return nil
}

func broken(header string, err error) error {
	if err == nil {
		return fmt.Errorf("%w: a put with %s went ahead that must not", ErrConditions, header)
	}
	return fmt.Errorf("a put with %s: %w", header, err)
}
