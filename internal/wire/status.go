package wire

import (
	"context"
	"time"

	"lifeboat.dev/lifeboat/internal/check"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/observe"
	"lifeboat.dev/lifeboat/internal/vault"
)

// Status is what is known of one application now.
type Status struct {
	Application string              `json:"application"`
	Objectives  dr.Objectives       `json:"objectives"`
	Ownership   dr.Ownership        `json:"ownership"`
	Sites       []observe.SiteState `json:"sites"`
	Hosts       []observe.HostState `json:"hosts,omitempty"`
	Points      int                 `json:"points"`
	Newest      *dr.RecoveryPoint   `json:"newestRecoveryPoint,omitempty"` // the newest complete one
	Age         time.Duration       `json:"age,omitempty"`                 // of the newest complete point's data
	Runs        []dr.Run            `json:"runs,omitempty"`                // the last one
	Replicas    []vault.Lag         `json:"replicas,omitempty"`            // of the vault
	Findings    []check.Finding     `json:"findings,omitempty"`
}

// Hindered says whether a recovery now would fail.
func (s *Status) Hindered() bool {
	for _, f := range s.Findings {
		if f.Severity == check.Critical {
			return true
		}
	}
	return false
}

// Status observes the application and says what stands between it and its recovery.
func (o *Operation) Status(ctx context.Context) (*Status, error) {
	st, facts, err := o.observed(ctx)
	if err != nil {
		return nil, err
	}
	s := &Status{Application: o.app.Name, Objectives: o.app.Objectives, Ownership: st.Ownership, Sites: st.Sites, Hosts: st.Hosts, Points: len(st.Points)}
	f := check.Facts{Application: *o.app, Ownership: st.Ownership}
	for _, site := range st.Sites {
		f.Sites = append(f.Sites, check.Site{Name: site.Name, Reachable: site.Reachable, Reason: site.Reason})
	}
	for i := range facts.Points {
		p := &facts.Points[i]
		f.Points = append(f.Points, check.Point{RecoveryPoint: p.RecoveryPoint, Age: p.Age})
		if p.Complete() && (s.Newest == nil || p.Epoch > s.Newest.Epoch || p.Epoch == s.Newest.Epoch && !p.Time.Before(s.Newest.Time)) {
			s.Newest, s.Age = &p.RecoveryPoint, p.Age
		}
	}
	runs, err := o.lastRuns(ctx)
	if err != nil {
		return nil, err
	}
	if len(runs) > 0 {
		s.Runs, f.LastRun = runs[:1], &runs[0]
	}
	if ref, _ := o.fleet.Vault(o.app.Vault); !ref.ReadOnly { // Open found it
		s.Replicas = vault.ReplicasOf(o.vault, *ref).Lags(ctx)
	}
	s.Findings = check.Readiness(f)
	return s, nil
}
