// Package plan turns observed facts and a goal into a plan. It is pure: it takes values and returns a
// value, so that the same facts always give the same plan, with the same hash.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Facts are what was observed before planning. Everything is a value that was looked up by others.
type Facts struct {
	Application dr.Application
	Sites       []Site
	Ownership   dr.Ownership // zero: nobody has owned the application yet; its preferred site counts as owner
	Points      []Point      // in any order; those of other applications are passed over
	// Hosts holds what each host name answers now; a host that was not looked up has no entry.
	Hosts map[string][]string
}

// Site is what is known of one site.
type Site struct {
	dr.Site
	Reachable bool
	Reason    string   // why it is not reachable, for people
	Class     dr.Class // of that reason; empty: unreachable
	Remedy    string   // what would help; may be empty
	Classes   []string // the names of its StorageClasses; nil: not looked up
}

// Point is a recovery point as the planner sees it.
type Point struct {
	dr.RecoveryPoint
	Age     time.Duration // of its data at the moment of looking, with the logs that go on from it
	Classes []string      // StorageClasses that its claims ask for; nil: not known
	// Logs says up to when the logs of datastores go on from it, by their names.
	Logs map[string]time.Time
}

// Request says what is wanted.
type Request struct {
	Goal       dr.Goal
	To         string       // the site to go to; empty: a failover's first that can be reached, else the owner
	Point      PointRef     // zero: the newest complete recovery point
	BreakGlass string       // why the old site need not be fenced; recorded
	Restoring  dr.Restoring // restore and clone: what is brought back, and how
	NoHooks    bool         // leave out the hooks that the application declares
}

// Build returns the plan that reaches the goal from these facts. It refuses with a *dr.Error: usage for
// what was asked wrongly, unreachable for a site that the plan cannot do without, and blocked for what
// a rule forbids until a person decides.
func Build(f Facts, r Request) (dr.Plan, error) {
	r.BreakGlass = strings.TrimSpace(r.BreakGlass)
	b := &builder{facts: f, request: r}
	b.plan = dr.Plan{Goal: r.Goal, Application: f.Application.Name, Epoch: f.Ownership.Epoch, BreakGlass: r.BreakGlass}
	b.owner = f.Ownership.Site
	if b.owner == "" {
		b.owner = f.Application.Sites.Preferred
	}
	var err error
	switch r.Goal {
	case dr.GoalBackup:
		err = b.backup()
	case dr.GoalRestore:
		err = b.restore()
	case dr.GoalClone:
		err = b.clone()
	case dr.GoalFailover:
		err = b.failover()
	default:
		err = dr.Errorf(dr.ClassUsage, nil, "The goals are backup, restore, clone and failover.", "unknown goal %q", r.Goal)
	}
	if err != nil {
		return dr.Plan{}, err
	}
	if err := Validate(b.plan); err != nil {
		return dr.Plan{}, dr.Errorf(dr.ClassInternal, err, "", "the plan for the %s of %s is not sound", r.Goal, f.Application.Name)
	}
	if b.plan.Hash, err = Hash(b.plan); err != nil {
		return dr.Plan{}, err
	}
	return b.plan, nil
}

// Hash returns the SHA-256, in hex, of the plan's JSON without its hash.
func Hash(p dr.Plan) (string, error) {
	p.Hash = ""
	raw, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("hash the plan for %s: %w", p.Application, err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// builder collects a plan; it lives for one call of Build.
type builder struct {
	facts   Facts
	request Request
	owner   string // the site that owns the application, or would
	plan    dr.Plan
}

func (b *builder) app() *dr.Application { return &b.facts.Application }

func (b *builder) site(name string) (Site, bool) {
	for _, s := range b.facts.Sites {
		if s.Name == name {
			return s, true
		}
	}
	return Site{Reason: "nothing is known of it"}, false
}

// note says in the plan what a person will want to know of it.
func (b *builder) note(format string, args ...any) {
	b.plan.Notes = append(b.plan.Notes, fmt.Sprintf(format, args...))
}

func (b *builder) warn(format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf(format, args...))
}

// step adds a step and returns its id.
func (b *builder) step(id, title string, deadline time.Duration, p dr.Params, needs ...string) string {
	b.plan.Steps = append(b.plan.Steps, dr.Step{ID: id, Title: title, Needs: needs, Params: p, Deadline: deadline})
	return id
}
