package dr

import (
	"errors"
	"fmt"
)

// Class sorts errors by what a caller can do about them; each has its exit code.
type Class string

// The classes, with their exit codes (docs/cli.md lists them for users).
const (
	ClassInternal    Class = "internal"    // 1: a fault of ours, or one nobody foresaw
	ClassUsage       Class = "usage"       // 2: wrong flags, arguments or fleet file
	ClassUnreachable Class = "unreachable" // 3: a cluster, vault, DNS server or registry does not answer
	ClassDenied      Class = "denied"      // 4: wrong key, expired or insufficient credentials
	ClassConflict    Class = "conflict"    // 5: somebody else owns, runs or changed it
	ClassIncomplete  Class = "incomplete"  // 6: it ended, but something is missing or not verified
	ClassBlocked     Class = "blocked"     // 7: a rule forbids it until a person decides
	ClassInterrupted Class = "interrupted" // 8: stopped on request; resumable
)

// ExitCode is what the process ends with for an error of this class.
func (c Class) ExitCode() int {
	for i, k := range []Class{ClassInternal, ClassUsage, ClassUnreachable, ClassDenied, ClassConflict, ClassIncomplete, ClassBlocked, ClassInterrupted} {
		if c == k {
			return i + 1
		}
	}
	return 1
}

// Error is an error meant for a person: what happened, why, and what to do next.
type Error struct {
	Class Class
	What  string // one clause, no final period: "cannot reach site eastus"
	Why   error  // the cause; may be nil
	Next  string // the next command or remedy, one sentence; may be empty
}

// Errorf builds an Error whose What is formatted.
func Errorf(class Class, why error, next, format string, args ...any) *Error {
	return &Error{Class: class, What: fmt.Sprintf(format, args...), Why: why, Next: next}
}

func (e *Error) Error() string {
	if e.Why == nil {
		return e.What
	}
	return e.What + ": " + e.Why.Error()
}

func (e *Error) Unwrap() error { return e.Why }

// ClassOf returns the class of the outermost Error in err's chain, or ClassInternal.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ClassInternal
}

// Sentinels shared between packages.
var (
	// ErrNotFound: the thing asked for is not there (an answer, not a failure to ask).
	ErrNotFound = errors.New("not found")
	// ErrExists: a create-if-absent found something there.
	ErrExists = errors.New("already exists")
	// ErrStale: a compare-and-swap lost; somebody changed it since it was read.
	ErrStale = errors.New("changed since it was read")
	// ErrLeaseLost: the lease under which the work ran is no longer held.
	ErrLeaseLost = errors.New("lease lost")
	// ErrWrongKey: the vault does not open with this key.
	ErrWrongKey = errors.New("wrong key")
)
