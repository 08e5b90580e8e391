package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/run"
)

// handler does one kind of step, whose parameters are of type P.
type handler[P dr.Params] struct {
	// observe says whether the step is done already; nil: it always has to be applied.
	observe func(context.Context, run.StepContext, P) (*run.Result, error)
	apply   func(context.Context, run.StepContext, P) (run.Result, error)
}

// Observe implements run.Handler.
func (h handler[P]) Observe(ctx context.Context, sc run.StepContext) (*run.Result, error) {
	if h.observe == nil {
		return nil, nil
	}
	p, err := params[P](sc)
	if err != nil {
		return nil, err
	}
	return h.observe(ctx, sc, p)
}

// Apply implements run.Handler.
func (h handler[P]) Apply(ctx context.Context, sc run.StepContext) (run.Result, error) {
	p, err := params[P](sc)
	if err != nil {
		return run.Result{}, err
	}
	return h.apply(ctx, sc, p)
}

func params[P dr.Params](sc run.StepContext) (P, error) {
	p, ok := sc.Step.Params.(P)
	if !ok {
		return p, fmt.Errorf("step %s of kind %s has parameters of type %T", sc.Step.ID, sc.Step.Params.Kind(), sc.Step.Params)
	}
	return p, nil
}

// handlers are what this version can do, by kind of step.
func (o *Operation) handlers(claim claimer) map[dr.StepKind]run.Handler {
	protect, bring, cut, hook := protection{o}, recovery{o, claim}, cutover{o}, hooks{o}
	return map[dr.StepKind]run.Handler{
		dr.KindFenceSite:     handler[dr.FenceSite]{apply: bring.fence},
		dr.KindClaim:         handler[dr.Claim]{observe: bring.claimed, apply: bring.claim},
		dr.KindCapture:       handler[dr.Capture]{apply: protect.capture},
		dr.KindProtectData:   handler[dr.ProtectData]{apply: protect.protectData},
		dr.KindSealPoint:     handler[dr.SealPoint]{observe: protect.sealed, apply: protect.seal},
		dr.KindRestoreState:  handler[dr.RestoreState]{apply: bring.restoreState},
		dr.KindRestoreData:   handler[dr.RestoreData]{observe: bring.dataRestored, apply: bring.restoreData},
		dr.KindAwaitReady:    handler[dr.AwaitReady]{apply: bring.awaitReady},
		dr.KindSwitchTraffic: handler[dr.SwitchTraffic]{observe: cut.trafficSwitched, apply: cut.switchTraffic},
		dr.KindHook:          handler[dr.RunHook]{observe: hook.done, apply: hook.run},
		dr.KindProbe:         handler[dr.ProbeFromOutside]{apply: cut.probe},
	}
}

// done is the result of a step that did its work.
func done(output any) (run.Result, error) {
	return run.Result{Outcome: dr.OutcomeDone, Output: output}, nil
}

// output reads what an earlier step left.
func output[T any](sc run.StepContext, step string) (T, error) {
	var v T
	raw := sc.Outputs(step)
	if raw == nil {
		return v, fmt.Errorf("step %s left nothing", step)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("read what step %s left: %w", step, err)
	}
	return v, nil
}

// progress turns a driver's progress into lines.
func progress(sc run.StepContext) func(driver.Progress) {
	return func(p driver.Progress) {
		if p.TotalBytes > 0 {
			sc.Progress(fmt.Sprintf("%d of %d files, %d of %d MiB", p.Files, p.TotalFiles, p.Bytes>>20, p.TotalBytes>>20))
			return
		}
		if p.Files > 0 {
			sc.Progress(fmt.Sprintf("%d files, %d MiB", p.Files, p.Bytes>>20))
		}
	}
}

// objects turns the progress of a restore into lines: waits at once, counts now and then.
func objects(sc run.StepContext) func(restore.Progress) {
	return func(p restore.Progress) {
		switch {
		case p.Waiting != "":
			sc.Progress(strings.TrimSpace(p.Object + " waits for " + p.Waiting))
		case p.Done%500 == 0 || p.Done == p.Total:
			sc.Progress(fmt.Sprintf("%d of %d objects", p.Done, p.Total))
		}
	}
}
