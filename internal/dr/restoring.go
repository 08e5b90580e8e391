package dr

import (
	"encoding/json"
	"time"
)

// Selector says which objects are meant; what is empty does not restrict. Everything given has to fit.
type Selector struct {
	Namespaces []string `json:"namespaces,omitempty"` // as captured
	Kinds      []string `json:"kinds,omitempty"`      // Deployment, deployments, deploy, deployments.apps
	Names      []string `json:"names,omitempty"`      // with * and ?
	Labels     string   `json:"labels,omitempty"`     // a label selector: "tier=front,!legacy"
}

// Empty says whether the selector means everything.
func (s Selector) Empty() bool {
	return len(s.Namespaces) == 0 && len(s.Kinds) == 0 && len(s.Names) == 0 && s.Labels == ""
}

// Restoring says what of a recovery point is brought back, and how. Zero: everything, where it was.
type Restoring struct {
	Select Selector `json:"select,omitzero"`
	// WithoutNeeds leaves behind what a selected object needs and is not selected itself.
	WithoutNeeds bool `json:"withoutNeeds,omitempty"`
	// Namespaces maps those of the recovery point to those at the target.
	Namespaces map[string]string `json:"namespaces,omitempty"`
	// Data names the datastores to bring back; empty: those of the selected namespaces.
	Data     []string       `json:"data,omitempty"`
	NoData   bool           `json:"noData,omitempty"`
	Existing ExistingPolicy `json:"existing,omitempty"`
	Status   StatusPolicy   `json:"status,omitempty"`
	Hosts    HostPolicy     `json:"hosts,omitempty"`
}

// Zero says whether everything is brought back where it was.
func (r Restoring) Zero() bool {
	return r.Select.Empty() && !r.WithoutNeeds && len(r.Namespaces) == 0 && len(r.Data) == 0 && !r.NoData && r.Existing == "" && r.Status == "" && r.Hosts == ""
}

// Namespace is where a captured namespace's objects go.
func (r Restoring) Namespace(captured string) string {
	if to, ok := r.Namespaces[captured]; ok {
		return to
	}
	return captured
}

// ExistingPolicy says what happens to an object that is there already, was not put there by Lifeboat, and
// differs.
type ExistingPolicy string

// The policies for existing objects.
const (
	ExistingKeep    ExistingPolicy = "keep"    // leave it alone
	ExistingPatch   ExistingPolicy = "patch"   // make what was captured so, leave the rest (the default)
	ExistingReplace ExistingPolicy = "replace" // as patch; what cannot be changed is deleted and made anew
)

// StatusPolicy says what happens to the status of custom resources.
type StatusPolicy string

// The policies for statuses.
const (
	StatusRestore StatusPolicy = "restore" // where nothing has written one yet (the default)
	StatusSkip    StatusPolicy = "skip"    // leave it to the controllers
)

// HostPolicy says what happens to a Route or Ingress whose host name somebody else has at the target.
type HostPolicy string

// The policies for host names that are taken.
const (
	HostsRename HostPolicy = "rename" // NAME-NAMESPACE in the site's own domain (the default for a copy)
	HostsSkip   HostPolicy = "skip"   // leave the Route or Ingress out
	HostsKeep   HostPolicy = "keep"   // bring it back as it is; the router decides (the default otherwise)
	HostsRefuse HostPolicy = "refuse" // stop before anything is changed
)

// Transform is a change that a user declares for objects as they are brought back. Exactly one of Patch
// and Set is given.
type Transform struct {
	Name   string           `json:"name"`
	Select Selector         `json:"select,omitzero"`
	Sites  []string         `json:"sites,omitempty"` // the targets at which it applies; empty: all
	When   string           `json:"when,omitempty"`  // a CEL expression; empty: always
	Patch  []PatchOperation `json:"patch,omitempty"`
	Set    []Setting        `json:"set,omitempty"`
}

// PatchOperation is one operation of a JSON patch (RFC 6902).
type PatchOperation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Setting gives a field what a CEL expression says; null removes it.
type Setting struct {
	Path  string `json:"path"`  // a JSON pointer: /spec/replicas
	Value string `json:"value"` // a CEL expression
}

// HookMoment is when a hook runs.
type HookMoment string

// The moments.
const (
	HookBefore          HookMoment = "before"           // before anything is changed
	HookBeforeWorkloads HookMoment = "before-workloads" // the data is back, nothing runs yet
	HookAfter           HookMoment = "after"            // everything is ready; traffic has not moved yet
)

// Hook is something of the user's own that runs as a step of a restore; one of Exec and Job is given.
type Hook struct {
	Name      string        `json:"name"`
	When      HookMoment    `json:"when"`
	Timeout   time.Duration `json:"timeout"`
	OnFailure OnFailure     `json:"onFailure"`
	// Repeatable: when it was cut off it may simply run again.
	Repeatable bool      `json:"repeatable,omitempty"`
	Exec       *ExecHook `json:"exec,omitempty"`
	Job        *JobHook  `json:"job,omitempty"`
}

// OnFailure says what a hook's failure means for the run.
type OnFailure string

// What a failure means.
const (
	FailureStops OnFailure = "stop"
	FailureWarns OnFailure = "warn"
)

// ExecHook runs a command in a pod that runs already: the first ready one, by name, of those selected.
type ExecHook struct {
	Namespace string   `json:"namespace"`
	Pods      string   `json:"pods"`                // a label selector
	Container string   `json:"container,omitempty"` // empty: the pod's first
	Command   []string `json:"command"`
}

// JobHook runs a pod of its own to its end.
type JobHook struct {
	Namespace string            `json:"namespace"`
	Image     string            `json:"image"` // mapped to the target's registry as the application's images are
	Command   []string          `json:"command,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Account   string            `json:"serviceAccount,omitempty"`
}

// RestoreRules is what an application's declaration says of every restore of it.
type RestoreRules struct {
	Transforms []Transform `json:"transforms,omitempty"`
	Hooks      []Hook      `json:"hooks,omitempty"`
}
