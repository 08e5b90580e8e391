package repo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/poly1305" //nolint:staticcheck // the format prescribes Poly1305-AES
	"golang.org/x/crypto/scrypt"
)

const (
	nonceSize = aes.BlockSize
	macSize   = poly1305.TagSize
	overhead  = nonceSize + macSize // bytes that sealing adds
)

// errSeal: the bytes were not sealed with this key, or were changed since.
var errSeal = errors.New("wrong key or damaged data")

// key seals with AES-256-CTR and authenticates the ciphertext with Poly1305-AES.
type key struct {
	encrypt cipher.Block // AES-256
	nonce   cipher.Block // AES-128, makes Poly1305's one-time pad of the nonce
	r       [16]byte
	secret  keyJSON
}

// keyJSON is a key as the format stores it.
type keyJSON struct {
	MAC struct {
		K []byte `json:"k"`
		R []byte `json:"r"`
	} `json:"mac"`
	Encrypt []byte `json:"encrypt"`
}

// newKey makes a key of 64 bytes: encryption key, k, r.
func newKey(material []byte) (*key, error) {
	if len(material) != 64 {
		return nil, fmt.Errorf("key material of %d bytes, want 64", len(material))
	}
	k := &key{}
	k.secret.Encrypt, k.secret.MAC.K = material[:32:32], material[32:48:48]
	copy(k.r[:], material[48:])
	clamp(&k.r)
	k.secret.MAC.R = k.r[:]
	var err error
	if k.encrypt, err = aes.NewCipher(k.secret.Encrypt); err != nil {
		return nil, err
	}
	if k.nonce, err = aes.NewCipher(k.secret.MAC.K); err != nil {
		return nil, err
	}
	return k, nil
}

// clamp clears the bits that Poly1305 does not use.
func clamp(r *[16]byte) {
	for _, i := range []int{3, 7, 11, 15} {
		r[i] &= 15
	}
	for _, i := range []int{4, 8, 12} {
		r[i] &= 252
	}
}

func randomKey() (*key, error) {
	material := make([]byte, 64)
	_, _ = rand.Read(material) // never fails
	return newKey(material)
}

func parseKey(raw []byte) (*key, error) {
	var j keyJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, err
	}
	if len(j.Encrypt) != 32 || len(j.MAC.K) != 16 || len(j.MAC.R) != 16 {
		return nil, errors.New("master key has parts of the wrong length")
	}
	return newKey(append(append(append([]byte{}, j.Encrypt...), j.MAC.K...), j.MAC.R...))
}

// scryptCost are the parameters of the key derivation.
type scryptCost struct{ N, R, P int }

// deriveKey makes a key of a password. It takes the time and memory that the cost says.
func deriveKey(password, salt []byte, c scryptCost) (*key, error) {
	// A forged key file must exhaust neither the machine's memory nor anybody's patience.
	const memory, work = 1 << 30, 16 << 30
	if c.N < 2 || c.R < 1 || c.P < 1 || c.N > memory/128/c.R || c.P > work/128/c.R/c.N {
		return nil, fmt.Errorf("scrypt cost N=%d r=%d p=%d is out of bounds", c.N, c.R, c.P)
	}
	material, err := scrypt.Key(password, salt, c.N, c.R, c.P, 64)
	if err != nil {
		return nil, err
	}
	return newKey(material)
}

func (k *key) oneTime(nonce []byte) *[32]byte {
	var out [32]byte
	copy(out[:16], k.r[:])
	k.nonce.Encrypt(out[16:], nonce)
	return &out
}

// seal appends nonce, ciphertext and MAC of plain to dst.
func (k *key) seal(dst, plain []byte) []byte {
	start := len(dst)
	dst = append(append(dst, make([]byte, nonceSize)...), plain...)
	k.encryptInPlace(dst[start:])
	return k.appendMAC(dst, dst[start:])
}

// sealInPlace seals what follows room for a nonce.
func (k *key) sealInPlace(b []byte) []byte {
	k.encryptInPlace(b)
	return k.appendMAC(b, b)
}

// encryptInPlace fills in the nonce that b begins with and encrypts the rest.
func (k *key) encryptInPlace(b []byte) {
	_, _ = rand.Read(b[:nonceSize]) // never fails
	cipher.NewCTR(k.encrypt, b[:nonceSize]).XORKeyStream(b[nonceSize:], b[nonceSize:])
}

// appendMAC authenticates nonce and ciphertext.
func (k *key) appendMAC(dst, sealed []byte) []byte {
	var mac [macSize]byte
	poly1305.Sum(&mac, sealed[nonceSize:], k.oneTime(sealed[:nonceSize]))
	return append(dst, mac[:]...)
}

// open decrypts sealed in place and returns the plaintext within it.
func (k *key) open(sealed []byte) ([]byte, error) {
	if len(sealed) < overhead {
		return nil, fmt.Errorf("%d bytes are too few: %w", len(sealed), errSeal)
	}
	nonce, text := sealed[:nonceSize], sealed[nonceSize:len(sealed)-macSize]
	var mac [macSize]byte
	copy(mac[:], sealed[len(sealed)-macSize:])
	if !poly1305.Verify(&mac, text, k.oneTime(nonce)) {
		return nil, errSeal
	}
	cipher.NewCTR(k.encrypt, nonce).XORKeyStream(text, text)
	return text, nil
}
