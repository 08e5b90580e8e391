package vault

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// retain says of each of an application's recovery points, by its id, why it stays; one without a reason
// goes. The newest complete point stays whatever the policy says, and so does the newest copy of each
// datastore. busy are points that somebody is working with, and why. It is pure.
func retain(points []dr.RecoveryPoint, policy *dr.Retention, busy map[string]string, now time.Time) map[string][]string {
	why := map[string][]string{}
	because := func(p *dr.RecoveryPoint, format string, args ...any) {
		why[p.ID] = append(why[p.ID], fmt.Sprintf(format, args...))
	}
	// Newest first; the epoch decides before the clock, as it does where a point is chosen. Points with the
	// same data are of one time: of these the one that was made last is the newest.
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b dr.RecoveryPoint) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
	})
	held := map[string]bool{}
	complete := 0
	for i := range points {
		p := &points[i]
		switch {
		case p.Complete():
			if complete++; complete == 1 {
				because(p, "the newest complete one")
			}
		case complete == 0:
			because(p, "newer than the newest complete one")
		}
		for _, d := range p.Data {
			if !held[d.Datastore] {
				held[d.Datastore] = true
				because(p, "the newest copy of %s", d.Datastore)
			}
		}
		if reason, ok := busy[p.ID]; ok {
			because(p, "%s", reason)
		}
		switch {
		case policy == nil:
			because(p, "no retention is declared")
		case policy.Within > 0 && now.Sub(p.Time) <= policy.Within:
			because(p, "younger than %v", policy.Within)
		}
	}
	if policy == nil {
		return why
	}
	for _, rule := range rules(*policy) {
		for i, p := range rule.choose(points) {
			because(p, "%s %d of %d", rule.name, i+1, rule.keep)
		}
	}
	return why
}

// rule keeps the newest point of each of so many buckets.
type rule struct {
	name   string
	keep   int
	bucket func(p *dr.RecoveryPoint) string
}

// choose returns what the rule keeps of points, which are ordered from the newest on. Only what brings
// everything back stands for its hour or day.
func (r rule) choose(points []dr.RecoveryPoint) []*dr.RecoveryPoint {
	var chosen []*dr.RecoveryPoint
	last := ""
	for i := range points {
		p := &points[i]
		if bucket := r.bucket(p); p.Complete() && bucket != last && len(chosen) < r.keep {
			last = bucket
			chosen = append(chosen, p)
		}
	}
	return chosen
}

func rules(r dr.Retention) []rule {
	by := func(layout string) func(*dr.RecoveryPoint) string {
		return func(p *dr.RecoveryPoint) string { return p.Time.UTC().Format(layout) }
	}
	return []rule{
		{"last", r.Last, func(p *dr.RecoveryPoint) string { return p.ID }},
		{"hourly", r.Hourly, by("2006-01-02 15")},
		{"daily", r.Daily, by("2006-01-02")},
		{"weekly", r.Weekly, func(p *dr.RecoveryPoint) string {
			year, week := p.Time.UTC().ISOWeek()
			return fmt.Sprintf("%d-%d", year, week)
		}},
		{"monthly", r.Monthly, by("2006-01")},
		{"yearly", r.Yearly, by("2006")},
	}
}
