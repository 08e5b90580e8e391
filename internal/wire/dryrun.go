package wire

import (
	"context"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/restore"
)

// DryRun is what a restore would do about each object, and changes nothing.
type DryRun struct {
	restore.Forecast
	Objects []restore.Foreseen `json:"objects"` // in order of outcome, then of name
}

// DryRun asks the site of a plan's restore what would become of each object of the recovery point.
func (o *Operation) DryRun(ctx context.Context, pl dr.Plan) (*DryRun, error) {
	client, err := o.connect(ctx, pl.To)
	if err != nil {
		return nil, err
	}
	o.say("asking site %s what would change", pl.To)
	set, opts, err := o.stateOf(ctx, pl, pl.To)
	if err != nil {
		return nil, err
	}
	opts.Paused = !slices.ContainsFunc(pl.Steps, func(s dr.Step) bool {
		p, ok := s.Params.(dr.RestoreState)
		return ok && p.Stage == dr.StageCutover
	})
	out := &DryRun{}
	out.Forecast, err = set.DryRun(ctx, client, opts, nowAndThen(o.say), func(f restore.Foreseen) error {
		out.Objects = append(out.Objects, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	order := restore.Outcomes()
	slices.SortFunc(out.Objects, func(a, b restore.Foreseen) int {
		if a.Outcome != b.Outcome {
			return slices.Index(order, a.Outcome) - slices.Index(order, b.Outcome)
		}
		return strings.Compare(a.Object, b.Object)
	})
	return out, nil
}

// nowAndThen says how far something has come, if it takes long.
func nowAndThen(say func(format string, a ...any)) func(restore.Progress) {
	const every = 2 * time.Second
	said := time.Now()
	return func(p restore.Progress) {
		if time.Since(said) < every {
			return
		}
		said = time.Now()
		say("%d of %d objects", p.Done, p.Total)
	}
}
