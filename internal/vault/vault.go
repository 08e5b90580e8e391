// Package vault keeps what must survive a disaster: who owns each application, the journal of every
// run, recovery points, evidence and the fleet's definition as sealed records below control/, and bulk
// data in a repository in the restic format below repo/.
package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Parts of the store.
const (
	controlPrefix = "control/"
	repoPrefix    = "repo"
)

// Vault is an open vault. Its methods may be called at the same time.
type Vault struct {
	name     string
	store    blob.Store
	repo     *repo.Repo
	warnings []string
}

// Init makes a vault at its location: a directory that is made when its parent is there, or a bucket or
// container that exists. warn, if set, is told what a person should know of the storage.
// Errors: *dr.Error; of class conflict, wrapping dr.ErrExists, when there is a vault already.
func Init(ctx context.Context, v dr.Vault, key []byte, warn func(format string, args ...any)) error {
	store, err := blob.Create(ctx, v.Location, options(v, warn))
	if err != nil {
		return unopened(v.Location, err)
	}
	return initStore(ctx, store, key)
}

func initStore(ctx context.Context, store blob.Store, key []byte) error {
	_, err := repo.Init(ctx, blob.Sub(store, repoPrefix), key)
	switch {
	case errors.Is(err, repo.ErrExists):
		return dr.Errorf(dr.ClassConflict, dr.ErrExists, "Use the vault as it is, with the key that it was made with, or name another location.",
			"cannot create a vault at %s", store.Location())
	case err != nil:
		return failed(err, "cannot create a vault at %s", store.Location())
	}
	return nil
}

// Open opens a vault with the key in its key file; of one that is marked read-only every change is
// refused. Errors are *dr.Error: class denied for a key file
// that is missing, empty or open to others, and, wrapping dr.ErrWrongKey, for a key that does not fit.
func Open(ctx context.Context, v dr.Vault) (*Vault, error) {
	opened, err := open(ctx, v)
	if err == nil {
		err = authority{opened}.moved(ctx)
	}
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// open is Open for a location that may have been told that the vault is elsewhere now.
func open(ctx context.Context, v dr.Vault) (*Vault, error) {
	key, err := ReadKeyFile(v.EncryptionKey.File)
	if err != nil {
		return nil, err
	}
	var warnings []string
	store, err := openPlace(ctx, v, func(format string, args ...any) {
		warnings = append(warnings, fmt.Sprintf(format, args...))
	})
	if err != nil {
		return nil, err
	}
	opened, err := openStore(ctx, v, store, key)
	if err != nil {
		return nil, err
	}
	opened.warnings = warnings
	return opened, nil
}

func openStore(ctx context.Context, v dr.Vault, store blob.Store, key []byte) (*Vault, error) {
	if _, reading := store.(readOnly); !reading {
		store = &removals{Store: store}
	}
	r, err := repo.Open(ctx, blob.Sub(store, repoPrefix), key)
	switch {
	case errors.Is(err, repo.ErrNotARepository):
		return nil, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Run 'lifeboat init' to create it, or correct the vault's location in the fleet file.",
			"there is no vault at %s", v.Location)
	case errors.Is(err, repo.ErrWrongKey):
		return nil, dr.Errorf(dr.ClassDenied, dr.ErrWrongKey, "Give the key file that this vault was created with.",
			"the key in %s does not open the vault at %s", v.EncryptionKey.File, v.Location)
	case err != nil:
		return nil, failed(err, "cannot open the vault at %s", v.Location)
	}
	return &Vault{name: v.Name, store: store, repo: r}, nil
}

// unopened words why a location cannot be opened.
func unopened(location string, err error) error {
	class, next, known := remedy(err)
	switch {
	case known:
	case errors.Is(err, context.Canceled):
		class, next = dr.ClassInterrupted, ""
	case errors.Is(err, blob.ErrDenied):
		class, next = dr.ClassDenied, "Give this user access to the vault's storage, or run as its owner."
	default:
		class, next = dr.ClassUnreachable, "Check that the vault's storage is there and mounted; where the vault has a replica, reading commands take --replica NAME."
	}
	return dr.Errorf(class, err, next, "cannot open the vault at %s", location)
}

// failed gives an error of the store a class.
func failed(err error, format string, args ...any) error {
	var locked *repo.LockedError
	class, next, known := remedy(err)
	switch {
	case errors.As(err, &locked):
		class, next = dr.ClassConflict, "Wait until that has ended; if its process is gone, run 'lifeboat vault unlock'."
	case errors.Is(err, repo.ErrLockLost):
		class, next = dr.ClassConflict, "Run the command again; if the clocks of two machines differ much, set them right first."
	case errors.Is(err, context.Canceled):
		class, next = dr.ClassInterrupted, ""
	case known:
	case errors.Is(err, blob.ErrDenied):
		class, next = dr.ClassDenied, "Give this user access to the vault's storage."
	case errors.Is(err, repo.ErrDamaged):
		class, next = dr.ClassIncomplete, "The vault's storage damaged this object: bring it back from a replica of the vault."
	case errors.Is(err, blob.ErrName):
		class, next = dr.ClassUsage, "Use names of letters, digits, '.', '_' and '-' alone."
	case errors.Is(err, repo.ErrVersion):
		class, next = dr.ClassUsage, "Open it with the version of lifeboat that made it."
	default:
		class, next = dr.ClassUnreachable, "Check that the vault's storage answers, then run the command again."
	}
	return dr.Errorf(class, err, next, format, args...)
}

// Name is the vault's name in the fleet.
func (v *Vault) Name() string { return v.name }

// Location is where the vault is.
func (v *Vault) Location() string { return v.store.Location() }

// Warnings are what a person should know of how the vault is reached.
func (v *Vault) Warnings() []string { return v.warnings }

// Repo is the repository that holds the vault's bulk data.
func (v *Vault) Repo() *repo.Repo { return v.repo }

// envelope is the plaintext of a record. The name binds it to its place: a record that was copied over
// another one does not pass for it.
type envelope struct {
	Name string          `json:"name"`
	Body json.RawMessage `json:"body"`
}

// object is the name of a record: a directory of control/ and the segments below it, none of which
// may lead anywhere else.
func object(segments ...string) (string, error) {
	for _, s := range segments {
		if s == "" || strings.ContainsRune(s, '/') {
			return "", fmt.Errorf("%q: %w", s, blob.ErrName)
		}
	}
	name := controlPrefix + strings.Join(segments, "/")
	return name, blob.CheckName(name)
}

// put seals and stores a record.
func (v *Vault) put(ctx context.Context, name string, body any, cond blob.Condition) (blob.Version, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	plain, err := json.Marshal(envelope{Name: name, Body: raw})
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	version, err := v.store.Put(ctx, name, v.repo.Seal(plain), cond)
	switch {
	case errors.Is(err, blob.ErrExists):
		return "", fmt.Errorf("%s: %w", name, dr.ErrExists)
	case errors.Is(err, blob.ErrStale), cond.Version() != "" && errors.Is(err, blob.ErrNotFound):
		return "", fmt.Errorf("%s: %w", name, dr.ErrStale)
	case err != nil:
		return "", failed(err, "cannot write %s to the vault at %s", name, v.Location())
	}
	return version, nil
}

// get reads a record into body. Errors: dr.ErrNotFound; for anything else an error that names it.
func (v *Vault) get(ctx context.Context, name string, body any) (blob.Version, error) {
	o, err := v.store.Get(ctx, name, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return "", fmt.Errorf("%s: %w", name, dr.ErrNotFound)
	}
	if err != nil {
		return "", failed(err, "cannot read %s from the vault at %s", name, v.Location())
	}
	if err := v.decode(name, o.Data, body); err != nil {
		return "", failed(err, "cannot read %s from the vault at %s", name, v.Location())
	}
	return o.Version, nil
}

func (v *Vault) decode(name string, sealed []byte, body any) error {
	plain, err := v.repo.Unseal(sealed)
	if err != nil {
		return err
	}
	var e envelope
	if err := json.Unmarshal(plain, &e); err != nil {
		return fmt.Errorf("%w: %w", repo.ErrDamaged, err)
	}
	if e.Name != name {
		return fmt.Errorf("%w: it is a copy of %s", repo.ErrDamaged, e.Name)
	}
	if err := json.NewDecoder(bytes.NewReader(e.Body)).Decode(body); err != nil {
		return fmt.Errorf("%w: %w", repo.ErrDamaged, err)
	}
	return nil
}

// list returns the last segments of the records directly below a directory of control/, in order.
func (v *Vault) list(ctx context.Context, dir string) ([]string, error) {
	found := []string{}
	for info, err := range v.store.List(ctx, dir+"/") {
		if err != nil {
			return nil, failed(err, "cannot list %s of the vault at %s", dir, v.Location())
		}
		if name := strings.TrimPrefix(info.Name, dir+"/"); !strings.Contains(name, "/") {
			found = append(found, name)
		}
	}
	return found, nil
}
