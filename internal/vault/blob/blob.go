// Package blob stores named objects: the few operations that Lifeboat needs of an object storage,
// above all the conditional put on which single ownership rests.
package blob

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Store holds objects by name. All methods may be called at the same time from many goroutines, and
// what one call has returned every later call sees, from any process.
type Store interface {
	// Put writes a whole object, provided that the condition holds; it is there completely or not at
	// all, and once Put has returned it is durable. The returned Version is the one that a whole Get
	// returns until somebody writes again. Errors: ErrExists, ErrStale, ErrNotFound (the condition
	// names a version of an object that is no longer there), ErrRetained, ErrUncertain.
	Put(ctx context.Context, name string, data []byte, cond Condition) (Version, error)
	// Get reads an object or a range of it. Errors: ErrNotFound, ErrRange.
	Get(ctx context.Context, name string, r Range) (Object, error)
	// Stat says how large an object is. Error: ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)
	// List yields the objects whose names begin with prefix, ordered by name. After an error nothing
	// more is yielded; a list that ended without one is whole.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object; one that is not there is no error. Error: ErrRetained.
	Delete(ctx context.Context, name string) error
	// Location names the store for people and for Open: "file:///mnt/vault".
	Location() string
}

// Version identifies the content of an object at one time. It is opaque, is never empty, and two
// versions that differ belong to different writes.
type Version string

// Condition says under which circumstances a Put goes ahead. The zero value is "in any case".
type Condition struct {
	absent  bool
	version Version
}

// IfAbsent lets a Put create an object, never replace one.
func IfAbsent() Condition { return Condition{absent: true} }

// IfVersion lets a Put replace exactly the version that was read.
func IfVersion(v Version) Condition { return Condition{version: v} }

// Absent says whether the condition asks that there be no object yet.
func (c Condition) Absent() bool { return c.absent }

// Version returns the version that must be there, or "" when the condition names none.
func (c Condition) Version() Version { return c.version }

// Range is a part of an object, in bytes. The zero value is the whole object; a Length of 0 reaches
// to its end. A range that begins within the object and ends behind it is cut at the end.
type Range struct {
	Offset int64
	Length int64
}

// Whole says whether the range is the object from its first to its last byte.
func (r Range) Whole() bool { return r.Offset == 0 && r.Length == 0 }

// clip returns the range's first byte and its length in an object of the given size.
func (r Range) clip(size int64) (offset, length int64, err error) {
	if r.Offset < 0 || r.Length < 0 || r.Offset > size {
		return 0, 0, fmt.Errorf("bytes %d+%d of %d: %w", r.Offset, r.Length, size, ErrRange)
	}
	length = size - r.Offset
	if r.Length > 0 && r.Length < length {
		length = r.Length
	}
	return r.Offset, length, nil
}

// Object is what Get read.
type Object struct {
	Data    []byte  // the caller's own
	Version Version // set when the whole object was read
}

// Info describes an object.
type Info struct {
	Name string
	Size int64
}

// What can go wrong, for errors.Is. Everything else is a failure to reach or use the store.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("no such object")
	// ErrExists: a put with IfAbsent found an object.
	ErrExists = errors.New("object already exists")
	// ErrStale: a put with IfVersion found another version.
	ErrStale = errors.New("object changed since it was read")
	// ErrRange: the range begins behind the end of the object.
	ErrRange = errors.New("range is outside the object")
	// ErrName: the name is not one that every store can hold.
	ErrName = errors.New("invalid object name")
	// ErrRetained: the store keeps the object, as it is, until its retention is over or a hold on it is
	// lifted. *RetainedError says until when, where that is known.
	ErrRetained = errors.New("object is under retention")

	// ErrUncertain: the answer to a put was lost, and others have written since, so that nobody can say
	// any more whether the put was made.
	ErrUncertain = errors.New("the answer to the write was lost, and the object was written again since")

	// ErrScheme: no store is known for the location's scheme, or the location is malformed.
	ErrScheme = errors.New("not a location that can be opened")
	// ErrNoDirectory: the directory of a file store is missing.
	ErrNoDirectory = errors.New("directory does not exist")
	// ErrNotDirectory: the path of a file store is something else than a directory.
	ErrNotDirectory = errors.New("not a directory")
	// ErrDenied: the store refuses us.
	ErrDenied = errors.New("permission denied")
	// ErrNoBucket: the bucket or container is missing.
	ErrNoBucket = errors.New("bucket does not exist")
	// ErrCredentials: there are no credentials, or the store does not take them.
	ErrCredentials = errors.New("credentials are missing or wrong")
	// ErrExpired: the credentials were good once.
	ErrExpired = errors.New("credentials have expired")
	// ErrClock: the store refuses requests because this machine's clock is wrong; see ClockError.
	ErrClock = errors.New("this machine's clock is wrong")
	// ErrRegion: the bucket is in another region; see RegionError.
	ErrRegion = errors.New("the bucket is in another region")
	// ErrTLS: the endpoint's certificate is not trusted, or it speaks no TLS.
	ErrTLS = errors.New("no trusted TLS connection")
	// ErrUnreachable: the endpoint's name is unknown, or nobody answers there.
	ErrUnreachable = errors.New("the storage does not answer")
	// ErrConditions: the store ignores or refuses conditional puts, so that single ownership cannot rest
	// on it.
	ErrConditions = errors.New("the storage does not honour conditional writes")
	// ErrReplaced: the directory of a file store is not the one that was opened: it was unmounted,
	// moved or deleted meanwhile.
	ErrReplaced = errors.New("directory is no longer the one that was opened")
)

// RetainedError is ErrRetained with the time at which the retention is over.
type RetainedError struct {
	Until time.Time // zero: not known, or as long as somebody holds it
}

func (e *RetainedError) Error() string {
	if e.Until.IsZero() {
		return ErrRetained.Error()
	}
	return ErrRetained.Error() + " until " + e.Until.UTC().Format(time.RFC3339)
}

// Is makes errors.Is find ErrRetained.
func (e *RetainedError) Is(target error) bool { return target == ErrRetained }

// ClockError is ErrClock with the difference.
type ClockError struct {
	Ahead time.Duration // of this machine's clock before the store's; negative when it is behind
}

func (e *ClockError) Error() string {
	way, by := "ahead of", e.Ahead
	if by < 0 {
		way, by = "behind", -by
	}
	return fmt.Sprintf("%v: it is %v %s the storage's", ErrClock, by.Round(time.Second), way)
}

// Is makes errors.Is find ErrClock.
func (e *ClockError) Is(target error) bool { return target == ErrClock }

// RegionError is ErrRegion with the bucket's region, where the store tells it.
type RegionError struct{ Region string }

func (e *RegionError) Error() string {
	if e.Region == "" {
		return ErrRegion.Error()
	}
	return ErrRegion.Error() + ": " + e.Region
}

// Is makes errors.Is find ErrRegion.
func (e *RegionError) Is(target error) bool { return target == ErrRegion }

const maxName = 512

// CheckName says whether every store can hold an object of this name: segments of letters, digits,
// '.', '_' and '-', separated by single slashes, none beginning with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%q: %w: 1 to %d bytes are allowed", name, ErrName, maxName)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment[0] == '.' {
			return fmt.Errorf("%q: %w: a segment is empty or begins with a dot", name, ErrName)
		}
		for _, c := range []byte(segment) {
			if !plain(c) {
				return fmt.Errorf("%q: %w: character %q", name, ErrName, c)
			}
		}
	}
	return nil
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
