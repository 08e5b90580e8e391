package wire

import (
	"context"
	"slices"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/hook"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/run"
)

// hooks runs what the application declares to happen around its restores.
type hooks struct{ *Operation }

func (o hooks) runner(ctx context.Context, sc run.StepContext, p dr.RunHook) (hook.Runner, dr.Hook, error) {
	i := slices.IndexFunc(o.app.Restore.Hooks, func(h dr.Hook) bool { return h.Name == p.Hook })
	if i < 0 {
		return hook.Runner{}, dr.Hook{}, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Declare it in the fleet file again, with onFailure: warn if the run is to go on whatever becomes of it.",
			"application %s has no hook %s", o.app.Name, p.Hook)
	}
	client, err := o.connect(ctx, p.Site)
	if err != nil {
		return hook.Runner{}, dr.Hook{}, err
	}
	from, to, err := o.between(ctx, sc.Plan.RecoveryPoint, p.Site)
	if err != nil {
		return hook.Runner{}, dr.Hook{}, err
	}
	r := hook.Runner{Client: client, Application: o.app.Name, Run: sc.Run, Progress: sc.Progress,
		Image: func(image string) string { return restore.Image(image, from, to) }}
	if sc.Plan.Restoring != nil {
		r.Namespace = sc.Plan.Restoring.Namespace
	}
	return r, o.app.Restore.Hooks[i], nil
}

func (o hooks) done(ctx context.Context, sc run.StepContext, p dr.RunHook) (*run.Result, error) {
	r, h, err := o.runner(ctx, sc, p)
	if err != nil {
		return nil, err
	}
	out, err := r.Done(ctx, h)
	if err != nil || out == nil {
		return nil, err
	}
	return &run.Result{Outcome: dr.OutcomeDone, Reason: "had run already", Output: *out}, nil
}

func (o hooks) run(ctx context.Context, sc run.StepContext, p dr.RunHook) (run.Result, error) {
	r, h, err := o.runner(ctx, sc, p)
	if err != nil {
		return run.Result{}, err
	}
	out, err := r.Do(ctx, h, sc.CutOff)
	if err == nil {
		return done(out)
	}
	// What does not answer is tried again; a run that is being stopped has not failed.
	if h.OnFailure != dr.FailureWarns || ctx.Err() != nil || dr.ClassOf(err) == dr.ClassUnreachable {
		return run.Result{}, err
	}
	out.Error = err.Error()
	return run.Result{Outcome: dr.OutcomeSkipped, Reason: "its failure only warns: " + err.Error(), Output: out}, nil
}
