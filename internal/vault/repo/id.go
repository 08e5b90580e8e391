package repo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// ID is the SHA-256 of what it names: of a blob's plaintext, of any other object's stored bytes.
type ID [sha256.Size]byte

// ParseID reads the hexadecimal form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("id %.80q: want %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("id %q: %w", s, err)
	}
	return id, nil
}

func hash(data []byte) ID { return sha256.Sum256(data) }

// IsZero says whether the id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// short is enough for people.
func (id ID) short() string { return hex.EncodeToString(id[:4]) }

// MarshalJSON writes the hexadecimal form.
func (id ID) MarshalJSON() ([]byte, error) { return json.Marshal(id.String()) }

// UnmarshalJSON reads the hexadecimal form.
func (id *ID) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	parsed, err := ParseID(s)
	*id = parsed
	return err
}
