package dr

import (
	"encoding/json"
	"time"
)

// RunStage is how far a run or a step has come.
type RunStage string

// The stages of runs and steps.
const (
	StagePending RunStage = "pending"
	StageRunning RunStage = "running"
	StageEnded   RunStage = "ended"
)

// Outcome is how something that ended went.
type Outcome string

// The outcomes. A run is verified only when every step that verifies said so.
const (
	OutcomeNone     Outcome = ""         // not ended
	OutcomeDone     Outcome = "done"     // a step did its work
	OutcomeVerified Outcome = "verified" // a run ended and was shown to work
	OutcomeFailed   Outcome = "failed"
	OutcomeSkipped  Outcome = "skipped" // not needed, or a person overrode it; Reason says which
	OutcomeStopped  Outcome = "stopped" // interrupted; resumable
)

// Run is the journaled doing of a plan.
type Run struct {
	ID      string    `json:"id"`
	Plan    Plan      `json:"plan"`
	Epoch   uint64    `json:"epoch"` // epoch that its steps present; a claim raises it
	Stage   RunStage  `json:"stage"`
	Outcome Outcome   `json:"outcome,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Steps   []StepRun `json:"steps"` // in the plan's order
}

// StepRun is the state of one step of a run.
type StepRun struct {
	ID       string   `json:"id"`
	Stage    RunStage `json:"stage"`
	Outcome  Outcome  `json:"outcome,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Attempts int      `json:"attempts,omitempty"` // over all processes that worked on the run
	// CutOff: an earlier process began it and did not live to say how it ended.
	CutOff  bool      `json:"cutOff,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Output is what the step leaves for later steps and for the report: one of the …Output types.
	Output json.RawMessage `json:"output,omitempty"`
}

// EntryType is the kind of a journal entry.
type EntryType string

// The journal's entries. Intent comes before effect: step-started is written before a step acts.
const (
	EntryRunStarted   EntryType = "run-started"
	EntryRunResumed   EntryType = "run-resumed"
	EntryStepStarted  EntryType = "step-started"
	EntryStepEnded    EntryType = "step-ended"
	EntryEpochChanged EntryType = "epoch-changed"
	EntryRunEnded     EntryType = "run-ended"
)

// Entry is one create-if-absent record of a run's journal.
type Entry struct {
	Run      string          `json:"run"`
	Sequence int             `json:"sequence"` // 1, 2, 3 … without gaps
	Type     EntryType       `json:"type"`
	Time     time.Time       `json:"time"`
	Epoch    uint64          `json:"epoch"`
	By       string          `json:"by"` // process token
	Step     string          `json:"step,omitempty"`
	Outcome  Outcome         `json:"outcome,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Plan     *Plan           `json:"plan,omitempty"` // in run-started alone
}

// What steps leave behind (StepRun.Output).
type (
	// ClaimOutput is left by claim-ownership.
	ClaimOutput struct {
		Epoch uint64 `json:"epoch"`
	}
	// CaptureOutput is left by capture-state.
	CaptureOutput struct {
		Snapshot string    `json:"snapshot"`
		Started  time.Time `json:"started"` // before the first object was read
		Objects  int       `json:"objects"`
		Missing  []string  `json:"missing,omitempty"`
	}
	// PointOutput is left by seal-recovery-point.
	PointOutput struct {
		Point RecoveryPoint `json:"point"`
	}
	// RestoreOutput is left by restore-state and await-ready.
	RestoreOutput struct {
		Created   int      `json:"created"`
		Updated   int      `json:"updated"`
		Unchanged int      `json:"unchanged"`
		Skipped   []string `json:"skipped,omitempty"`  // object: reason
		Notes     []string `json:"notes,omitempty"`    // object: what was mapped for the site, or overwritten there
		Problems  []string `json:"problems,omitempty"` // object: what is not as it should be
	}
	// DataOutput is left by restore-data; the beacon was read back at the new site. (protect-data
	// leaves a DataPoint.)
	DataOutput struct {
		Bytes  int64  `json:"bytes"`
		Files  int    `json:"files"`
		Beacon Beacon `json:"beacon"`
		// Warnings say what is not exactly as it was: an owner that could not be given, for example.
		Warnings []string `json:"warnings,omitempty"`
	}
	// ReadyOutput is left by await-ready.
	ReadyOutput struct {
		RestoreOutput
		WorkloadsReady time.Time     `json:"workloadsReady"`
		Waited         time.Duration `json:"waited"` // for the application's own start
	}
	// TrafficOutput is left by switch-traffic.
	TrafficOutput struct {
		Host    string        `json:"host"`
		Before  []string      `json:"before,omitempty"`
		After   []string      `json:"after"`
		TTL     time.Duration `json:"ttl"` // how long resolvers may go on answering Before
		Changed time.Time     `json:"changed"`
	}
	// HookOutput is left by run-hook.
	HookOutput struct {
		Ran   string `json:"ran"`             // "pod shop/orders-db-0", "Job shop/lifeboat-hook-migrate-4f2a"
		Tail  string `json:"tail,omitempty"`  // the end of what it said
		Error string `json:"error,omitempty"` // of one whose failure only warns
	}
	// ProbeOutput is left by probe.
	ProbeOutput struct {
		Tries   int       `json:"tries"`
		FirstOK time.Time `json:"firstOK"`
		Site    string    `json:"site,omitempty"` // the site that said it answered
	}
)
