package repo

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
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

// findKey returns the master key that the password opens. sealedConfig tells it from the key of an
// Init that crashed.
func findKey(ctx context.Context, store blob.Store, password, sealedConfig []byte) (*key, error) {
	var opened *key
	var damaged []string
	for info, err := range store.List(ctx, keysDir) {
		if err != nil {
			return nil, err
		}
		id, err := ParseID(strings.TrimPrefix(info.Name, keysDir))
		if err != nil {
			continue // a write under way
		}
		object, err := store.Get(ctx, info.Name, blob.Range{})
		if err != nil {
			return nil, err
		}
		if hash(object.Data) != id {
			damaged = append(damaged, info.Name)
			continue
		}
		master, err := tryKey(object.Data, password)
		if err != nil {
			continue
		}
		opened = master
		if _, err := master.open(append([]byte{}, sealedConfig...)); err == nil {
			return master, nil
		}
	}
	switch {
	case opened != nil:
		return opened, nil // and Open will say that the config is damaged
	case len(damaged) > 0:
		return nil, fmt.Errorf("%s: %w, and no other key opens with this password", strings.Join(damaged, ", "), ErrDamaged)
	}
	return nil, ErrWrongKey
}

func tryKey(raw, password []byte) (*key, error) {
	var f keyFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	if f.KDF != "scrypt" {
		return nil, fmt.Errorf("unknown key derivation %q", f.KDF)
	}
	derived, err := deriveKey(password, f.Salt, scryptCost{N: f.N, R: f.R, P: f.P})
	if err != nil {
		return nil, err
	}
	secret, err := derived.open(f.Data)
	if err != nil {
		return nil, err
	}
	return parseKey(secret)
}
