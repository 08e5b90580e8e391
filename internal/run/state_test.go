package run

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lifeboat.dev/lifeboat/internal/dr"
)

// twoSteps is a plan of a then b.
func twoSteps() *dr.Plan {
	return &dr.Plan{Goal: dr.GoalFailover, Epoch: 1, Steps: []dr.Step{
		{ID: "a", Params: dr.AwaitReady{}}, {ID: "b", Params: dr.ProbeFromOutside{}, Needs: []string{"a"}},
	}}
}

// entries reads words like "started", "a+" (begins), "a:done", "epoch=2", "resumed", "ended:failed" and
// "e2:a+", which carries epoch 2.
func entries(words string) []dr.Entry {
	epoch := uint64(1)
	var out []dr.Entry
	for i, word := range strings.Fields(words) {
		e := dr.Entry{Run: "r", Sequence: i + 1, Time: time.Unix(int64(i), 0).UTC(), Epoch: epoch}
		if rest, ok := strings.CutPrefix(word, "e2:"); ok {
			e.Epoch, word = 2, rest
		}
		name, outcome, _ := strings.Cut(word, ":")
		switch {
		case word == "started":
			e.Type, e.Plan = dr.EntryRunStarted, twoSteps()
		case word == "resumed":
			e.Type = dr.EntryRunResumed
		case strings.HasPrefix(word, "epoch="):
			e.Type, e.Epoch = dr.EntryEpochChanged, uint64(word[6]-'0')
			epoch = e.Epoch
		case name == "ended":
			e.Type, e.Outcome = dr.EntryRunEnded, dr.Outcome(outcome)
		case strings.HasSuffix(word, "+"):
			e.Type, e.Step = dr.EntryStepStarted, strings.TrimSuffix(word, "+")
		case outcome != "":
			e.Type, e.Step, e.Outcome = dr.EntryStepEnded, name, dr.Outcome(outcome)
		default:
			e.Type = dr.EntryType(word)
		}
		out = append(out, e)
	}
	return out
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ words, want string }{ // stages and outcome, or the error
		{"started", "-- running "},
		{"started a+", "R- running "},
		{"started a+ a:done", "d- running "},
		{"started a+ a:skipped b+", "sR running "},
		{"started a+ a:failed ended:failed", "f- ended failed"},
		{"started a+ a:failed ended:failed resumed", "-- running "},
		{"started a+ a:failed resumed a+ a:done b+", "dR running "},
		{"started a+ resumed a+ resumed", "-- running "},
		{"started a+ a:done b+ b:done ended:verified", "dd ended verified"},
		{"started epoch=2 a+", "R- running "},
		{"", "the journal is empty"},
		{"a+", "the run has not started"},
		{"resumed", "the run has not started"},
		{"started started", "the run has started already"},
		{"e2:started", "epoch is 2, not the plan's 1"},
		{"started b+", "step b needs a, which has not ended well"},
		{"started a+ a:failed b+", "step b needs a, which has not ended well"},
		{"started a+ a+", "step a is running, not pending"},
		{"started a+ a:done a+", "step a is ended, not pending"},
		{"started a+ a:done a:done", "step a is ended, not running"},
		{"started a:done", "step a is pending, not running"},
		{"started a+ a:done resumed a+", "step a is ended, not pending"},
		{"started a+ a:verified", `a step does not end "verified"`},
		{"started c+", `there is no step "c"`},
		{"started c:done", `there is no step "c"`},
		{"started epoch=1", "epoch 1 is not above 1"},
		{"started e2:a+", "epoch is 2, not 1"},
		{"started a+ ended:failed", "step a is still running"},
		{"started ended:verified", "step a has not ended well"},
		{"started ended:stopped", `a run does not end "stopped"`},
		{"started a+ a:done b+ b:done ended:done resumed", "the run has ended well"},
		{"started a+ a:failed ended:failed a+", "the run has ended"},
		{"started dance", "unknown type of entry"},
	} {
		r, err := Fold(entries(c.words))
		got := stages(r) + " " + string(r.Stage) + " " + string(r.Outcome)
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.words, got, c.want)
		}
	}
}

func TestEntriesOutOfPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func([]dr.Entry)
		want   string
	}{
		{func(e []dr.Entry) { e[1].Sequence = 3 }, "sequence 3 does not follow 1"},
		{func(e []dr.Entry) { e[1].Run = "other" }, "belongs to run other"},
		{func(e []dr.Entry) { e[0].Plan = nil }, "no plan"},
		{func(e []dr.Entry) { e[0].Run = "" }, "no id"},
		{func(e []dr.Entry) { e[0].Plan.Steps[0].Needs = []string{"b"} }, "circle"},
	} {
		es := entries("started a+")
		c.change(es)
		if _, err := Fold(es); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words, want string
		change      func(*dr.Run)
	}{
		{"started a+ a:done b+ b:done", "verified ", nil},
		{"started a+ a:done b+ b:skipped", "done not verified: b was skipped: ", nil},
		{"started a+ a:skipped b+ b:done", "done not verified: a was skipped: ", nil},
		{"started a+ a:failed", "failed a: ", nil},
		{"started a+ a:done b+ b:done", "done not verified: no probe asked from outside", func(r *dr.Run) { r.Plan.Steps[1].Params = dr.SwitchTraffic{} }},
		{"started a+ a:done b+ b:done", "verified ", func(r *dr.Run) { r.Plan.Goal, r.Plan.Steps[1].Params = dr.GoalRestore, dr.RestoreData{} }},
	} {
		r, err := Fold(entries(c.words))
		if err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			c.change(&r)
		}
		outcome, reason := verdict(&r)
		if got := string(outcome) + " " + reason; got != c.want {
			t.Errorf("%s: got %q, want %q", c.words, got, c.want)
		}
	}
}

// No sequence of entries makes the state lose a step that ended well, and a refused entry changes nothing.
func TestTransitionsKeepWhatIsDone(t *testing.T) {
	t.Parallel()
	words := []string{"a+", "b+", "a:done", "b:done", "a:failed", "b:skipped", "resumed", "ended:failed", "ended:verified", "epoch=2", "started"}
	rapid.Check(t, func(t *rapid.T) {
		s, err := fold(entries("started"))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 30).Draw(t, "length") {
			e := entries("started " + rapid.SampledFrom(words).Draw(t, "word"))[1]
			e.Sequence = s.sequence + 1
			if e.Type != dr.EntryEpochChanged {
				e.Epoch = s.run.Epoch
			}
			before, _ := json.Marshal(s.run)
			next, err := transition(s, e)
			if after, _ := json.Marshal(s.run); string(after) != string(before) {
				t.Fatalf("%s changed the state it was given", e.Type)
			}
			if err != nil {
				continue
			}
			for i := range s.run.Steps {
				if endedWell(&s.run.Steps[i]) && next.run.Steps[i].Ended != s.run.Steps[i].Ended {
					t.Fatalf("%s undid step %s", e.Type, s.run.Steps[i].ID)
				}
			}
			s = next
		}
	})
}
