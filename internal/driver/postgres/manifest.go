package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
)

// manifest is a base backup's own list of its files.
type manifest struct {
	Version  int            `json:"PostgreSQL-Backup-Manifest-Version"`
	Files    []manifestItem `json:"Files"`
	Checksum string         `json:"Manifest-Checksum"`
}

type manifestItem struct {
	Path      string `json:"Path"`
	Encoded   string `json:"Encoded-Path"` // hexadecimal, of a path that is not UTF-8
	Size      int64  `json:"Size"`
	Algorithm string `json:"Checksum-Algorithm"`
	Checksum  string `json:"Checksum"`
}

// verifyManifest makes sure that all files that the server says it read are those that came.
func verifyManifest(text []byte, got map[string]sum) error {
	damaged := func(format string, args ...any) error {
		return dr.Errorf(dr.ClassIncomplete, fmt.Errorf(format, args...), "Back up again; if it happens again, check the server's storage.", "the base backup did not arrive as the server read it")
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return damaged("its manifest cannot be read: %w", err)
	}
	// The checksum covers everything up to the line that names it.
	at := bytes.LastIndex(text, []byte(`"Manifest-Checksum"`))
	if of := sha256.Sum256(text[:max(at, 0)]); hex.EncodeToString(of[:]) != m.Checksum {
		return damaged("its manifest has another checksum than it says")
	}
	var wrong []string
	listed := map[string]bool{}
	for _, f := range m.Files {
		name := f.Path
		if f.Encoded != "" {
			raw, err := hex.DecodeString(f.Encoded)
			if err != nil {
				return damaged("its manifest names a file in a way that cannot be read: %w", err)
			}
			name = string(raw)
		}
		listed[name] = true
		is, there := got[name]
		want, err := hex.DecodeString(f.Checksum)
		switch {
		case !there:
			wrong = append(wrong, name+" is missing")
		case is.size != f.Size:
			wrong = append(wrong, fmt.Sprintf("%s has %d bytes and not %d", name, is.size, f.Size))
		case err != nil || f.Algorithm != "CRC32C" || !is.matches(want):
			wrong = append(wrong, name+" has another checksum")
		}
	}
	for name := range got {
		if !listed[name] && !strings.HasPrefix(name, walDir+"/") { // which has checksums of its own
			wrong = append(wrong, name+" is not in the manifest")
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return damaged("%d files differ from its manifest: %s", len(wrong), strings.Join(wrong[:min(5, len(wrong))], "; "))
	}
	return nil
}
