// Package driver declares what Lifeboat needs of the technologies at its edges; each implementation
// lives in a package of its own below, and passes the contract suite in drivertest.
package driver

import (
	"context"
	"errors"
	"io"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Datastore protects and restores one kind of data at one site.
type Datastore interface {
	// Inspect says whether the datastore is there and how large it is, without changing anything.
	// A datastore that is not there is dr.ErrNotFound.
	Inspect(ctx context.Context, ds dr.Datastore) (DataState, error)
	// Protect writes the request's beacon into the datastore, then copies it into the vault. The
	// point's beacon is the one written. Nothing is said to be protected that was not read to its end.
	Protect(ctx context.Context, req ProtectRequest) (dr.DataPoint, error)
	// Restored reports what an earlier Restore of the same point left, or nil when it did not end.
	Restored(ctx context.Context, req RestoreRequest) (*dr.DataOutput, error)
	// Restore brings a copy back. It refuses to write over data that it did not put there itself. Until
	// it has ended, the datastore is marked so that no later Protect takes it for the truth.
	Restore(ctx context.Context, req RestoreRequest) (dr.DataOutput, error)
}

// DataState is what Inspect found.
type DataState struct {
	Description string // for people: "claim shop/orders, 1Gi, class fast, bound"
	Bytes       int64  // capacity
	Restoring   string // id of the recovery point whose restore has not ended; empty: none
}

// ProtectRequest asks for a copy of a datastore.
type ProtectRequest struct {
	Application string
	Point       string // id of the recovery point that the copy will belong to
	Datastore   dr.Datastore
	Parent      string    // the datastore's newest copy from the same site, to be compared with; empty: none
	Beacon      dr.Beacon // Sequence and Time are filled in by the driver at the moment of writing
	Progress    func(Progress)
}

// RestoreRequest asks for a copy to be brought back.
type RestoreRequest struct {
	Application string
	Point       string
	Datastore   dr.Datastore
	Data        dr.DataPoint
	// Target is for datastores whose log is kept. Copies are all that there are of the datastore; the one
	// that fits the target best is taken.
	Target RecoveryTarget
	Copies []dr.DataPoint
	// Last is the path of a file that comes once everything else is on disk: before that, nobody takes
	// what is there for whole. Empty: none.
	Last     string
	Progress func(Progress)
}

// Progress is said from time to time by long work; zero totals mean unknown.
type Progress struct {
	Bytes, TotalBytes int64
	Files, TotalFiles int
}

// Traffic moves a host name from one place to another.
type Traffic interface {
	// Inspect reads what the authority answers for a host now.
	Inspect(ctx context.Context, host string) (Record, error)
	// Switch makes host answer with to, provided that it still answers with from: a compare-and-swap.
	// A record that changed meanwhile is dr.ErrStale and nothing is changed.
	Switch(ctx context.Context, host string, from, to Record) (dr.TrafficOutput, error)
}

// Record is what a host name answers with. A host without a record has no addresses.
type Record struct {
	Addresses []string // sorted IP addresses
	TTL       time.Duration
}

// Prober asks an application for a sign of life.
type Prober interface {
	// Probe makes one try, bounded by the probe's time-out.
	Probe(ctx context.Context, p dr.Probe) ProbeResult
}

// ProbeResult is one try.
type ProbeResult struct {
	Time    time.Time // when the answer, or the failure, was complete
	Err     error     // nil: a 2xx answer
	Site    string    // the site that said it answered, if the application says
	Address string    // the address that was asked
}

// Mover does the data work of a volume over a stream to a mover process beside the volume.
type Mover interface {
	// Run hands order to the mover at the other end of stream, serves its requests to the vault, and
	// returns what it reports. It returns when the mover has ended or ctx is done.
	Run(ctx context.Context, stream io.ReadWriter, order MoverOrder, progress func(Progress)) (MoverReport, error)
}

// MoverOrder tells a mover what to do with the directory that it was given.
type MoverOrder struct {
	Verb     MoverVerb
	Path     string            // the volume's mount path in the mover
	Labels   map[string]string // become the snapshot's tags: application, datastore, point
	Host     string            // the snapshot's host: the site's name
	Beacon   dr.Beacon         // protect: written to Path/.lifeboat/beacon.json first
	Parent   string            // protect: an earlier snapshot of this volume, whose unchanged files are not read again
	Snapshot string            // restore: what to bring back
	Point    string            // restore: recorded in Path/.lifeboat/restored.json at the end
	Last     string            // restore: the file below Path that comes last; empty: none
}

// MoverVerb is what a mover does.
type MoverVerb string

// The verbs.
const (
	MoverProtect  MoverVerb = "protect"
	MoverRestore  MoverVerb = "restore"
	MoverRestored MoverVerb = "restored" // report an earlier restore of Point, if it ended
)

// ErrUntouched is in the chain of an error after which a volume is as it was before the order.
var ErrUntouched = errors.New("nothing was changed")

// MoverReport is what a mover did.
type MoverReport struct {
	Snapshot    string
	Bytes       int64
	StoredBytes int64
	Files       int
	Unchanged   int // of them, not read because they are as the parent has them
	Beacon      dr.Beacon
	Done        bool // restored: it had ended
	// Warnings say, for people, what is not exactly as it was: owners that could not be given, entries
	// that hold no data and were left out, files that vanished while they were being copied.
	Warnings []string
}
