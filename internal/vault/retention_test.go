package vault

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lifeboat.dev/lifeboat/internal/dr"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestRetain(t *testing.T) {
	t.Parallel()
	now := at("2026-11-25 12:00")
	point := func(when string, missing ...string) dr.RecoveryPoint {
		return dr.RecoveryPoint{ID: when, Application: "shop", Epoch: 1, Time: at(when), Missing: missing}
	}
	hours := []dr.RecoveryPoint{
		point("2024-02-01 10:00"), point("2025-12-31 23:00"), point("2026-01-01 00:30"), point("2026-10-31 09:00"),
		point("2026-11-16 08:00"), point("2026-11-22 08:00"), point("2026-11-23 08:00"), point("2026-11-24 08:00"), point("2026-11-24 22:00"),
		point("2026-11-25 10:05"), point("2026-11-25 11:10"), point("2026-11-25 11:50"),
	}
	ids := func(want ...string) []string { return want }
	orders := point("2026-11-01 08:00")
	orders.Data = []dr.DataPoint{{Datastore: "orders"}}
	old := point("2027-01-01 00:00") // a clock that was wrong, before a failover
	old.Epoch = 0
	for _, c := range []struct {
		name   string
		points []dr.RecoveryPoint
		policy *dr.Retention
		busy   map[string]string
		want   []string
	}{
		{"last", hours, &dr.Retention{Last: 2}, nil, ids("2026-11-25 11:10", "2026-11-25 11:50")},
		{"more than there are", hours[:2], &dr.Retention{Last: 5}, nil, ids("2024-02-01 10:00", "2025-12-31 23:00")},
		{"hourly takes the newest of an hour", hours, &dr.Retention{Hourly: 3}, nil, ids("2026-11-24 22:00", "2026-11-25 10:05", "2026-11-25 11:50")},
		{"daily", hours, &dr.Retention{Daily: 3}, nil, ids("2026-11-23 08:00", "2026-11-24 22:00", "2026-11-25 11:50")},
		{"weeks begin on Monday", hours, &dr.Retention{Weekly: 3}, nil, ids("2026-10-31 09:00", "2026-11-22 08:00", "2026-11-25 11:50")},
		{"monthly", hours, &dr.Retention{Monthly: 3}, nil, ids("2026-01-01 00:30", "2026-10-31 09:00", "2026-11-25 11:50")},
		{"yearly", hours, &dr.Retention{Yearly: 9}, nil, ids("2024-02-01 10:00", "2025-12-31 23:00", "2026-11-25 11:50")},
		{"within", hours, &dr.Retention{Within: 24 * time.Hour}, nil, ids("2026-11-24 22:00", "2026-11-25 10:05", "2026-11-25 11:10", "2026-11-25 11:50")},
		{"several rules add up", hours, &dr.Retention{Last: 1, Yearly: 2}, nil, ids("2025-12-31 23:00", "2026-11-25 11:50")},
		{"the newest complete one stays though nothing asks for it", []dr.RecoveryPoint{point("2020-01-01 00:00")}, &dr.Retention{Within: time.Hour}, nil, ids("2020-01-01 00:00")},
		{"an incomplete one does not stand for its day", []dr.RecoveryPoint{point("2026-11-24 08:00"), point("2026-11-24 09:00", "x"), point("2026-11-25 08:00")},
			&dr.Retention{Daily: 2}, nil, ids("2026-11-24 08:00", "2026-11-25 08:00")},
		{"incomplete ones that are newer stay", []dr.RecoveryPoint{point("2026-11-24 08:00", "x"), point("2026-11-25 08:00"), point("2026-11-25 09:00", "x"), point("2026-11-25 10:00", "x")},
			&dr.Retention{Last: 1}, nil, ids("2026-11-25 08:00", "2026-11-25 09:00", "2026-11-25 10:00")},
		{"when none is complete, all stay", []dr.RecoveryPoint{point("2026-11-24 08:00", "x"), point("2026-11-25 08:00", "x")}, &dr.Retention{Last: 1}, nil, ids("2026-11-24 08:00", "2026-11-25 08:00")},
		{"the newest copy of a datastore", append([]dr.RecoveryPoint{orders}, hours[8:]...), &dr.Retention{Last: 1}, nil, ids("2026-11-01 08:00", "2026-11-25 11:50")},
		{"a run needs it", hours, &dr.Retention{Last: 1}, map[string]string{"2026-11-16 08:00": "run r has not ended and needs it"}, ids("2026-11-16 08:00", "2026-11-25 11:50")},
		{"the epoch before the clock", append([]dr.RecoveryPoint{old}, hours...), &dr.Retention{Last: 1}, nil, ids("2026-11-25 11:50")},
		{"no policy", hours[:3], nil, nil, ids("2024-02-01 10:00", "2025-12-31 23:00", "2026-01-01 00:30")},
		{"nothing there", nil, &dr.Retention{Last: 1}, nil, nil},
	} {
		why := retain(c.points, c.policy, c.busy, now)
		var got []string
		for id, reasons := range why {
			if len(reasons) > 0 {
				got = append(got, id)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: kept %v, want %v", c.name, got, c.want)
		}
	}
	if why := retain(hours, &dr.Retention{Daily: 3, Last: 1}, nil, now)["2026-11-25 11:50"]; strings.Join(why, "; ") != "the newest complete one; last 1 of 1; daily 1 of 3" {
		t.Errorf("reasons: %q", why)
	}
}

// TestRetainNeverEndsWithNothing, whatever the policy and whatever the points.
func TestRetainNeverEndsWithNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var points []dr.RecoveryPoint
		for i := range rapid.IntRange(1, 20).Draw(t, "points") {
			p := dr.RecoveryPoint{ID: fmt.Sprint(i), Epoch: rapid.Uint64Range(1, 3).Draw(t, "epoch"),
				Time: time.Unix(rapid.Int64Range(0, 2e9).Draw(t, "time"), 0)}
			if rapid.Bool().Draw(t, "incomplete") {
				p.Missing = []string{"x"}
			}
			points = append(points, p)
		}
		count := rapid.IntRange(0, 3)
		policy := &dr.Retention{Last: count.Draw(t, "last"), Hourly: count.Draw(t, "hourly"), Daily: count.Draw(t, "daily"), Weekly: count.Draw(t, "weekly"),
			Monthly: count.Draw(t, "monthly"), Yearly: count.Draw(t, "yearly"), Within: time.Duration(count.Draw(t, "within")) * time.Hour}
		why := retain(points, policy, nil, time.Unix(2e9, 0))
		var newest *dr.RecoveryPoint
		complete := 0
		for i := range points {
			p := &points[i]
			if !p.Complete() {
				continue
			}
			complete++
			if newest == nil || cmp.Or(cmp.Compare(p.Epoch, newest.Epoch), p.Time.Compare(newest.Time), cmp.Compare(p.ID, newest.ID)) > 0 {
				newest = p
			}
		}
		if newest != nil && len(why[newest.ID]) == 0 {
			t.Fatalf("%+v lets the newest complete point %+v go", policy, newest)
		}
		kept := 0
		for _, p := range points {
			if p.Complete() && len(why[p.ID]) > 0 {
				kept++
			}
		}
		if kept < min(policy.Last, complete) {
			t.Fatalf("%+v keeps %d of %d complete points", policy, kept, complete)
		}
	})
}
