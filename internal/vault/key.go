package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// CreateKeyFile writes a new random key of 32 bytes, in base64, which the stock restic takes as a
// password file too. It never overwrites: dr.ErrExists.
func CreateKeyFile(path string) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return dr.Errorf(dr.ClassConflict, dr.ErrExists, "Use that key, or name another file.", "cannot create key file %s", path)
	}
	if err != nil {
		return dr.Errorf(dr.ClassUsage, pathCause(err), "Create its directory, or name another file.", "cannot create key file %s", path)
	}
	_, err = file.WriteString(base64.StdEncoding.EncodeToString(secret) + "\n")
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path)) // a vault whose key is lost is lost
	}
	if err != nil {
		return dr.Errorf(dr.ClassInternal, errors.Join(err, os.Remove(path)), "", "cannot write key file %s", path)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadKeyFile returns the key in a file, without the white space around it. Errors are *dr.Error of
// class denied.
func ReadKeyFile(path string) ([]byte, error) {
	if path == "" {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Set encryptionKey.file of the vault in the fleet file.", "the vault names no key file")
	}
	info, err := os.Stat(path)
	if err != nil {
		next := "Copy it from where you keep it; without it nothing in the vault can be read."
		return nil, dr.Errorf(dr.ClassDenied, pathCause(err), next, "cannot read key file %s", path)
	}
	if !info.Mode().IsRegular() {
		return nil, dr.Errorf(dr.ClassDenied, errors.New("it is not a file"), "Name a file that holds the key.", "cannot read key file %s", path)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, dr.Errorf(dr.ClassDenied, nil, "Run 'chmod 600 "+path+"', and consider who may have read it.",
			"key file %s can be read or written by every user (mode %#o)", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, dr.Errorf(dr.ClassDenied, pathCause(err), "Run as the user who owns it.", "cannot read key file %s", path)
	}
	key := bytes.TrimSpace(raw)
	if len(key) == 0 {
		return nil, dr.Errorf(dr.ClassDenied, nil, "Copy the key into it again.", "key file %s is empty", path)
	}
	return key, nil
}

// pathCause drops the path, which the message has already.
func pathCause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// NewID makes an id for a run or a recovery point: ids sort by the time at which they were made, and
// tell people when and for what: 20261122t233121482-shop-a1b2.
func NewID(now time.Time, name string) string {
	var tail [2]byte
	_, _ = rand.Read(tail[:]) // never fails
	stamp := strings.Replace(now.UTC().Format("20060102t150405.000"), ".", "", 1)
	return stamp + "-" + name + "-" + hex.EncodeToString(tail[:])
}
