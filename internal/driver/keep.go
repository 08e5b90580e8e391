package driver

import (
	"context"
	"io"
	"io/fs"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Trees keeps copies that a driver streams file by file. Each becomes a snapshot in the vault's
// repository, in which equal content is stored once.
type Trees interface {
	// Begin starts a tree: an empty one, or one that has, in the directory below, what the snapshot from
	// has. Close it in any case. Error: dr.ErrNotFound when there is no such snapshot.
	Begin(ctx context.Context, from, below string) (Tree, error)
}

// Tree is a copy that is being made. Its methods may not be called at the same time.
type Tree interface {
	// Put stores an entry in the place of one that has its path; "" is the tree's root itself. The content
	// of a file is read to its end; directories above it that nobody put get the first entry's owner.
	Put(ctx context.Context, e TreeEntry, content io.Reader) error
	// Read returns the content of a file that is small enough to be in memory. Error: dr.ErrNotFound.
	Read(ctx context.Context, path string) ([]byte, error)
	// Entries returns what is in a directory; of one that is not there, nothing.
	Entries(ctx context.Context, dir string) ([]TreeEntry, error)
	// Remove takes away an entry and what is below it; one that is not there is no error.
	Remove(ctx context.Context, path string) error
	// Save makes a snapshot of it all.
	Save(ctx context.Context, s TreeLabels) (TreeCopy, error)
	// Close gives back what the tree holds. What was not saved is lost.
	Close(ctx context.Context) error
}

// TreeEntry is a file, directory or symbolic link.
type TreeEntry struct {
	Path     string // below the tree's root, slash-separated: "base/5/1259"
	Mode     fs.FileMode
	ModTime  time.Time
	UID, GID uint32
	Link     string // target of a symbolic link
}

// TreeLabels describe a snapshot to those who look for it.
type TreeLabels struct {
	Time   time.Time // when the copy was begun
	Host   string    // the site's name
	Labels map[string]string
}

// TreeCopy is a saved tree.
type TreeCopy struct {
	Snapshot    string
	Bytes       int64 // of the files that were put
	StoredBytes int64 // that it added to the vault
	Files       int   // that were put
}

// Logs keeps write-ahead logs of datastores.
type Logs interface {
	// Open returns the log that a datastore wrote while its application was at an epoch. Each epoch has
	// a log of its own: what a site writes that was failed over from never mixes with what its successor
	// writes.
	Open(application, datastore string, epoch uint64) Log
}

// Log is a write-ahead log in pieces. Its methods may be called at the same time.
type Log interface {
	// Append adds a piece. When it returns without an error, the piece is durable. A piece that is there
	// already is no error.
	Append(ctx context.Context, p LogPiece, data []byte) error
	// Pieces lists what there is, ordered by system, timeline and position. Of their beacons only the
	// times are known.
	Pieces(ctx context.Context) ([]LogPiece, error)
	// Read returns a piece with its beacon, and its content.
	Read(ctx context.Context, p LogPiece) (LogPiece, []byte, error)
	// PutHistory keeps the history of a timeline.
	PutHistory(ctx context.Context, system string, timeline uint32, text []byte) error
	// Histories returns the histories of a system's timelines.
	Histories(ctx context.Context, system string) (map[uint32][]byte, error)
}

// LogPiece describes a part of a log.
type LogPiece struct {
	System   string // tells one database from another
	Timeline uint32
	From, To uint64 // positions: the piece holds the bytes from From up to To
	// Beacon is the newest one whose commit lies before To: what was acknowledged up to its time lies
	// before To as well. Zero when none is known.
	Beacon dr.Beacon
}

// RecoveryTarget says up to where a datastore with a log is brought back; zero: as the copy has it.
type RecoveryTarget struct {
	Time     time.Time // by the datastore's clock
	Position string    // of its log
	Latest   bool      // to the end of the log
}

// Zero says whether nothing but the copy is asked for.
func (t RecoveryTarget) Zero() bool { return t == RecoveryTarget{} }
