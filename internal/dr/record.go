package dr

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Beacon is the marker that Lifeboat writes into a datastore; the newest one that survives a loss
// says how much was lost.
type Beacon struct {
	Application string    `json:"application"`
	Datastore   string    `json:"datastore"`
	Site        string    `json:"site"`
	Epoch       uint64    `json:"epoch"`
	Sequence    uint64    `json:"sequence"` // grows by one with each write; the order, never the clock
	Time        time.Time `json:"time"`     // the writer's clock, UTC
}

// Consistency says what a copy of a datastore promises.
type Consistency string

// The consistencies.
const (
	LiveCopy        Consistency = "live"        // files copied while in use, one after the other
	CrashConsistent Consistency = "crash"       // one instant, as after a power cut
	AppConsistent   Consistency = "application" // one instant, the application quiesced
)

// RecoveryPoint is one instant to which an application can be brought back.
type RecoveryPoint struct {
	ID          string      `json:"id"`
	Application string      `json:"application"`
	Site        string      `json:"site"`
	Epoch       uint64      `json:"epoch"`
	Started     time.Time   `json:"started"`
	Time        time.Time   `json:"time"` // nothing acknowledged before this instant is missing
	Finished    time.Time   `json:"finished"`
	Checkpoint  string      `json:"checkpoint"` // snapshot id of the cluster state in the vault's repository
	Objects     int         `json:"objects"`
	Data        []DataPoint `json:"data,omitempty"`
	// Missing names what could not be read; a point with any is incomplete.
	Missing []string `json:"missing,omitempty"`
}

// Complete says whether everything that belongs to the point was captured.
func (p *RecoveryPoint) Complete() bool { return len(p.Missing) == 0 }

// DataPoint is one datastore's part of a recovery point.
type DataPoint struct {
	Datastore   string      `json:"datastore"`
	Snapshot    string      `json:"snapshot"` // snapshot id in the vault's repository
	Consistency Consistency `json:"consistency"`
	Beacon      Beacon      `json:"beacon"`
	Bytes       int64       `json:"bytes"`       // size of the data
	StoredBytes int64       `json:"storedBytes"` // bytes this point added to the vault
	Files       int         `json:"files"`
	// Postgres is set for a base backup of PostgreSQL.
	Postgres *PostgresCopy `json:"postgres,omitempty"`
}

// ParseLogPosition reads PostgreSQL's form of a position in a write-ahead log: two hexadecimal numbers,
// "16/B374D848".
func ParseLogPosition(s string) (uint64, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not a position in a write-ahead log, such as 16/B374D848", s)
	}
	return h<<32 | l, nil
}

// PostgresCopy is what a base backup of PostgreSQL needs to be brought back. Positions are in the server's
// form, "16/B374D848".
type PostgresCopy struct {
	System      string    `json:"system"` // the database's identifier, which its copies share
	Version     string    `json:"version"`
	Timeline    uint32    `json:"timeline"`
	Start       string    `json:"start"`
	Stop        string    `json:"stop"`  // the copy is consistent from there on, and no earlier instant can be had of it
	Ended       time.Time `json:"ended"` // when that was, by the server's clock
	SegmentSize uint64    `json:"segmentSize"`
	Tablespaces int       `json:"tablespaces,omitempty"` // kept as directories of the data directory
	Claim       string    `json:"claim,omitempty"`       // that holds the data directory, in Directory
	Directory   string    `json:"directory,omitempty"`
	// Until is up to where the log was kept when the point was sealed; empty: no further than the copy.
	Until         string `json:"until,omitempty"`
	UntilTimeline uint32 `json:"untilTimeline,omitempty"`
}

// Ownership says which site may act for an application. It lives in the vault and changes only by
// compare-and-swap; its epoch only grows, and its Lease names who is changing things now.
type Ownership struct {
	Application string    `json:"application"`
	Site        string    `json:"site"`
	Epoch       uint64    `json:"epoch"`
	Run         string    `json:"run,omitempty"` // the run that made this the owner
	Changed     time.Time `json:"changed"`
	Lease       *Lease    `json:"lease,omitempty"`
	BreakGlass  string    `json:"breakGlass,omitempty"` // the recorded reason of the last override
}

// Lease is a promise that nobody else acts while it is renewed. A waiter measures Duration on its own
// monotonic clock from when it first saw Sequence; no two clocks are ever compared.
type Lease struct {
	Holder   string        `json:"holder"` // run id / process token
	Sequence uint64        `json:"sequence"`
	Duration time.Duration `json:"duration"`
	By       string        `json:"by"` // user@host, for people
}
