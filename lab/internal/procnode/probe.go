package procnode

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// tally counts a probe's answers in a row against its thresholds.
type tally struct {
	success, failure int // thresholds
	good, bad        int // in a row
}

func newTally(p *corev1.Probe) *tally {
	return &tally{success: max(1, int(p.SuccessThreshold)), failure: max(1, int(p.FailureThreshold))}
}

// verdict is what a row of answers amounts to.
type verdict int

const (
	undecided verdict = iota
	passed
	failed
)

func (t *tally) add(ok bool) verdict {
	if ok {
		t.good, t.bad = t.good+1, 0
		if t.good >= t.success {
			return passed
		}
		return undecided
	}
	t.good, t.bad = 0, t.bad+1
	if t.bad >= t.failure {
		return failed
	}
	return undecided
}

// afterStart runs the postStart hook and then the probes, until ctx ends.
func (c *container) afterStart(ctx context.Context, proc *process) {
	if l := c.spec.Lifecycle; l != nil && l.PostStart != nil {
		if err := c.hook(ctx, proc, l.PostStart); err != nil {
			if ctx.Err() == nil {
				c.pod.event(corev1.EventTypeWarning, "FailedPostStartHook", "postStart of %s: %v", c.spec.Name, err)
				c.doom("failed its postStart hook")
			}
			return
		}
	}
	if c.spec.StartupProbe != nil && !c.awaitStartup(ctx, proc) {
		return
	}
	c.update(func(s *corev1.ContainerStatus) {
		yes := true
		s.Started = &yes
		s.Ready = c.spec.ReadinessProbe == nil
	})
	c.pod.news.fire() // the next init container may begin
	var probes sync.WaitGroup
	if p := c.spec.ReadinessProbe; p != nil {
		probes.Go(func() { c.probe(ctx, proc, "Readiness", p, c.setReady) })
	}
	if p := c.spec.LivenessProbe; p != nil {
		probes.Go(func() {
			c.probe(ctx, proc, "Liveness", p, func(v verdict) bool {
				if v == failed {
					c.doom("failed liveness probe")
				}
				return v != failed
			})
		})
	}
	probes.Wait()
}

func (c *container) awaitStartup(ctx context.Context, proc *process) bool {
	started := false
	c.probe(ctx, proc, "Startup", c.spec.StartupProbe, func(v verdict) bool {
		started = v == passed
		if v == failed {
			c.doom("failed startup probe")
		}
		return v == undecided
	})
	return started
}

func (c *container) setReady(v verdict) bool {
	if v == undecided {
		return true
	}
	c.mu.Lock()
	same := c.status.Ready == (v == passed)
	c.mu.Unlock()
	if !same {
		c.update(func(s *corev1.ContainerStatus) { s.Ready = v == passed })
	}
	return true
}

// probe asks again and again and reports each verdict, until heed says to stop or ctx ends.
func (c *container) probe(ctx context.Context, proc *process, kind string, p *corev1.Probe, heed func(verdict) bool) {
	period := time.Duration(max(1, p.PeriodSeconds)) * time.Second
	timeout := time.Duration(max(1, p.TimeoutSeconds)) * time.Second
	t := newTally(p)
	next := time.NewTimer(time.Duration(p.InitialDelaySeconds) * time.Second)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		limit, cancel := context.WithTimeout(ctx, timeout)
		err := c.check(limit, proc, p)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.pod.event(corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %v", kind, err)
		}
		if !heed(t.add(err == nil)) {
			return
		}
		next.Reset(period)
	}
}

// describe shortens a probe's output for an event.
func describe(out []byte, err error) error {
	if len(out) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, out[:min(len(out), 512)])
}
