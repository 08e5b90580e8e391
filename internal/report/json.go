package report

import (
	"encoding/json"
	"fmt"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// recoveryJSON is how a recovery is written. Durations are seconds; null means not measured.
type recoveryJSON struct {
	Application         string             `json:"application"`
	Goal                dr.Goal            `json:"goal"`
	From                string             `json:"from,omitempty"`
	To                  string             `json:"to,omitempty"`
	Run                 string             `json:"run"`
	RecoveryPoint       string             `json:"recoveryPoint,omitempty"`
	PointTime           time.Time          `json:"pointTime,omitzero"`
	Epoch               uint64             `json:"epoch"`
	Started             time.Time          `json:"started,omitzero"`
	Ended               time.Time          `json:"ended,omitzero"`
	ObjectiveRTOSeconds *float64           `json:"objectiveRTOSeconds"`
	ObjectiveRPOSeconds *float64           `json:"objectiveRPOSeconds"`
	AchievedRTOSeconds  *float64           `json:"achievedRTOSeconds"`
	AchievedRPOSeconds  *float64           `json:"achievedRPOSeconds"`
	OverheadSeconds     *float64           `json:"overheadSeconds"`
	PartsSeconds        map[string]float64 `json:"partsSeconds,omitempty"` // by label
	Verified            bool               `json:"verified"`
	Problems            []string           `json:"problems,omitempty"`
	Notes               []string           `json:"notes,omitempty"`
	Events              []Event            `json:"events,omitempty"`
	Steps               []Step             `json:"steps,omitempty"`
}

// MarshalJSON writes durations as seconds, and each count as a field of its own name.
func (v Recovery) MarshalJSON() ([]byte, error) {
	out := recoveryJSON{
		Application: v.Application, Goal: v.Goal, From: v.From, To: v.To, Run: v.Run, RecoveryPoint: v.RecoveryPoint,
		PointTime: v.PointTime, Epoch: v.Epoch, Started: v.Started, Ended: v.Ended,
		AchievedRTOSeconds: seconds(v.RTO), AchievedRPOSeconds: seconds(v.RPO), OverheadSeconds: seconds(v.Overhead),
		Verified: v.Verified, Problems: v.Problems, Notes: v.Notes, Events: v.Events, Steps: v.Steps,
	}
	if v.Objectives.RTO > 0 {
		out.ObjectiveRTOSeconds = seconds(&v.Objectives.RTO)
	}
	if v.Objectives.RPO > 0 {
		out.ObjectiveRPOSeconds = seconds(&v.Objectives.RPO)
	}
	for _, p := range v.Parts {
		if out.PartsSeconds == nil {
			out.PartsSeconds = map[string]float64{}
		}
		out.PartsSeconds[p.Label] = p.Took.Seconds()
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	raw = raw[:len(raw)-1] // the closing brace
	for _, c := range v.Counts {
		key, err := json.Marshal(c.Key)
		if err != nil {
			return nil, err
		}
		raw = fmt.Appendf(raw, ",%s:%d", key, c.Value)
	}
	return append(raw, '}'), nil
}

func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := d.Seconds()
	return &s
}
