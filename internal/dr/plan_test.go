package dr

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestEveryKindOfStepSurvivesJSON(t *testing.T) {
	t.Parallel()
	for _, p := range []Params{
		FenceSite{Site: "east", BreakGlass: "gone"}, Claim{Site: "west"}, Capture{Site: "east"},
		ProtectData{Site: "east", Datastore: "orders"}, SealPoint{Site: "east"},
		RestoreState{Site: "west", Point: "p1", Stage: StageWorkloads}, RestoreData{Site: "west", Point: "p1", Datastore: "orders"},
		AwaitReady{Site: "west", Point: "p1"}, SwitchTraffic{Site: "west", Host: "shop.example.com"}, ProbeFromOutside{Site: "west", Probe: "front"},
	} {
		in := Step{ID: "a", Title: "A", Needs: []string{"b"}, Params: p, Deadline: time.Minute}
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatalf("%s: %v", p.Kind(), err)
		}
		var out Step
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatalf("%s: %v", p.Kind(), err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%s: got %+v, want %+v", p.Kind(), out, in)
		}
	}
}

func TestUnknownStepsFailClosed(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"id":"a","kind":"format-disk","params":{}}`,
		`{"id":"a","kind":"claim-ownership","params":{"site":"west","force":true}}`,
	} {
		var s Step
		if err := json.Unmarshal([]byte(raw), &s); err == nil || !strings.Contains(err.Error(), "step a") {
			t.Errorf("%s: got error %v, want one that names step a", raw, err)
		}
	}
}
