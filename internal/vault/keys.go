package vault

import (
	"context"
	"errors"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Key is a key that opens the vault.
type Key = repo.Key

// Keys returns the keys that open the vault.
func Keys(ctx context.Context, v *Vault) ([]Key, error) {
	keys, err := repo.Keys(ctx, v.repo)
	if err != nil {
		return nil, failed(err, "cannot list the keys of the vault at %s", v.Location())
	}
	return keys, nil
}

// AddKey lets the key in a file open the vault and returns its id. Error: dr.ErrExists when it does already.
func AddKey(ctx context.Context, v *Vault, keyFile string) (string, error) {
	key, err := ReadKeyFile(keyFile)
	if err != nil {
		return "", err
	}
	id, err := repo.AddKey(ctx, v.repo, key)
	if errors.Is(err, repo.ErrExists) {
		return "", dr.Errorf(dr.ClassConflict, dr.ErrExists, "Use it, or name another file.", "the key in %s opens the vault already", keyFile)
	}
	if err != nil {
		return "", failed(err, "cannot add the key in %s to the vault at %s", keyFile, v.Location())
	}
	return id.String(), nil
}

// RemoveKey takes away the key whose id begins so; the one that the vault was opened with only when that
// is meant, the last one never.
func RemoveKey(ctx context.Context, v *Vault, id string, inUse bool, patience time.Duration, say Say) (k Key, err error) {
	m, err := repo.Maintain(ctx, v.repo, lockOptions(patience, say))
	if err != nil {
		return Key{}, failed(err, "cannot remove a key of the vault at %s", v.Location())
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	k, err = m.RemoveKey(ctx, id, inUse)
	class, next := dr.ClassUsage, "See: lifeboat vault keys list"
	switch {
	case err == nil:
		return k, nil
	case errors.Is(err, repo.ErrLastKey):
		class, next = dr.ClassBlocked, "Add another key first: lifeboat vault keys add FILE"
	case errors.Is(err, repo.ErrKeyInUse):
		class, next = dr.ClassBlocked, "Name another key in the fleet file first, or say --in-use when the other keys are safe elsewhere."
	case errors.Is(err, blob.ErrRetained):
		class, next = dr.ClassBlocked, "It opens the vault until then: run the command again afterwards."
	case errors.Is(err, repo.ErrNotFound), errors.Is(err, repo.ErrAmbiguous):
	default:
		return k, failed(err, "cannot remove key %s of the vault at %s", id, v.Location())
	}
	return k, dr.Errorf(class, err, next, "cannot remove the key from the vault at %s", v.Location())
}

// Unlock removes locks of processes that are gone, and names those that it left.
func Unlock(ctx context.Context, v *Vault) (removed int, held []string, err error) {
	removed, locks, err := repo.Unlock(ctx, v.repo)
	if err != nil {
		return removed, nil, failed(err, "cannot unlock the vault at %s", v.Location())
	}
	held = []string{}
	for _, l := range locks {
		held = append(held, l.Error())
	}
	return removed, held, nil
}
