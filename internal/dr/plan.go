package dr

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Goal is what a plan is for.
type Goal string

// The goals.
const (
	GoalBackup   Goal = "backup"
	GoalRestore  Goal = "restore"
	GoalClone    Goal = "clone" // a restore into other namespaces, beside whatever the application itself does
	GoalFailover Goal = "failover"
)

// Plan is a DAG of typed steps that brings one application to a goal. It is a value: it can be
// printed, saved, compared and approved before anything runs.
type Plan struct {
	Hash          string `json:"hash"` // stable over everything below
	Goal          Goal   `json:"goal"`
	Application   string `json:"application"`
	From          string `json:"from,omitempty"` // site that owned the application when the plan was made
	To            string `json:"to,omitempty"`
	RecoveryPoint string `json:"recoveryPoint,omitempty"`
	Epoch         uint64 `json:"epoch"` // ownership epoch that the plan was made under
	BreakGlass    string `json:"breakGlass,omitempty"`
	// Restoring is what is brought back, and how; nil: everything, where it was.
	Restoring *Restoring `json:"restoring,omitempty"`
	Notes     []string   `json:"notes,omitempty"` // what is brought back, in words
	Warnings  []string   `json:"warnings,omitempty"`
	Steps     []Step     `json:"steps"`
}

// Step is one node of a plan.
type Step struct {
	ID     string   `json:"id"`    // unique in the plan, stable between builds: "fence-old-site"
	Title  string   `json:"title"` // for people: "Fence shop at eastus"
	Needs  []string `json:"needs,omitempty"`
	Params Params   `json:"-"` // says the kind
	// Deadline bounds the step, retries included.
	Deadline time.Duration `json:"deadline"`
}

// Params are the typed parameters of one kind of step.
type Params interface{ Kind() StepKind }

// StepKind names a kind of step.
type StepKind string

// The kinds.
const (
	KindFenceSite     StepKind = "fence-site"
	KindClaim         StepKind = "claim-ownership"
	KindCapture       StepKind = "capture-state"
	KindProtectData   StepKind = "protect-data"
	KindSealPoint     StepKind = "seal-recovery-point"
	KindRestoreState  StepKind = "restore-state"
	KindRestoreData   StepKind = "restore-data"
	KindAwaitReady    StepKind = "await-ready"
	KindSwitchTraffic StepKind = "switch-traffic"
	KindProbe         StepKind = "probe"
	KindHook          StepKind = "run-hook"
)

type (
	// FenceSite stops the application at a site: workloads to zero, and shows that none is left.
	// Where the site cannot be reached the step fails as blocked unless BreakGlass gives a reason.
	FenceSite struct {
		Site       string `json:"site"`
		BreakGlass string `json:"breakGlass,omitempty"`
	}
	// Claim raises the application's epoch and makes Site its owner, by compare-and-swap.
	Claim struct {
		Site string `json:"site"`
	}
	// Capture writes a checkpoint of the application's cluster state.
	Capture struct {
		Site string `json:"site"`
	}
	// ProtectData copies one datastore into the vault.
	ProtectData struct {
		Site      string `json:"site"`
		Datastore string `json:"datastore"`
	}
	// SealPoint writes the recovery point that names the checkpoint and the data.
	SealPoint struct {
		Site string `json:"site"`
	}
	// RestoreState applies a checkpoint's objects of one stage.
	RestoreState struct {
		Site  string `json:"site"`
		Point string `json:"point"`
		Stage Stage  `json:"stage"`
	}
	// RestoreData brings one datastore's copy to a site. A datastore whose log is kept is brought to an
	// instant, or to the end of its log; with neither, it is as the point has it.
	RestoreData struct {
		Site      string    `json:"site"`
		Point     string    `json:"point"`
		Datastore string    `json:"datastore"`
		At        time.Time `json:"at,omitzero"`
		Latest    bool      `json:"latest,omitempty"`
	}
	// AwaitReady waits until the restored workloads serve, and compares what was restored with the
	// checkpoint object by object.
	AwaitReady struct {
		Site  string `json:"site"`
		Point string `json:"point"`
	}
	// SwitchTraffic points one host's record at a site.
	SwitchTraffic struct {
		Site string `json:"site"`
		Host string `json:"host"`
	}
	// RunHook runs something of the user's own, which the application declares by this name.
	RunHook struct {
		Site string `json:"site"`
		Hook string `json:"hook"`
	}
	// ProbeFromOutside asks the application for a sign of life from where a user stands.
	ProbeFromOutside struct {
		Site  string `json:"site"`
		Probe string `json:"probe"`
	}
)

// Stage divides the objects of a checkpoint: data goes in between the first two, traffic after the second.
type Stage string

// The stages.
const (
	StageFoundation Stage = "foundation" // namespaces, CRDs, RBAC, configuration, claims: nothing that runs
	StageWorkloads  Stage = "workloads"  // everything else; what acts by itself is paused
	StageCutover    Stage = "cutover"    // lets that act: CronJobs, objects of Git controllers
)

// Kind implements Params.
func (FenceSite) Kind() StepKind { return KindFenceSite }

// Kind implements Params.
func (Claim) Kind() StepKind { return KindClaim }

// Kind implements Params.
func (Capture) Kind() StepKind { return KindCapture }

// Kind implements Params.
func (ProtectData) Kind() StepKind { return KindProtectData }

// Kind implements Params.
func (SealPoint) Kind() StepKind { return KindSealPoint }

// Kind implements Params.
func (RestoreState) Kind() StepKind { return KindRestoreState }

// Kind implements Params.
func (RestoreData) Kind() StepKind { return KindRestoreData }

// Kind implements Params.
func (AwaitReady) Kind() StepKind { return KindAwaitReady }

// Kind implements Params.
func (SwitchTraffic) Kind() StepKind { return KindSwitchTraffic }

// Kind implements Params.
func (ProbeFromOutside) Kind() StepKind { return KindProbe }

// Kind implements Params.
func (RunHook) Kind() StepKind { return KindHook }

// decoders reads the parameters of each known kind; an unknown kind fails closed.
func decodeParams(kind StepKind, raw []byte) (Params, error) {
	switch kind {
	case KindFenceSite:
		return decode[FenceSite](raw)
	case KindClaim:
		return decode[Claim](raw)
	case KindCapture:
		return decode[Capture](raw)
	case KindProtectData:
		return decode[ProtectData](raw)
	case KindSealPoint:
		return decode[SealPoint](raw)
	case KindRestoreState:
		return decode[RestoreState](raw)
	case KindRestoreData:
		return decode[RestoreData](raw)
	case KindAwaitReady:
		return decode[AwaitReady](raw)
	case KindSwitchTraffic:
		return decode[SwitchTraffic](raw)
	case KindHook:
		return decode[RunHook](raw)
	case KindProbe:
		return decode[ProbeFromOutside](raw)
	}
	return nil, fmt.Errorf("unknown kind of step %q: this plan needs a newer lifeboat", kind)
}

func decode[T Params](raw []byte) (Params, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

type stepFields Step

type stepJSON struct {
	stepFields
	Kind   StepKind        `json:"kind"`
	Params json.RawMessage `json:"params"`
}

// MarshalJSON writes the kind beside the parameters.
func (s Step) MarshalJSON() ([]byte, error) {
	if s.Params == nil {
		return nil, fmt.Errorf("step %s has no parameters", s.ID)
	}
	raw, err := json.Marshal(s.Params)
	if err != nil {
		return nil, err
	}
	return json.Marshal(stepJSON{stepFields: stepFields(s), Kind: s.Params.Kind(), Params: raw})
}

// UnmarshalJSON refuses kinds and parameters that it does not know.
func (s *Step) UnmarshalJSON(b []byte) error {
	var j stepJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	p, err := decodeParams(j.Kind, j.Params)
	if err != nil {
		return fmt.Errorf("step %s: %w", j.ID, err)
	}
	*s = Step(j.stepFields)
	s.Params = p
	return nil
}
