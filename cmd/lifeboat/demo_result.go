package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/report"
)

// ordersFound is what `shop verify -o json` prints.
type ordersFound struct {
	Acknowledged int         `json:"acknowledged"`
	Recovered    int         `json:"recovered"`
	Lost         int         `json:"lost"`
	LostOrders   []lostOrder `json:"lostOrders"`
}

type lostOrder struct {
	ID             string    `json:"id"`
	Site           string    `json:"site"`
	AcknowledgedAt time.Time `json:"ackedAt"`
}

// demoResult is what `lifeboat demo -o json` ends with. Durations are in seconds.
type demoResult struct {
	Application             string   `json:"application"`
	From                    string   `json:"from"`
	To                      string   `json:"to"`
	Nodes                   string   `json:"nodes"`
	ObjectiveRTOSeconds     float64  `json:"objectiveRTOSeconds"`
	ObjectiveRPOSeconds     float64  `json:"objectiveRPOSeconds"`
	AchievedRTOSeconds      float64  `json:"achievedRTOSeconds"`
	AchievedRPOSeconds      float64  `json:"achievedRPOSeconds"`
	OrdersAcknowledged      int      `json:"ordersAcknowledged"`
	OrdersRecovered         int      `json:"ordersRecovered"`
	OrdersLost              int      `json:"ordersLost"` // acknowledged after the last recovery point
	TTLSeconds              float64  `json:"ttlSeconds"` // of the achieved RTO, spent waiting for resolvers
	LeaseWaitSeconds        float64  `json:"leaseWaitSeconds"`
	ApplicationStartSeconds float64  `json:"applicationStartSeconds"`
	OverheadSeconds         float64  `json:"overheadSeconds"`
	Verified                bool     `json:"verified"`
	Problems                []string `json:"problems,omitempty"`
	Run                     string   `json:"run"`
	RecoveryPoint           string   `json:"recoveryPoint"`
	Report                  string   `json:"report"`

	view report.Recovery
}

// outage is what was measured from outside, and what the failover said of itself.
type outage struct {
	Killed     time.Time // just before the site's processes were killed
	LastOK     time.Time // the old site's last answer
	FirstOK    time.Time // the new site's first answer
	PointTime  time.Time // the recovery point's beacon
	DNSChanged time.Time
	TTL        time.Duration
	LeaseWait  time.Duration
	AppStart   time.Duration
}

// figures are the parts of an outage.
type figures struct {
	RTO, RPO, TTL, Overhead time.Duration
}

// figures derives what a user cares for. The RTO counts from the old site's last answer, or from the kill
// where an answer was still under way; the RPO from the beacon to the kill, since orders were taken until
// then. Of the TTL, what was really waited counts: a resolver may have been about to ask anyway.
func (o outage) figures() figures {
	began := o.LastOK
	if began.IsZero() || o.Killed.Before(began) {
		began = o.Killed
	}
	f := figures{RTO: o.FirstOK.Sub(began), RPO: o.Killed.Sub(o.PointTime)}
	f.TTL = min(max(o.FirstOK.Sub(o.DNSChanged), 0), o.TTL)
	f.Overhead = f.RTO - f.TTL - o.LeaseWait - o.AppStart
	return f
}

func (d *demo) measure(ctx context.Context, fo *failoverResult) (*demoResult, error) {
	found, err := d.verifyOrders(ctx)
	if err != nil {
		return nil, err
	}
	oldSite, _ := d.watcher.seen(d.from.Name)
	newSite, _ := d.watcher.seen(d.to.Name)
	o := outage{Killed: d.killed, LastOK: oldSite.LastOK, FirstOK: newSite.FirstOK, PointTime: fo.RecoveryPoint.Time,
		LeaseWait: seconds(fo.LeaseWaitSeconds)}
	for _, out := range fo.Traffic {
		o.DNSChanged, o.TTL = out.Changed, out.TTL
		d.note("DNS record of "+out.Host+" switched", out.Changed)
	}
	if fo.Ready != nil {
		o.AppStart = fo.Ready.Waited
	}
	f := o.figures()
	r := &demoResult{Application: demoApplication, From: d.from.Name, To: d.to.Name, Nodes: d.lab.Nodes,
		ObjectiveRTOSeconds: demoRTO.Seconds(), ObjectiveRPOSeconds: demoRPO.Seconds(),
		AchievedRTOSeconds: f.RTO.Seconds(), AchievedRPOSeconds: f.RPO.Seconds(),
		OrdersAcknowledged: found.Acknowledged, OrdersRecovered: found.Recovered, OrdersLost: found.Lost,
		TTLSeconds: f.TTL.Seconds(), LeaseWaitSeconds: o.LeaseWait.Seconds(), ApplicationStartSeconds: o.AppStart.Seconds(),
		OverheadSeconds: f.Overhead.Seconds(), Run: fo.Run.ID, RecoveryPoint: fo.RecoveryPoint.ID}
	r.Problems = demoProblems(fo, found, o)
	r.Verified = len(r.Problems) == 0
	d.note("last answer from "+d.from.Name, o.LastOK)
	r.view = d.view(r, fo, f)
	return r, nil
}

// demoProblems names everything that keeps the showing from being verified.
func demoProblems(fo *failoverResult, found *ordersFound, o outage) []string {
	var p []string
	if fo.Run.Outcome != dr.OutcomeVerified {
		p = append(p, fmt.Sprintf("run %s ended %s: %s", fo.Run.ID, fo.Run.Outcome, fo.Run.Reason))
	}
	if o.DNSChanged.IsZero() || o.PointTime.IsZero() || o.LastOK.IsZero() {
		p = append(p, "an instant that the figures need was not observed")
	}
	if found.Acknowledged == 0 || found.Recovered+found.Lost != found.Acknowledged || len(found.LostOrders) != found.Lost {
		p = append(p, fmt.Sprintf("orders do not add up: %d acknowledged, %d recovered, %d lost", found.Acknowledged, found.Recovered, found.Lost))
	}
	for _, l := range found.LostOrders {
		if !l.AcknowledgedAt.After(o.PointTime) {
			p = append(p, fmt.Sprintf("order %s was acknowledged at %s, before the recovery point, and is missing", l.ID, l.AcknowledgedAt.Format(time.RFC3339Nano)))
		} else if l.AcknowledgedAt.After(o.FirstOK) {
			p = append(p, fmt.Sprintf("order %s was acknowledged at %s, after the recovery, and is missing", l.ID, l.AcknowledgedAt.Format(time.RFC3339Nano)))
		}
	}
	return p
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// view is the result as the report shows it.
func (d *demo) view(r *demoResult, fo *failoverResult, f figures) report.Recovery {
	v := report.FromRun(fo.Run, fo.RecoveryPoint)
	v.Objectives = dr.Objectives{RTO: demoRTO, RPO: demoRPO}
	v.RTO, v.RPO, v.Overhead = &f.RTO, &f.RPO, &f.Overhead
	v.Parts = []report.Part{
		{Label: "waiting for resolvers (TTL " + demoTTL.String() + ")", Took: f.TTL},
		{Label: "waiting for a lease", Took: seconds(r.LeaseWaitSeconds)},
		{Label: "the application's own start", Took: seconds(r.ApplicationStartSeconds)},
	}
	v.Counts = []report.Count{
		{Key: "ordersAcknowledged", Label: "orders acknowledged", Value: r.OrdersAcknowledged},
		{Key: "ordersRecovered", Label: "orders read back at " + d.to.Name, Value: r.OrdersRecovered},
		{Key: "ordersLost", Label: "orders lost after the last point", Value: r.OrdersLost},
	}
	for _, e := range d.events { // what was seen from outside counts, where the run noted the same
		v.Events = slices.DeleteFunc(v.Events, func(is report.Event) bool { return is.Label == e.Label })
	}
	v.Events = append(v.Events, d.events...)
	v.Verified, v.Problems = r.Verified, r.Problems
	v.Notes = append(v.Notes, d.lab.Notes...)
	return v
}
