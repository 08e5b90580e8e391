package restore

import (
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
)

// Policy says what happens to an object that is at the target already, was not restored by Lifeboat and
// differs.
type Policy string

// The policies.
const (
	Keep    Policy = "keep"    // leave it alone
	Patch   Policy = "patch"   // make what was captured so, leave the rest (the default)
	Replace Policy = "replace" // as Patch; where a field cannot be changed, delete it and make it anew
)

const (
	defaultWorkers     = 32
	defaultGateTimeout = 2 * time.Minute
)

// Options say what is restored, from where, to where, and how.
type Options struct {
	Application string
	Point       string // id of the recovery point
	From, To    dr.Site
	Stage       dr.Stage // empty: foundation, then workloads
	Existing    Policy   // empty: Patch
	// Data are the claims whose data comes from the recovery point once they are there. They are marked so
	// when they are made, and nobody takes their empty volumes for the truth. Nil: not known.
	Data []dr.VolumeRef
	// Select says which objects are restored, with what they need unless WithoutNeeds. Its namespaces are
	// those of the set.
	Select       dr.Selector
	WithoutNeeds bool
	// Copy names a copy beside the original; empty: it is the original. Moved is where the set came from, if
	// its namespaces were mapped.
	Copy  string
	Moved *Elsewhere
	// Paused: what acts by itself stays paused, for no cutover comes.
	Paused bool
	// Edits are the user's own changes; they come last.
	Edits  edit.Transforms
	Status dr.StatusPolicy // empty: restore
	Hosts  dr.HostPolicy   // empty: rename in a copy, else keep
	// Workers bounds the requests under way at once; default 32.
	Workers int
	// GateTimeout bounds each wait for something the target has to do first: a CRD to be established, a
	// namespace to go away, a webhook's backend to answer. Default 2 min.
	GateTimeout time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time

	match *edit.Matcher  // of Select; nil: everything
	taken map[string]key // host name → who has it at the target
}

func (o Options) withDefaults() Options {
	if o.Existing == "" {
		o.Existing = Patch
	}
	if o.Workers <= 0 {
		o.Workers = defaultWorkers
	}
	if o.GateTimeout <= 0 {
		o.GateTimeout = defaultGateTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Hosts != "":
	case o.Copy != "":
		o.Hosts = dr.HostsRename
	default:
		o.Hosts = dr.HostsKeep
	}
	return o
}

// Change is one thing that is made differently at the target, for people.
type Change struct {
	Object string // "Deployment shop/web"
	What   string // "image east/shop:1 becomes west/shop:1"
}

// Progress is said after each object, and when a wait begins.
type Progress struct {
	Done, Total int
	Object      string // the object just done, or the one that waits
	Waiting     string // what it waits for; empty: done
}
