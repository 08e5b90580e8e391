package mover

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// fault carries an error over the stream so that errors.Is and dr.ClassOf find at the other end what
// they would have found at this one.
type fault struct {
	Class dr.Class `json:"class,omitempty"`
	What  string   `json:"what,omitempty"`
	Why   string   `json:"why,omitempty"`
	Next  string   `json:"next,omitempty"`
	Kinds []string `json:"kinds,omitempty"`
}

// kinds are the errors that keep their identity.
func kinds() map[string]error {
	return map[string]error{
		"not-found": dr.ErrNotFound, "stale": dr.ErrStale, "wrong-key": dr.ErrWrongKey, "lease-lost": dr.ErrLeaseLost,
		"blob-not-found": blob.ErrNotFound, "blob-exists": blob.ErrExists, "blob-stale": blob.ErrStale,
		"blob-range": blob.ErrRange, "blob-name": blob.ErrName, "blob-denied": blob.ErrDenied,
		"blob-replaced": blob.ErrReplaced, "blob-no-directory": blob.ErrNoDirectory, "blob-retained": blob.ErrRetained,
		"blob-uncertain": blob.ErrUncertain, "blob-unreachable": blob.ErrUnreachable, "blob-expired": blob.ErrExpired,
		"canceled": context.Canceled, "deadline": context.DeadlineExceeded,
	}
}

func newFault(err error) *fault {
	f := &fault{Why: err.Error()}
	var e *dr.Error
	if errors.As(err, &e) {
		*f = fault{Class: e.Class, What: e.What, Next: e.Next}
		if e.Why != nil {
			f.Why = e.Why.Error()
		}
	}
	for name, kind := range kinds() {
		if errors.Is(err, kind) {
			f.Kinds = append(f.Kinds, name)
		}
	}
	return f
}

func (f *fault) err() error {
	var why error
	if f.Why != "" {
		far := &farError{text: f.Why}
		for _, name := range f.Kinds {
			if kind, ok := kinds()[name]; ok {
				far.kinds = append(far.kinds, kind)
			}
		}
		why = far
	}
	if f.Class == "" {
		return why
	}
	return &dr.Error{Class: f.Class, What: f.What, Why: why, Next: f.Next}
}

// farError is an error that happened at the other end.
type farError struct {
	text  string
	kinds []error
}

func (e *farError) Error() string   { return e.text }
func (e *farError) Unwrap() []error { return e.kinds }

// explain gives what a worker may meet a class and a remedy.
func explain(doing string, err error) error {
	var known *dr.Error
	var locked *repo.LockedError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, repo.ErrWrongKey):
		return dr.Errorf(dr.ClassDenied, dr.ErrWrongKey, "Give the key that the vault was made with.", "cannot open the vault's repository")
	case errors.As(err, &locked):
		return dr.Errorf(dr.ClassConflict, err, "Wait until the other program has ended.", "the vault's repository is in use")
	case errors.Is(err, repo.ErrDamaged):
		return dr.Errorf(dr.ClassIncomplete, err, "Check the repository, and restore from another recovery point.", "the vault's repository is damaged, seen while %s", doing)
	case errors.Is(err, repo.ErrNotFound):
		return dr.Errorf(dr.ClassIncomplete, err, "Restore from another recovery point.", "the vault lacks what is needed for %s", doing)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return dr.Errorf(dr.ClassIncomplete, err, "Give the claim more storage, then do it again.", "the volume is full, seen while %s", doing)
	case errors.Is(err, syscall.EROFS):
		return dr.Errorf(dr.ClassBlocked, err, "Make the volume writable.", "the volume is read-only, seen while %s", doing)
	case errors.Is(err, fs.ErrPermission):
		return dr.Errorf(dr.ClassDenied, err, "Let the mover's pod run as root in this namespace.", "the mover may not use the volume, seen while %s", doing)
	case errors.Is(err, context.Canceled):
		return dr.Errorf(dr.ClassInterrupted, err, "", "stopped while %s", doing)
	}
	return dr.Errorf(dr.ClassInternal, err, "", "the mover failed while %s", doing)
}
