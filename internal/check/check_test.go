package check

import (
	"fmt"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestReadiness(t *testing.T) {
	t.Parallel()
	point := func(id string, epoch uint64, age time.Duration, missing ...string) Point {
		return Point{dr.RecoveryPoint{ID: id, Epoch: epoch, Time: time.Unix(10000, 0).Add(-age), Missing: missing}, age}
	}
	for _, c := range []struct {
		name   string
		change func(*Facts)
		want   []string
	}{
		{"all is well", func(*Facts) {}, []string{
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers"}},
		{"old data", func(f *Facts) { f.Points[0].Age = 4*time.Minute + time.Millisecond }, []string{
			"warning shop: recovery point p1 is 4m0s old, objective 30s → lifeboat backup shop", "ok site east: answers", "ok site west: answers"}},
		{"no data", func(f *Facts) { f.Points = nil }, []string{
			"critical shop: there is no recovery point → lifeboat backup shop", "ok site east: answers", "ok site west: answers"}},
		{"nothing complete", func(f *Facts) { f.Points[0].Missing = []string{"x", "y"} }, []string{
			"critical shop: no recovery point is complete; the newest, p1, lacks x, y → lifeboat backup shop", "ok site east: answers", "ok site west: answers"}},
		{"newest incomplete, whatever its clock says", func(f *Facts) { f.Points = append(f.Points, point("p2", 2, time.Hour, "x")) }, []string{
			"warning shop: the newest recovery point, p2, lacks x → lifeboat backup shop",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers"}},
		{"owner lost", func(f *Facts) { f.Sites[0] = Site{Name: "east", Reason: "refused"} }, []string{
			"critical site east: shop is there, and it cannot be reached: refused → bring it back, or: lifeboat failover shop",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site west: answers"}},
		{"target lost", func(f *Facts) { f.Sites[1] = Site{Name: "west"} }, []string{
			"critical shop: none of 1 other sites can take it over → bring one back, or add one to sites.recovery",
			"warning site west: cannot be reached → bring its API back, or correct its kubeconfig",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers"}},
		{"moved", func(f *Facts) { f.Ownership.Site = "west"; f.Sites[0].Reachable = false }, []string{
			"critical shop: none of 1 other sites can take it over → bring one back, or add one to sites.recovery",
			"warning site east: cannot be reached → bring its API back, or correct its kubeconfig",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site west: answers"}},
		{"run failed", func(f *Facts) { f.LastRun = ended(dr.OutcomeFailed, "probe: 503") }, []string{
			"critical run r1 (failover of shop): failed: probe: 503 → remove the cause, then: lifeboat resume r1",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers"}},
		{"run cut off", func(f *Facts) { f.LastRun = ended("", ""); f.LastRun.Stage = dr.StageRunning }, []string{
			"warning run r1 (failover of shop): has not ended → if nobody drives it: lifeboat resume r1",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers"}},
		{"run not verified", func(f *Facts) { f.LastRun = ended(dr.OutcomeDone, "") }, []string{
			"warning run r1 (failover of shop): ended without being verified → look whether the application answers with its data",
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers"}},
		{"run verified", func(f *Facts) { f.LastRun = ended(dr.OutcomeVerified, "") }, []string{
			"ok shop: recovery point p1 is 10s old, objective 30s", "ok site east: answers", "ok site west: answers", "ok run r1 (failover of shop): verified"}},
	} {
		f := Facts{
			Application: dr.Application{Name: "shop", Objectives: dr.Objectives{RPO: 30 * time.Second}, Sites: dr.Placement{Preferred: "east", Recovery: []string{"west"}}},
			Sites:       []Site{{Name: "east", Reachable: true}, {Name: "west", Reachable: true}},
			Points:      []Point{point("p1", 1, 10*time.Second)},
		}
		c.change(&f)
		var got []string
		for _, x := range Readiness(f) {
			line := fmt.Sprintf("%s %s: %s", x.Severity, x.Subject, x.What)
			if x.Remedy != "" {
				line += " → " + x.Remedy
			}
			got = append(got, line)
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
}

func ended(o dr.Outcome, reason string) *dr.Run {
	return &dr.Run{ID: "r1", Plan: dr.Plan{Goal: dr.GoalFailover}, Stage: dr.StageEnded, Outcome: o, Reason: reason}
}
