// Package report shows plans and recoveries to people: as text that fits a terminal, as JSON, as a
// diagram, and as a page that stands alone.
package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Recovery is everything that is shown of one run. What is zero or nil was not measured and is not
// shown as if it had been.
type Recovery struct {
	Application   string
	Goal          dr.Goal
	From, To      string
	Run           string
	RecoveryPoint string
	PointTime     time.Time // nothing acknowledged before it is missing from the recovery point
	Epoch         uint64
	Started       time.Time // of the run
	Ended         time.Time
	Objectives    dr.Objectives
	RTO, RPO      *time.Duration // achieved
	Overhead      *time.Duration // the part of the RTO that Lifeboat itself added
	Parts         []Part         // what else the RTO is made of
	Counts        []Count
	Steps         []Step
	Events        []Event // in any order
	Verified      bool
	Problems      []string // what is not verified, or went wrong
	Notes         []string
}

// Part is a share of the achieved RTO: the wait for a TTL, the application's own start.
type Part struct {
	Label string
	Took  time.Duration
}

// Count is a number of things that were counted: orders acknowledged, recovered, lost.
type Count struct {
	Key   string // its name in JSON: "ordersLost"
	Label string // "orders lost"
	Value int
}

// Step is one step of the run.
type Step struct {
	ID       string     `json:"id"`
	Title    string     `json:"title"`
	Started  time.Time  `json:"started,omitzero"` // zero: not begun
	Ended    time.Time  `json:"ended,omitzero"`   // zero: not ended
	Outcome  dr.Outcome `json:"outcome,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Attempts int        `json:"attempts,omitempty"`
}

// Event is an instant worth a mark: the last answer of the old site, the record switched.
type Event struct {
	Label string    `json:"label"`
	Time  time.Time `json:"time"`
}

// FromRun shows a run by what its journal holds. What only an outside observer can tell, the achieved
// RTO and RPO among it, is left for the caller to fill in.
func FromRun(r dr.Run, point dr.RecoveryPoint) Recovery {
	v := Recovery{
		Application: r.Plan.Application, Goal: r.Plan.Goal, From: r.Plan.From, To: r.Plan.To, Run: r.ID,
		RecoveryPoint: r.Plan.RecoveryPoint, PointTime: point.Time, Epoch: r.Epoch, Started: r.Started, Ended: r.Ended,
		Verified: r.Outcome == dr.OutcomeVerified, Notes: slices.Clone(r.Plan.Warnings),
	}
	if v.RecoveryPoint == "" {
		v.RecoveryPoint = point.ID
	}
	if r.Plan.BreakGlass != "" {
		v.Notes = append(v.Notes, "glass was broken: "+r.Plan.BreakGlass)
	}
	switch {
	case r.Stage != dr.StageEnded:
		v.Problems = append(v.Problems, "the run has not ended: lifeboat resume "+r.ID)
	case !v.Verified && r.Reason != "":
		v.Problems = append(v.Problems, r.Reason)
	}
	titles := map[string]dr.Step{}
	for _, s := range r.Plan.Steps {
		titles[s.ID] = s
	}
	for _, s := range r.Steps {
		planned := titles[s.ID]
		v.Steps = append(v.Steps, Step{s.ID, planned.Title, s.Started, s.Ended, s.Outcome, s.Reason, s.Attempts})
		if planned.Params != nil && s.Outcome == dr.OutcomeDone {
			v.Events = append(v.Events, eventsOf(planned.Params.Kind(), s.Output)...)
		}
	}
	return v
}

// eventsOf reads the instants that a step noted. Output that cannot be read is a newer version's, and
// shows no events.
func eventsOf(kind dr.StepKind, output json.RawMessage) []Event {
	var out []Event
	add := func(at time.Time, format string, args ...any) {
		if !at.IsZero() {
			out = append(out, Event{Label: fmt.Sprintf(format, args...), Time: at})
		}
	}
	switch kind {
	case dr.KindAwaitReady:
		var o dr.ReadyOutput
		if json.Unmarshal(output, &o) == nil {
			add(o.WorkloadsReady, "workloads ready")
		}
	case dr.KindSwitchTraffic:
		var o dr.TrafficOutput
		if json.Unmarshal(output, &o) == nil {
			add(o.Changed, "DNS record of %s switched", o.Host)
		}
	case dr.KindProbe:
		var o dr.ProbeOutput
		if json.Unmarshal(output, &o) == nil && o.Site != "" {
			add(o.FirstOK, "first answer from %s", o.Site)
		} else {
			add(o.FirstOK, "first answer")
		}
	}
	return out
}

// headline is "Failover of shop from east to west".
func headline(goal dr.Goal, app, from, to string) string {
	s := string(goal) + " of " + app
	if s[0] >= 'a' && s[0] <= 'z' {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	switch {
	case from != "" && to != "" && from != to:
		return s + " from " + from + " to " + to
	case to != "":
		return s + " at " + to
	case from != "":
		return s + " at " + from
	}
	return s
}

func (v *Recovery) headline() string { return headline(v.Goal, v.Application, v.From, v.To) }

// verdict is the outcome in a word or three.
func (v *Recovery) verdict() string {
	switch {
	case v.Verified:
		return "verified"
	case slices.ContainsFunc(v.Steps, func(s Step) bool { return s.Outcome == dr.OutcomeFailed }):
		return "failed"
	case v.Goal == dr.GoalBackup && len(v.Problems) == 0:
		return "done"
	}
	return "not verified"
}

// objective is one row of the table that matters most.
type objective struct {
	Name, Objective, Achieved, Met string
}

func (v *Recovery) objectives() []objective {
	row := func(name string, want time.Duration, got *time.Duration) objective {
		o := objective{Name: name, Objective: "–", Achieved: "not measured"}
		if want > 0 {
			o.Objective = plain(want)
		}
		if got != nil {
			o.Achieved = human(*got)
		}
		switch {
		case want <= 0 || got == nil:
		case *got <= want:
			o.Met = "met"
		default:
			o.Met = "missed"
		}
		return o
	}
	if v.Objectives == (dr.Objectives{}) && v.RTO == nil && v.RPO == nil {
		return nil
	}
	return []objective{row("RTO", v.Objectives.RTO, v.RTO), row("RPO", v.Objectives.RPO, v.RPO)}
}

// parts is what the RTO is made of, the overhead last.
func (v *Recovery) parts() []Part {
	out := slices.Clone(v.Parts)
	if v.Overhead != nil {
		out = append(out, Part{"Lifeboat itself", *v.Overhead})
	}
	return out
}

// moment is a step or an event on the time axis.
type moment struct {
	title, note string
	outcome     dr.Outcome // of a step
	event       bool
	at, until   time.Time // until: zero for an event, and for a step that has not ended
}

// moments returns what happened, in order. Steps that never began are left out: they did not happen.
func (v *Recovery) moments() []moment {
	var out []moment
	for _, e := range v.Events {
		if !e.Time.IsZero() {
			out = append(out, moment{title: e.Label, event: true, at: e.Time})
		}
	}
	for _, s := range v.Steps {
		if !s.Started.IsZero() {
			out = append(out, moment{title: s.Title, note: s.Reason, outcome: s.Outcome, at: s.Started, until: s.Ended})
		}
	}
	slices.SortStableFunc(out, func(a, b moment) int { return a.at.Compare(b.at) })
	return out
}

// pending names the steps that never began.
func (v *Recovery) pending() []string {
	var out []string
	for _, s := range v.Steps {
		if s.Started.IsZero() {
			out = append(out, s.Title)
		}
	}
	return out
}

// human writes a duration as precisely as a reader can use.
func human(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%s%dms", sign, d.Round(time.Millisecond).Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%s%.2fs", sign, d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%s%.1fs", sign, d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Minute)
	}
	return sign + plain(d)
}

// plain writes a round duration without the zeros that nobody says.
func plain(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// offset writes a place on the time axis; short axes keep their decimals under each other.
func offset(d time.Duration) string {
	if d < 10*time.Minute {
		return fmt.Sprintf("+%.2fs", d.Seconds())
	}
	return "+" + human(d)
}
