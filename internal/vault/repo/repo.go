// Package repo reads and writes repositories in the published restic format, version 2: encrypted,
// content-addressed, deduplicated and compressed, so that the stock restic can open what we wrote.
//
// Everything large is cut into blobs, blobs are gathered in packs, indexes say which pack holds which
// blob, trees name the blobs of files, and snapshots name trees. They are written in that order, so
// that a crash at any point leaves a repository in which every snapshot is whole.
package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// What callers may want to tell apart.
var (
	// ErrNotARepository: nothing here looks like a repository.
	ErrNotARepository = errors.New("not a repository")
	// ErrExists: Init found a repository.
	ErrExists = errors.New("repository already exists")
	// ErrWrongKey: no key of the repository opens with this password.
	ErrWrongKey = errors.New("wrong key")
	// ErrVersion: the repository's format is not version 2.
	ErrVersion = errors.New("unsupported version of the repository format")
	// ErrNotFound: there is no such snapshot, blob or path.
	ErrNotFound = errors.New("not in the repository")
	// ErrAmbiguous: several snapshots begin with this prefix.
	ErrAmbiguous = errors.New("several snapshots match")
	// ErrDamaged: an object is there and is not what was written.
	ErrDamaged = errors.New("damaged")
)

// Names of the repository's objects.
const (
	configName  = "config"
	keysDir     = "keys/"
	dataDir     = "data/"
	indexDir    = "index/"
	snapshotDir = "snapshots/"
	locksDir    = "locks/"
)

// Repo is an open repository. Its methods may be called at the same time.
type Repo struct {
	store   blob.Store
	master  *key
	keyName string // of the key file that opened it
	config  config
	zenc    *zstd.Encoder
	zdec    *zstd.Decoder
	now     func() time.Time
	catalog *catalog
}

// Init makes a repository in an empty store and opens it.
func Init(ctx context.Context, store blob.Store, password []byte) (*Repo, error) {
	if _, err := store.Stat(ctx, configName); err == nil {
		return nil, fmt.Errorf("create repository at %s: %w", store.Location(), ErrExists)
	} else if !errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	master, err := randomKey()
	if err != nil {
		return nil, err
	}
	keyName, err := saveKey(ctx, store, master, password, time.Now())
	if err != nil {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	c := newConfig()
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	// The config decides between two who create at once; the loser takes its key away again.
	if _, err := store.Put(ctx, configName, master.seal(nil, raw), blob.IfAbsent()); err != nil {
		if errors.Is(err, blob.ErrExists) {
			err = fmt.Errorf("%w: %w", ErrExists, discard(ctx, store, keyName))
		}
		return nil, fmt.Errorf("create repository at %s: %w", store.Location(), err)
	}
	// Keys of an earlier Init that crashed open nothing, and would only confuse other programs.
	for info, err := range store.List(ctx, keysDir) {
		if err != nil {
			return nil, fmt.Errorf("create repository: %w", err)
		}
		if info.Name != keyName {
			if err := discard(ctx, store, info.Name); err != nil {
				return nil, fmt.Errorf("create repository: %w", err)
			}
		}
	}
	return newRepo(store, master, keyName, c)
}

// discard deletes what is of no use and harms nobody where the store keeps it.
func discard(ctx context.Context, store blob.Store, name string) error {
	if err := store.Delete(ctx, name); !errors.Is(err, blob.ErrRetained) {
		return err
	}
	return nil
}

// Open opens the repository in store. Errors: ErrNotARepository, ErrWrongKey, ErrVersion.
func Open(ctx context.Context, store blob.Store, password []byte) (*Repo, error) {
	object, err := store.Get(ctx, configName, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", store.Location(), ErrNotARepository)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	master, keyName, err := findKey(ctx, store, password, object.Data)
	if err != nil {
		return nil, fmt.Errorf("open repository at %s: %w", store.Location(), err)
	}
	raw, err := master.open(object.Data)
	if err != nil {
		return nil, fmt.Errorf("open repository at %s: config: %w: %w", store.Location(), ErrDamaged, err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("open repository at %s: %w", store.Location(), err)
	}
	return newRepo(store, master, keyName, c)
}

func newRepo(store blob.Store, master *key, keyName string, c config) (*Repo, error) {
	// The fastest level stores a few per cent more than the default and takes half its time; a checksum of
	// zstd's own would tell nothing that the blob's hash does not.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(saverWorkers()),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	// It decompresses no more than there is room for.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBlob), zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	r := &Repo{store: store, master: master, keyName: keyName, config: c, zenc: enc, zdec: dec, now: time.Now}
	r.catalog = &catalog{repo: r}
	return r, nil
}

// ID identifies the repository, wherever it is copied to.
func (r *Repo) ID() string { return r.config.ID }

// Location names the repository for people.
func (r *Repo) Location() string { return r.store.Location() }

// Seal encrypts a small record with the repository's master key.
func (r *Repo) Seal(plain []byte) []byte { return r.master.seal(nil, plain) }

// Unseal returns what Seal was given, or an error when even one bit of it changed (ErrDamaged).
func (r *Repo) Unseal(sealed []byte) ([]byte, error) {
	plain, err := r.master.open(append([]byte{}, sealed...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, nil
}

// SealLarge is Seal for data that is worth being compressed.
func SealLarge(r *Repo, plain []byte) []byte {
	return r.master.seal(nil, r.zenc.EncodeAll(plain, nil))
}

// UnsealLarge returns what SealLarge was given, or an error when even one bit of it changed (ErrDamaged).
func UnsealLarge(r *Repo, sealed []byte) ([]byte, error) {
	packed, err := r.Unseal(sealed)
	if err != nil {
		return nil, err
	}
	plain, err := r.inflate(packed, maxObject)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, nil
}

// compressedJSON marks plaintext that is zstd-compressed JSON; older plaintext begins with { or [.
const compressedJSON = 2

// Limits that keep forged lengths and compressed nothing from exhausting memory. Nothing that a writer
// of the format makes is near to them.
const (
	maxBlob   = 1 << 30   // a blob, sealed or not
	maxObject = 256 << 20 // an index or snapshot, sealed or not
)

// inflate decompresses data of which the plaintext has the given length, or at most that. It makes room
// as the data asks for it, for what data says of itself may be forged.
func (r *Repo) inflate(data []byte, most int) ([]byte, error) {
	var header zstd.Header
	if err := header.Decode(data); err != nil {
		return nil, err
	}
	room := min(64<<10+16*len(data), most)
	if header.HasFCS {
		if header.FrameContentSize > uint64(most) {
			return nil, fmt.Errorf("%d bytes uncompressed, at most %d are expected", header.FrameContentSize, most)
		}
		if header.FrameContentSize <= 2*maxChunk {
			room = int(header.FrameContentSize)
		}
	}
	for {
		plain, err := r.zdec.DecodeAll(data, make([]byte, 0, room))
		if !errors.Is(err, zstd.ErrDecoderSizeExceeded) || room >= most {
			return plain, err
		}
		room = min(8*max(room, 1<<10), most)
	}
}

// saveJSON writes v as an object below dir, named by the hash of its stored bytes, and says how many
// those are.
func (r *Repo) saveJSON(ctx context.Context, dir string, v any) (ID, int64, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ID{}, 0, err
	}
	sealed := r.master.seal(nil, r.zenc.EncodeAll(raw, []byte{compressedJSON}))
	id := hash(sealed)
	_, err = r.store.Put(ctx, dir+id.String(), sealed, blob.IfAbsent())
	return id, int64(len(sealed)), err
}

// loadJSON reads what saveJSON, or another program, wrote.
func (r *Repo) loadJSON(ctx context.Context, dir string, id ID, v any) error {
	name := dir + id.String()
	object, err := r.store.Get(ctx, name, blob.Range{Length: maxObject})
	if err != nil {
		return err
	}
	if hash(object.Data) != id {
		return fmt.Errorf("%s: %w: its content has another hash", name, ErrDamaged)
	}
	plain, err := r.master.open(object.Data)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	if len(plain) > 0 && plain[0] == compressedJSON {
		if plain, err = r.inflate(plain[1:], maxObject); err != nil {
			return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
		}
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	return nil
}

// listIDs returns the ids of the objects below dir. Names that are no ids belong to writes under way.
func (r *Repo) listIDs(ctx context.Context, dir string) ([]ID, error) {
	var ids []ID
	for info, err := range r.store.List(ctx, dir) {
		if err != nil {
			return nil, err
		}
		if id, err := ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:]); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// origin says who and where we are, for keys, locks and snapshots.
func origin() (hostname, username string) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	if u, err := user.Current(); err == nil {
		username = u.Username
	}
	return hostname, username
}
