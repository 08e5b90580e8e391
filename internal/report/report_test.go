package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"lifeboat.dev/lifeboat/internal/dr"
)

var update = flag.Bool("update", false, "write testdata anew")

func span(d time.Duration) *time.Duration { return &d }

// recovery is a failover as the demo measures it.
func recovery() Recovery {
	at := func(s float64) time.Time {
		return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
	}
	step := func(title string, from, to float64) Step {
		return Step{ID: title, Title: title, Started: at(from), Ended: at(to), Outcome: dr.OutcomeDone, Attempts: 1}
	}
	v := Recovery{
		Application: "shop", Goal: dr.GoalFailover, From: "eastus", To: "centralus", Run: "20260304T050607Z-shop-9c1e",
		RecoveryPoint: "20260304T050559Z-shop-4f2a", PointTime: at(-4), Epoch: 2, Started: at(1.1), Ended: at(14.9),
		Objectives: dr.Objectives{RTO: 5 * time.Minute, RPO: 30 * time.Second},
		RTO:        span(12900 * time.Millisecond), RPO: span(4120 * time.Millisecond), Overhead: span(1240 * time.Millisecond),
		Parts:  []Part{{"waiting for the DNS TTL", 4900 * time.Millisecond}, {"waiting for the lease", 0}, {"the application's own start", 6760 * time.Millisecond}},
		Counts: []Count{{"ordersAcknowledged", "orders acknowledged", 412}, {"ordersRecovered", "orders recovered", 371}, {"ordersLost", "orders lost", 41}},
		Steps: []Step{
			step("Fence shop at eastus", 1.2, 1.25), step("Claim shop for centralus", 1.25, 1.31),
			step("Restore the foundation of shop at centralus", 1.31, 1.9), step("Restore orders of shop at centralus", 1.9, 4.4),
			step("Restore the workloads of shop at centralus", 4.4, 4.8), step("Wait until shop serves at centralus", 4.8, 8.6),
			step("Point shop.example.com at centralus", 8.6, 8.7), step("Ask front of shop from outside", 8.7, 13.1),
		},
		Events: []Event{
			{"eastus killed", at(0.2)}, {"last answer from eastus", at(0)}, {"first failed probe", at(0.6)},
			{"DNS record of shop.example.com switched", at(8.7)}, {"first answer from centralus", at(12.9)},
		},
		Verified: true, Notes: []string{"eastus cannot be fenced (no answer in 5s): if shop still runs there, both sites write; overridden: the demo killed it"},
	}
	v.Steps[0].Outcome, v.Steps[0].Reason = dr.OutcomeSkipped, "eastus does not answer; overridden: the demo killed it"
	return v
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not as it was; if that is right: go test ./internal/report -update\ngot:\n%s", name, got)
	}
}

func fits(t *testing.T, text string) {
	t.Helper()
	for _, l := range strings.Split(text, "\n") {
		if utf8.RuneCountInString(l) > width {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(l), l)
		}
		if l != strings.TrimRight(l, " ") {
			t.Errorf("blanks at the end: %q", l)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	failed := recovery()
	failed.Verified, failed.RTO, failed.RPO, failed.Overhead, failed.Parts, failed.Counts = false, nil, nil, nil, nil, nil
	failed.Steps[5].Outcome, failed.Steps[5].Reason = dr.OutcomeFailed, "not done within 15m; at last: waiting for deployment shop/web, of which 0 of 2 are ready"
	failed.Steps[6], failed.Steps[7] = Step{Title: "Point shop.example.com at centralus"}, Step{Title: "Ask front of shop from outside"}
	failed.Events, failed.Problems = nil, []string{"await-ready: " + failed.Steps[5].Reason}
	running := failed
	running.Steps = append([]Step(nil), failed.Steps...)
	running.Steps[5].Outcome, running.Steps[5].Reason, running.Steps[5].Ended, running.Ended = "", "", time.Time{}, time.Time{}
	for name, v := range map[string]Recovery{"verified": recovery(), "failed": failed, "running": running, "empty": {Application: "shop", Goal: "backup", From: "east"}} {
		var b bytes.Buffer
		if err := Text(&b, v); err != nil {
			t.Fatal(err)
		}
		fits(t, b.String())
		golden(t, name+".txt", b.Bytes())
	}
}

func TestTextFitsWhateverItSays(t *testing.T) {
	t.Parallel()
	v := recovery()
	long := strings.Repeat("ä", 200)
	v.Run, v.Steps[1].Title, v.Steps[1].Reason, v.Events[0].Label = long, long+" "+long, long+"\n"+long, long
	v.Problems, v.Notes, v.Counts[0].Label, v.Parts[0].Label = []string{long}, []string{"a " + long}, long, long
	v.Application = ""
	var b bytes.Buffer
	if err := Text(&b, v); err != nil {
		t.Fatal(err)
	}
	fits(t, b.String())
}

func TestJSON(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(recovery())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	for key, want := range map[string]any{
		"achievedRTOSeconds": 12.9, "achievedRPOSeconds": 4.12, "overheadSeconds": 1.24, "objectiveRTOSeconds": 300.0,
		"ordersAcknowledged": 412.0, "ordersRecovered": 371.0, "ordersLost": 41.0, "verified": true, "epoch": 2.0,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	raw, err = json.Marshal(Recovery{})
	if err != nil || !strings.Contains(string(raw), `"achievedRTOSeconds":null`) {
		t.Errorf("not measured is not null: %s (%v)", raw, err)
	}
}

func TestHTMLStandsAloneAndEscapes(t *testing.T) {
	t.Parallel()
	v := recovery()
	evil := `"><script>alert(1)</script>&'`
	v.Application, v.Run, v.Steps[2].Title, v.Steps[2].Reason, v.Events[0].Label = evil, evil, evil, evil, evil
	v.Problems, v.Notes, v.Counts[0].Label, v.Parts[0].Label, v.Steps[3].Outcome = []string{evil}, []string{evil}, evil, evil, dr.Outcome(evil)
	var b bytes.Buffer
	if err := HTML(&b, v); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if strings.Contains(page, "<script") || strings.Contains(page, "ZgotmplZ") {
		t.Error("text got through as markup, or the template found an unsafe place")
	}
	if m := regexp.MustCompile(`(?i)(src|href|url)\s*[=(]|@import|https?:`).FindString(page); m != "" {
		t.Errorf("the page asks for something else: %s", m)
	}
	wellFormed(t, page)
}

// wellFormed checks that every element that is opened is closed in its place.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false // for the doctype and the void elements of HTML
	d.AutoClose = []string{"meta"}
	d.Entity = xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
}

func TestHTMLOfLittle(t *testing.T) {
	t.Parallel()
	at := time.Unix(1, 0)
	for name, v := range map[string]Recovery{
		"nothing":     {Application: "shop", Goal: dr.GoalBackup},
		"one instant": {Application: "shop", Goal: dr.GoalBackup, Events: []Event{{"x", at}}},
		"one step":    {Application: "shop", Goal: dr.GoalBackup, Steps: []Step{{Title: "x", Started: at, Ended: at.Add(time.Hour)}}},
		"running":     {Application: "shop", Goal: dr.GoalBackup, Steps: []Step{{Title: "x", Started: at}, {Title: "y", Started: at.Add(time.Nanosecond)}}},
		"a long time": {Application: "shop", Goal: dr.GoalBackup, Steps: []Step{{Title: "x", Started: at, Ended: at.Add(90 * 24 * time.Hour)}}},
		"no step":     {Application: "shop", Goal: dr.GoalBackup, Steps: []Step{{Title: "x"}}},
	} {
		var b bytes.Buffer
		if err := HTML(&b, v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wellFormed(t, b.String())
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s: a place that is no number", name)
		}
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for s := time.Millisecond; s < 100*24*time.Hour; s = s*7/5 + 1 {
		got := ticks(s)
		if len(got) < 2 && s > 2*time.Millisecond || len(got) > 7 && s < 6*24*time.Hour {
			t.Errorf("%s: %d ticks", s, len(got))
		}
	}
}

func TestFromRun(t *testing.T) {
	t.Parallel()
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	out := func(v any) json.RawMessage {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	steps := []dr.Step{
		{ID: "ready", Title: "Wait", Params: dr.AwaitReady{}}, {ID: "switch", Title: "Point", Params: dr.SwitchTraffic{}},
		{ID: "probe", Title: "Ask", Params: dr.ProbeFromOutside{}}, {ID: "odd", Title: "Odd", Params: dr.ProbeFromOutside{}},
	}
	r := dr.Run{
		ID: "r1", Epoch: 4, Stage: dr.StageEnded, Outcome: dr.OutcomeDone, Reason: "not verified: x", Started: at(1), Ended: at(9),
		Plan: dr.Plan{Goal: dr.GoalFailover, Application: "shop", From: "a", To: "b", RecoveryPoint: "p", Steps: steps, Warnings: []string{"w"}, BreakGlass: "gone"},
		Steps: []dr.StepRun{
			{ID: "ready", Stage: dr.StageEnded, Outcome: dr.OutcomeDone, Started: at(1), Ended: at(2), Output: out(dr.ReadyOutput{WorkloadsReady: at(2)})},
			{ID: "switch", Stage: dr.StageEnded, Outcome: dr.OutcomeDone, Started: at(2), Ended: at(3), Output: out(dr.TrafficOutput{Host: "h", Changed: at(3)})},
			{ID: "probe", Stage: dr.StageEnded, Outcome: dr.OutcomeDone, Started: at(3), Ended: at(4), Output: out(dr.ProbeOutput{FirstOK: at(4), Site: "b"})},
			{ID: "odd", Stage: dr.StageEnded, Outcome: dr.OutcomeDone, Started: at(3), Ended: at(4), Output: json.RawMessage(`[1]`)},
		},
	}
	v := FromRun(r, dr.RecoveryPoint{ID: "p", Time: at(0)})
	var labels []string
	for _, e := range v.Events {
		labels = append(labels, e.Label)
	}
	if got, want := strings.Join(labels, "; "), "workloads ready; DNS record of h switched; first answer from b"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	if v.Verified || v.verdict() != "not verified" || len(v.Problems) != 1 || len(v.Notes) != 2 || v.Steps[1].Title != "Point" || v.RTO != nil {
		t.Errorf("got %+v", v)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	p := dr.Plan{
		Hash: "0123456789abcdef", Goal: dr.GoalFailover, Application: "shop", From: "east", To: "west", RecoveryPoint: "p2", Epoch: 3,
		Warnings: []string{"recovery point p2 is 4m old, objective 30s, and this warning goes on for longer than one line has room"},
		Steps: []dr.Step{
			{ID: "c", Title: `Restore "orders" #1 of shop`, Needs: []string{"b", "a"}, Deadline: 2 * time.Hour},
			{ID: "a", Title: "Fence shop at east", Deadline: 2 * time.Minute},
			{ID: "b", Title: "Claim shop for west " + strings.Repeat("x", 60), Needs: []string{"a"}, Deadline: time.Minute},
		},
	}
	var text, diagram bytes.Buffer
	if err := errors.Join(Plan(&text, p), Mermaid(&diagram, p)); err != nil {
		t.Fatal(err)
	}
	fits(t, text.String())
	golden(t, "plan.txt", text.Bytes())
	golden(t, "plan.mmd", diagram.Bytes())
	p.Steps[1].Needs = []string{"c"}
	if err := Plan(io.Discard, p); err == nil {
		t.Error("a plan that goes in a circle was shown")
	}
}

func TestHuman(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0ms", 999 * time.Millisecond: "999ms", 1234 * time.Millisecond: "1.23s", -2 * time.Second: "-2.00s", 12345 * time.Millisecond: "12.3s",
		time.Minute: "1m", 125 * time.Second: "2m5s", time.Hour: "1h", 65 * time.Minute: "1h5m", 26*time.Hour + 31*time.Second: "26h1m",
	} {
		if got := human(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}
