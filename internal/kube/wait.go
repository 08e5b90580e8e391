package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// WaitFor asks cond at once and then every interval until it says done, returns an error, or ctx is
// done. ctx must have a deadline. When that passes, the error (class incomplete) says what was waited
// for and the last state that cond gave. A condition that fails only because ctx is done is not an
// error of its own.
func WaitFor(ctx context.Context, what string, every time.Duration, cond func(context.Context) (done bool, state string, err error)) error {
	if _, ok := ctx.Deadline(); !ok {
		return fmt.Errorf("waiting for %s: the caller gave no deadline", what)
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	started := time.Now()
	last := "nothing known yet"
	for {
		done, state, err := cond(ctx)
		if state != "" && ctx.Err() == nil {
			last = state
		}
		switch {
		case ctx.Err() != nil && !done:
			return waitEnded(ctx, what, last, time.Since(started))
		case err != nil:
			return fmt.Errorf("waiting for %s: %w", what, err)
		case done:
			return nil
		}
		timer.Reset(every)
		select {
		case <-ctx.Done():
			return waitEnded(ctx, what, last, time.Since(started))
		case <-timer.C:
		}
	}
}

func waitEnded(ctx context.Context, what, last string, waited time.Duration) error {
	cause := context.Cause(ctx)
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("stopped waiting for %s (%s): %w", what, last, cause)
	}
	return dr.Errorf(dr.ClassIncomplete, fmt.Errorf("%s: %w", last, cause), "",
		"waited %s in vain for %s", waited.Round(100*time.Millisecond), what)
}
