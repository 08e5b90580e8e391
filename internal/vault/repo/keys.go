package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// What RemoveKey refuses.
var (
	// ErrLastKey: without this key nobody could open the repository any more.
	ErrLastKey = errors.New("it is the last key")
	// ErrKeyInUse: it is the key that the repository was opened with.
	ErrKeyInUse = errors.New("it is the key in use")
)

// Key is one of the passwords that open the repository. All of them open the same master key, which
// the format cannot exchange.
type Key struct {
	ID       ID        `json:"id"`
	Created  time.Time `json:"created"`
	Username string    `json:"username"`
	Hostname string    `json:"hostname"`
	InUse    bool      `json:"inUse"` // the repository was opened with it
	Damaged  string    `json:"damaged,omitempty"`
}

// Keys returns every key, those that are damaged too.
func Keys(ctx context.Context, r *Repo) ([]Key, error) {
	ids, err := r.listIDs(ctx, keysDir)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys := []Key{}
	for _, id := range ids {
		f, err := loadKey(ctx, r.store, id)
		if errors.Is(err, blob.ErrNotFound) {
			continue // removed meanwhile
		}
		k := Key{ID: id, Created: f.Created, Username: f.Username, Hostname: f.Hostname, InUse: keysDir+id.String() == r.keyName}
		if errors.Is(err, ErrDamaged) {
			k.Damaged, err = err.Error(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// loadKey reads a key file. Errors: ErrDamaged, blob.ErrNotFound.
func loadKey(ctx context.Context, store blob.Store, id ID) (keyFile, error) {
	name := keysDir + id.String()
	object, err := store.Get(ctx, name, blob.Range{Length: maxKeyFile})
	if err != nil {
		return keyFile{}, err
	}
	if hash(object.Data) != id {
		return keyFile{}, fmt.Errorf("%s: %w: its content has another hash", name, ErrDamaged)
	}
	f, err := parseKeyFile(object.Data)
	if err != nil {
		return keyFile{}, fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	return f, nil
}

// maxKeyFile is more than any key file has; a larger object is none.
const maxKeyFile = 64 << 10

func parseKeyFile(raw []byte) (keyFile, error) {
	var f keyFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return keyFile{}, err
	}
	if f.KDF != "scrypt" {
		return keyFile{}, fmt.Errorf("unknown key derivation %q", f.KDF)
	}
	return f, nil
}

// AddKey lets another password open the repository, and makes sure that it does. Error: ErrExists, when
// it does already.
func AddKey(ctx context.Context, r *Repo, password []byte) (ID, error) {
	if len(password) == 0 {
		return ID{}, errors.New("add key: the password is empty")
	}
	lock, err := takeLock(ctx, r, false, LockOptions{Patience: lockPatience})
	if err != nil {
		return ID{}, fmt.Errorf("add key: %w", err)
	}
	id, err := addKey(ctx, r, password)
	if err := errors.Join(err, lock.unlock(ctx)); err != nil {
		return ID{}, fmt.Errorf("add key: %w", err)
	}
	return id, nil
}

func addKey(ctx context.Context, r *Repo, password []byte) (ID, error) {
	config, err := r.store.Get(ctx, configName, blob.Range{})
	if err != nil {
		return ID{}, err
	}
	switch _, name, err := findKey(ctx, r.store, password, config.Data); {
	case err == nil:
		return ID{}, fmt.Errorf("%w: %s opens with it", ErrExists, name)
	case !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrDamaged):
		return ID{}, err
	}
	name, err := saveKey(ctx, r.store, r.master, password, r.now())
	if err != nil {
		return ID{}, err
	}
	if _, found, err := findKey(ctx, r.store, password, config.Data); err != nil || found != name {
		return ID{}, errors.Join(fmt.Errorf("%s does not open the repository", name), err, r.store.Delete(ctx, name))
	}
	return ParseID(strings.TrimPrefix(name, keysDir))
}

// RemoveKey takes away the key whose id begins so; the one in use only when that is meant. Errors:
// ErrNotFound, ErrAmbiguous, ErrLastKey, ErrKeyInUse, *LockedError, blob.ErrRetained.
func (m *Maintenance) RemoveKey(ctx context.Context, prefix string, inUse bool) (Key, error) {
	ctx, release := m.lock.bind(ctx)
	defer release()
	keys, err := Keys(ctx, m.repo)
	if err != nil {
		return Key{}, err
	}
	var found []Key
	others := 0
	for _, k := range keys {
		if prefix != "" && strings.HasPrefix(k.ID.String(), prefix) {
			found = append(found, k)
		} else if k.Damaged == "" {
			others++
		}
	}
	switch {
	case len(found) == 0:
		return Key{}, fmt.Errorf("remove key %q: %w", prefix, ErrNotFound)
	case len(found) > 1:
		return Key{}, fmt.Errorf("remove key %q: %w: %d of them", prefix, ErrAmbiguous, len(found))
	case others == 0:
		return found[0], fmt.Errorf("remove key %s: %w", found[0].ID.short(), ErrLastKey)
	case found[0].InUse && !inUse:
		return found[0], fmt.Errorf("remove key %s: %w", found[0].ID.short(), ErrKeyInUse)
	}
	if err := m.lock.verify(ctx); err != nil {
		return found[0], fmt.Errorf("remove key: %w", err)
	}
	if err := m.repo.store.Delete(ctx, keysDir+found[0].ID.String()); err != nil {
		return found[0], fmt.Errorf("remove key %s: %w", found[0].ID.short(), err)
	}
	return found[0], nil
}
