package run

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// perform brings one step to its end within its deadline: look whether it is done, else do it, and
// again after a pause where something did not answer.
func perform(ctx context.Context, h Handler, sc StepContext) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, sc.Step.Deadline)
	defer cancel()
	said := &lastWord{}
	tell := sc.Progress
	sc.Progress = func(text string) {
		said.set(text)
		tell(text)
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		result, err := attempt(ctx, h, sc)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return Result{}, cutOff(ctx, sc.Step, err, said.get())
		}
		if !transient(err) {
			return Result{}, err
		}
		sc.Progress("trying again in " + pause.String() + ": " + err.Error())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Result{}, cutOff(ctx, sc.Step, err, said.get())
		}
	}
}

func attempt(ctx context.Context, h Handler, sc StepContext) (Result, error) {
	done, err := h.Observe(ctx, sc)
	if err != nil {
		return Result{}, err
	}
	if done != nil {
		return checked(*done)
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err // no new effect after the lease is lost or the run is stopped
	}
	result, err := h.Apply(ctx, sc)
	if err != nil {
		return Result{}, err
	}
	return checked(result)
}

// checked turns a handler's own verdict of failure into an error, which has a class.
func checked(r Result) (Result, error) {
	switch r.Outcome {
	case dr.OutcomeNone, dr.OutcomeDone, dr.OutcomeSkipped:
		return r, nil
	case dr.OutcomeFailed:
		return Result{}, dr.Errorf(dr.ClassIncomplete, nil, "", "%s", r.Reason)
	}
	return Result{}, dr.Errorf(dr.ClassInternal, nil, "", "a step cannot end %q", r.Outcome)
}

// cutOff words the end of a step whose time is over, or which was cancelled.
func cutOff(ctx context.Context, step dr.Step, err error, last string) error {
	if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return err
	}
	class := dr.ClassIncomplete
	var e *dr.Error
	if errors.As(err, &e) {
		class = e.Class
	}
	if last == "" {
		return dr.Errorf(class, err, "", "not done within %s", step.Deadline)
	}
	return dr.Errorf(class, err, "", "not done within %s; at last: %s", step.Deadline, last)
}

// transient says whether trying again may help: something did not answer.
func transient(err error) bool {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && dr.ClassOf(err) == dr.ClassInternal {
		return true
	}
	return dr.ClassOf(err) == dr.ClassUnreachable
}

// lastWord keeps the newest progress text, which says what a step was waiting for.
type lastWord struct {
	mu   sync.Mutex
	text string
}

func (l *lastWord) set(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = text
}

func (l *lastWord) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}
