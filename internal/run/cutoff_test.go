package run

import (
	"context"
	"errors"
	"testing"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestCutOffSteps(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]bool{
		"started a+":                             false, // it runs
		"started a+ resumed":                     true,
		"started a+ resumed resumed":             true,
		"started a+ resumed a+":                  true,
		"started a+ a:failed resumed":            false, // how it ended is known
		"started a+ resumed a+ a:failed":         true,
		"started a+ resumed a+ a:failed resumed": false,
		"started resumed":                        false,
		"started a+ a:done resumed":              false,
	} {
		r, err := Fold(entries(words))
		if err != nil || r.Steps[0].CutOff != want {
			t.Errorf("%s: cut off %v, want %v (%v)", words, r.Steps[0].CutOff, want, err)
		}
	}
}

// A handler learns that an earlier process may have done the step's work.
func TestHandlersLearnOfTheCut(t *testing.T) {
	t.Parallel()
	w, j := newWorld(), &memory{}
	killed := errors.New("killed")
	ctx, kill := context.WithCancelCause(t.Context())
	var told []bool
	tell := worker{world: w, before: func(_ context.Context, sc StepContext) error {
		if sc.Step.ID == "foundation" {
			told = append(told, sc.CutOff)
			if len(told) == 1 {
				kill(killed)
				return killed
			}
		}
		return nil
	}}
	if _, err := Execute(ctx, options(w, j, tell), "r1", failover()); dr.ClassOf(err) != dr.ClassInterrupted {
		t.Fatalf("got %v", err)
	}
	if _, err := Resume(t.Context(), options(w, j, tell), "r1"); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[0] || !told[1] {
		t.Errorf("told %v, want false and then true", told)
	}
}
