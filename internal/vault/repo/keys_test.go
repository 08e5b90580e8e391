package repo

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

var otherPassword = []byte("b3RoZXIga2V5IG9mIDMyIGJ5dGVzLCBhbHNvIHJhbmRvbQ==")

func maintain(t testing.TB, r *Repo) *Maintenance {
	t.Helper()
	m, err := Maintain(t.Context(), r, LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func closed(t testing.TB, m *Maintenance) {
	t.Helper()
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	first, err := Keys(t.Context(), r)
	if err != nil || len(first) != 1 || !first[0].InUse || first[0].Created.IsZero() {
		t.Fatalf("%+v, %v", first, err)
	}
	m := maintain(t, r)
	if _, err := m.RemoveKey(t.Context(), first[0].ID.String(), true); !errors.Is(err, ErrLastKey) {
		t.Errorf("removing the last key: %v", err)
	}
	closed(t, m)
	added, err := AddKey(t.Context(), r, otherPassword)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AddKey(t.Context(), r, otherPassword); !errors.Is(err, ErrExists) {
		t.Errorf("the same again: %v", err)
	}
	if _, err := AddKey(t.Context(), r, nil); err == nil {
		t.Error("an empty password was added")
	}
	other, err := Open(t.Context(), store, otherPassword)
	if err != nil || !bytes.Equal(other.master.secret.Encrypt, r.master.secret.Encrypt) {
		t.Fatalf("the added key opens something else: %v", err)
	}
	m = maintain(t, other)
	defer closed(t, m)
	for prefix, want := range map[string]error{"": ErrNotFound, "xyz": ErrNotFound, added.String(): ErrKeyInUse} {
		if _, err := m.RemoveKey(t.Context(), prefix, false); !errors.Is(err, want) {
			t.Errorf("remove %q: %v, want %v", prefix, err, want)
		}
	}
	if k, err := m.RemoveKey(t.Context(), first[0].ID.String()[:12], false); err != nil || k.ID != first[0].ID {
		t.Fatal(k, err)
	}
	if _, err := Open(t.Context(), store, testPassword); !errors.Is(err, ErrWrongKey) {
		t.Errorf("the removed key: %v", err)
	}
	if _, err := Open(t.Context(), store, otherPassword); err != nil {
		t.Error(err)
	}
}

// TestADamagedKeyDoesNotCount: what is left must be able to open the repository.
func TestADamagedKeyDoesNotCount(t *testing.T) {
	t.Parallel()
	r, store := newTestRepo(t)
	added, err := AddKey(t.Context(), r, otherPassword)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, store, keysDir+added.String(), 20)
	keys, err := Keys(t.Context(), r)
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	m := maintain(t, r)
	defer closed(t, m)
	for _, k := range keys {
		if k.InUse == (k.Damaged != "") {
			t.Errorf("%+v", k)
		}
		if k.InUse {
			if _, err := m.RemoveKey(t.Context(), k.ID.String(), true); !errors.Is(err, ErrLastKey) {
				t.Errorf("removing the last whole key: %v", err)
			}
		}
	}
}

func TestAKeyThatTheStoreKeepsIsNotRemoved(t *testing.T) {
	t.Parallel()
	_, store := newTestRepo(t)
	r := reopen(t, &stubbornStore{Store: store, refuseDelete: func(name string) error {
		if strings.HasPrefix(name, keysDir) {
			return blob.ErrRetained
		}
		return nil
	}})
	added, err := AddKey(t.Context(), r, otherPassword)
	if err != nil {
		t.Fatal(err)
	}
	m := maintain(t, r)
	defer closed(t, m)
	if _, err := m.RemoveKey(t.Context(), added.String(), false); !errors.Is(err, blob.ErrRetained) {
		t.Errorf("got %v", err)
	}
}
