// Package check says what stands between an application and its recovery: facts in, findings out.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Severity says how much a finding matters.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical" // a recovery now would fail
	Warning  Severity = "warning"  // a recovery now would miss its objectives, or is less sure than it could be
	OK       Severity = "ok"       // looked at, and as it should be
)

// Finding is one thing that was looked at.
type Finding struct {
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject"` // "shop", "site west"
	What     string   `json:"what"`
	Remedy   string   `json:"remedy,omitempty"`
}

// Facts are what is known of one application.
type Facts struct {
	Application dr.Application
	Ownership   dr.Ownership // zero: nobody has owned it yet
	Sites       []Site       // those of its placement
	Points      []Point      // its recovery points, in any order
	LastRun     *dr.Run      // nil: none
}

// Site says whether a site answers.
type Site struct {
	Name      string
	Reachable bool
	Reason    string // why not
}

// Point is a recovery point and its age at the moment of looking.
type Point struct {
	dr.RecoveryPoint
	Age time.Duration
}

// Readiness returns what was found, worst first.
func Readiness(f Facts) []Finding {
	findings := slices.Concat(points(f), sites(f), lastRun(f))
	slices.SortStableFunc(findings, func(a, b Finding) int { return cmp.Compare(rank(a.Severity), rank(b.Severity)) })
	return findings
}

func rank(s Severity) int { return slices.Index([]Severity{Critical, Warning, OK}, s) }

func points(f Facts) []Finding {
	app, backup := f.Application.Name, "lifeboat backup "+f.Application.Name
	all := slices.Clone(f.Points)
	slices.SortFunc(all, func(a, b Point) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
	})
	newest := slices.IndexFunc(all, func(p Point) bool { return p.Complete() })
	if newest < 0 {
		what := "there is no recovery point"
		if len(all) > 0 {
			what = fmt.Sprintf("no recovery point is complete; the newest, %s, lacks %s", all[0].ID, strings.Join(all[0].Missing, ", "))
		}
		return []Finding{{Critical, app, what, backup}}
	}
	var out []Finding
	if newest > 0 {
		out = append(out, Finding{Warning, app, fmt.Sprintf("the newest recovery point, %s, lacks %s", all[0].ID, strings.Join(all[0].Missing, ", ")), backup})
	}
	p := all[newest]
	age := fmt.Sprintf("recovery point %s is %s old, objective %s", p.ID, p.Age.Round(time.Second), f.Application.Objectives.RPO)
	if p.Age > f.Application.Objectives.RPO {
		return append(out, Finding{Warning, app, age, backup})
	}
	return append(out, Finding{OK, app, age, ""})
}

// sites looks for a place to go to, and for the one it would come from.
func sites(f Facts) []Finding {
	owner := cmp.Or(f.Ownership.Site, f.Application.Sites.Preferred)
	var out []Finding
	targets, reachable := 0, 0
	for _, s := range f.Sites {
		if s.Name != owner {
			targets++
		}
		what := "cannot be reached"
		if s.Reason != "" {
			what += ": " + s.Reason
		}
		switch {
		case s.Reachable:
			if s.Name != owner {
				reachable++
			}
			out = append(out, Finding{OK, "site " + s.Name, "answers", ""})
		case s.Name == owner:
			remedy := "bring it back, or: lifeboat failover " + f.Application.Name
			out = append(out, Finding{Critical, "site " + s.Name, f.Application.Name + " is there, and it " + what, remedy})
		default:
			out = append(out, Finding{Warning, "site " + s.Name, what, "bring its API back, or correct its kubeconfig"})
		}
	}
	if reachable == 0 {
		out = append(out, Finding{Critical, f.Application.Name, fmt.Sprintf("none of %d other sites can take it over", targets), "bring one back, or add one to sites.recovery"})
	}
	return out
}

func lastRun(f Facts) []Finding {
	r := f.LastRun
	if r == nil {
		return nil
	}
	subject := fmt.Sprintf("run %s (%s of %s)", r.ID, r.Plan.Goal, f.Application.Name)
	resume := "lifeboat resume " + r.ID
	switch {
	case r.Stage != dr.StageEnded:
		return []Finding{{Warning, subject, "has not ended", "if nobody drives it: " + resume}}
	case r.Outcome == dr.OutcomeFailed:
		return []Finding{{Critical, subject, "failed: " + r.Reason, "remove the cause, then: " + resume}}
	case r.Outcome != dr.OutcomeVerified && r.Plan.Goal == dr.GoalFailover:
		return []Finding{{Warning, subject, cmp.Or(r.Reason, "ended without being verified"), "look whether the application answers with its data"}}
	}
	return []Finding{{OK, subject, string(r.Outcome), ""}}
}
