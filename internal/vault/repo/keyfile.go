package repo

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// keyFile is an object below keys/: the master key, sealed with a key derived from a password.
type keyFile struct {
	Created  time.Time `json:"created"`
	Username string    `json:"username"`
	Hostname string    `json:"hostname"`
	KDF      string    `json:"kdf"`
	N        int       `json:"N"`
	R        int       `json:"r"`
	P        int       `json:"p"`
	Salt     []byte    `json:"salt"`
	Data     []byte    `json:"data"`
}

// costFor: a password that a person chose is stretched for about half a second. A random key of 32
// bytes cannot be guessed, and stretching it would only slow down every command.
func costFor(password []byte) scryptCost {
	if raw, err := base64.StdEncoding.DecodeString(string(password)); err == nil && len(raw) >= 32 {
		return scryptCost{N: 1 << 13, R: 8, P: 1}
	}
	return scryptCost{N: 1 << 15, R: 8, P: 7}
}

func saveKey(ctx context.Context, store blob.Store, master *key, password []byte, now time.Time) (name string, err error) {
	cost := costFor(password)
	f := keyFile{Created: now.UTC(), KDF: "scrypt", N: cost.N, R: cost.R, P: cost.P, Salt: make([]byte, 64)}
	f.Hostname, f.Username = origin()
	_, _ = rand.Read(f.Salt) // never fails
	derived, err := deriveKey(password, f.Salt, cost)
	if err != nil {
		return "", err
	}
	secret, err := json.Marshal(master.secret)
	if err != nil {
		return "", err
	}
	f.Data = derived.seal(nil, secret)
	raw, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	name = keysDir + hash(raw).String()
	_, err = store.Put(ctx, name, raw, blob.IfAbsent())
	return name, err
}

// findKey returns the master key that the password opens, and the name of the key file. sealedConfig
// tells it from the key of an Init that crashed. Errors: ErrWrongKey, ErrDamaged.
func findKey(ctx context.Context, store blob.Store, password, sealedConfig []byte) (master *key, name string, err error) {
	var damaged []string
	for info, err := range store.List(ctx, keysDir) {
		if err != nil {
			return nil, "", err
		}
		id, err := ParseID(strings.TrimPrefix(info.Name, keysDir))
		if err != nil {
			continue // a write under way
		}
		f, err := loadKey(ctx, store, id)
		if errors.Is(err, blob.ErrNotFound) {
			continue // removed meanwhile
		}
		if errors.Is(err, ErrDamaged) {
			damaged = append(damaged, info.Name)
			continue
		}
		if err != nil {
			return nil, "", err
		}
		opened, err := f.open(password)
		if err != nil {
			continue
		}
		master, name = opened, info.Name
		if _, err := master.open(append([]byte{}, sealedConfig...)); err == nil {
			return master, name, nil
		}
	}
	switch {
	case master != nil:
		return master, name, nil // and Open will say that the config is damaged
	case len(damaged) > 0:
		return nil, "", fmt.Errorf("%s: %w, and no other key opens with this password", strings.Join(damaged, ", "), ErrDamaged)
	}
	return nil, "", ErrWrongKey
}

func (f *keyFile) open(password []byte) (*key, error) {
	derived, err := deriveKey(password, f.Salt, scryptCost{N: f.N, R: f.R, P: f.P})
	if err != nil {
		return nil, err
	}
	secret, err := derived.open(append([]byte{}, f.Data...))
	if err != nil {
		return nil, err
	}
	return parseKey(secret)
}
