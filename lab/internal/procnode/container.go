package procnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// role is a container's part in its pod's life.
type role int

const (
	roleMain    role = iota
	roleInit         // runs to its end before the next begins
	roleSidecar      // an init container that keeps running
)

// container keeps one container of a pod running as its spec asks, and its status true.
type container struct {
	a    *agent
	pod  *podRun
	spec corev1.Container
	role role
	dir  string

	mu     sync.Mutex
	status corev1.ContainerStatus
	proc   *process // the one running, nil between runs
	log    *logFile // of the newest run
	doomed chan string
}

func newContainer(p *podRun, spec corev1.Container, r role, dir string) *container {
	reason := reasonCreating
	if r == roleMain && len(p.current().Spec.InitContainers) > 0 {
		reason = reasonInit
	}
	no := false
	return &container{
		a: p.a, pod: p, spec: spec, role: r, dir: dir, doomed: make(chan string, 1),
		status: corev1.ContainerStatus{
			Name: spec.Name, Image: spec.Image, Started: &no,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}},
		},
	}
}

// inherit takes over what an earlier agent last said of this container, whose process is dead now.
func (c *container) inherit(old corev1.ContainerStatus) {
	c.status.RestartCount = old.RestartCount
	c.status.LastTerminationState = old.LastTerminationState
	switch {
	case old.State.Running != nil:
		c.status.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: reasonUnknownExit, Message: "the node agent was started again and ended what was left of this container",
			StartedAt: old.State.Running.StartedAt, FinishedAt: metav1.Now(), ContainerID: old.ContainerID,
		}}
		c.status.RestartCount++
	case old.State.Terminated != nil:
		c.status.LastTerminationState = old.State
		c.status.RestartCount++
	}
}

// update changes the status and has it written.
func (c *container) update(f func(s *corev1.ContainerStatus)) {
	c.mu.Lock()
	f(&c.status)
	c.mu.Unlock()
	c.pod.dirty.fire()
}

func (c *container) snapshot() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.status.DeepCopy()
}

func (c *container) wait(reason, message string) {
	c.update(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		s.Ready = false
	})
}

const (
	backoffFirst = time.Second
	backoffMost  = 10 * time.Second
	backoffReset = time.Minute // a container that ran this long starts afresh
)

// backoff is how long to wait before the n-th restart in a row, n from 0.
func backoff(n int) time.Duration {
	return min(backoffFirst<<min(n, 8), backoffMost)
}

// supervise runs the container, again and again while again says so of how it ended, until ctx ends.
func (c *container) supervise(ctx context.Context, again func(exit) bool) {
	for failures := 0; ; failures++ {
		began := time.Now()
		e, ok := c.run(ctx)
		if !ok || ctx.Err() != nil || !again(e) {
			c.settle()
			return
		}
		if time.Since(began) > backoffReset {
			failures = 0
		}
		pause := backoff(failures)
		c.update(func(s *corev1.ContainerStatus) {
			s.LastTerminationState = s.State
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: reasonCrashLoop, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", pause, c.spec.Name, c.pod.key())}}
		})
		c.pod.event(corev1.EventTypeWarning, "BackOff", "Back-off %s restarting container %s", pause, c.spec.Name)
		select {
		case <-ctx.Done():
			c.settle()
			return
		case <-time.After(pause):
		}
		c.update(func(s *corev1.ContainerStatus) { s.RestartCount++ })
	}
}

// settle leaves a container that will not run again in a terminated state, if it ever ran.
func (c *container) settle() {
	c.update(func(s *corev1.ContainerStatus) {
		if s.State.Waiting != nil && s.LastTerminationState.Terminated != nil {
			s.State, s.LastTerminationState = s.LastTerminationState, corev1.ContainerState{}
		}
		s.Ready = c.role == roleInit && s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	})
}

// run runs the container's program once. ok is false if ctx ended before it began.
func (c *container) run(ctx context.Context) (e exit, ok bool) {
	pl, ok := c.plan(ctx)
	if !ok || ctx.Err() != nil {
		return exit{}, false
	}
	began := time.Now()
	select {
	case <-c.doomed: // meant for an earlier run
	default:
	}
	proc, err := c.launch(ctx, pl)
	if err != nil {
		e := exit{code: 128, at: time.Now()}
		c.pod.event(corev1.EventTypeWarning, "Failed", "Error: %v", err)
		c.terminated(began, e, reasonStartError, err.Error())
		return e, true
	}
	defer proc.release()
	c.pod.event(corev1.EventTypeNormal, "Started", "Started container %s", c.spec.Name)

	probing, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { c.afterStart(probing, proc) })
	select {
	case <-proc.exited:
	case <-ctx.Done():
		stop()
		c.shutdown(proc)
	case why := <-c.doomed:
		stop()
		c.pod.event(corev1.EventTypeNormal, "Killing", "Container %s %s, will be restarted", c.spec.Name, why)
		c.shutdown(proc)
	}
	stop()
	<-proc.exited
	probes.Wait()
	reason := reasonCompleted
	if proc.result.code != 0 {
		reason = reasonError
	}
	c.terminated(began, proc.result, reason, c.message(pl, proc.result))
	return proc.result, true
}

// plan waits until all that the container needs is there.
func (c *container) plan(ctx context.Context) (*plan, bool) {
	said := ""
	for {
		news := c.pod.news.changed()
		pl, err := c.a.newPlan(c.pod, &c.spec, c.dir)
		if err == nil {
			return pl, true
		}
		var w *waiting
		if !errors.As(err, &w) {
			w = &waiting{reason: "CreateContainerError", message: err.Error()}
		}
		if w.message != said {
			said = w.message
			c.wait(w.reason, w.message)
			c.pod.event(corev1.EventTypeWarning, "Failed", "Error: %v", w)
		}
		select {
		case <-ctx.Done():
			return nil, false
		case <-news:
		case <-time.After(backoffMost):
		}
	}
}

func (c *container) launch(ctx context.Context, pl *plan) (*process, error) {
	n := int(c.snapshot().RestartCount)
	if n >= 2 { // the previous run's log is kept, no more
		for _, old := range []string{logPath(c.dir, n-2), logPath(c.dir, n-2) + ".1"} {
			_ = os.Remove(old) // often not there
		}
	}
	log, err := createLog(logPath(c.dir, n))
	if err != nil {
		return nil, err
	}
	proc, err := c.a.startProcess(ctx, pl, log)
	if err != nil {
		return nil, errors.Join(err, log.close())
	}
	c.mu.Lock()
	c.proc, c.log = proc, log
	c.mu.Unlock()
	c.update(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(proc.started)}}
		s.ContainerID = fmt.Sprintf("process://%s-%s-%d-%d", c.pod.uid, c.spec.Name, n, proc.pid)
		s.ImageID = c.spec.Image
		started := false
		s.Started, s.Ready = &started, false
	})
	return proc, nil
}

func (c *container) terminated(began time.Time, e exit, reason, message string) {
	c.mu.Lock()
	c.proc = nil
	c.mu.Unlock()
	c.update(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(e.code), Signal: int32(e.signal), Reason: reason, Message: message,
			StartedAt: metav1.NewTime(began), FinishedAt: metav1.NewTime(e.at), ContainerID: s.ContainerID,
		}}
		no := false
		s.Started = &no
		s.Ready = c.role == roleInit && e.code == 0
	})
}

// message is what the container left as its last word.
func (c *container) message(pl *plan, e exit) string {
	raw, err := os.ReadFile(pl.message)
	if err == nil && len(raw) > 0 {
		return string(raw[:min(len(raw), 4096)])
	}
	if e.code != 0 && c.spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		return tailText(logPath(c.dir, int(c.snapshot().RestartCount)), 80, 2048)
	}
	return ""
}

// shutdown ends a running program: its preStop hook, its stop signal, and SIGKILL after the grace
// period or when the whole pod is to be killed.
func (c *container) shutdown(proc *process) {
	limit, cancel := context.WithTimeout(c.pod.killing, c.pod.grace())
	defer cancel()
	if l := c.spec.Lifecycle; l != nil && l.PreStop != nil && limit.Err() == nil {
		if err := c.hook(limit, proc, l.PreStop); err != nil {
			c.pod.event(corev1.EventTypeWarning, "FailedPreStopHook", "preStop of %s: %v", c.spec.Name, err)
		}
	}
	if limit.Err() == nil {
		proc.terminate(proc.plan.stop)
	}
	select {
	case <-proc.exited:
	case <-limit.Done():
		proc.kill()
		<-proc.exited // bounded: SIGKILL cannot be refused, and clearing up has its own limit
	}
}

// running returns the program if it runs.
func (c *container) running() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proc
}

// doom has the running program ended and started again.
func (c *container) doom(why string) {
	select {
	case c.doomed <- why:
	default: // somebody said so already
	}
}

// logOf returns the path of the newest run's log, or of the one before it, and its writer.
func (c *container) logOf(previous bool) (string, *logFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int(c.status.RestartCount)
	if previous {
		if n == 0 {
			return "", nil, fmt.Errorf("previous terminated container %q in pod %q not found", c.spec.Name, c.pod.current().Name)
		}
		return logPath(c.dir, n-1), nil, nil
	}
	path := logPath(c.dir, n)
	if c.log != nil && c.log.path == path {
		return path, c.log, nil
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil, nil
	}
	if c.log != nil { // between two runs: the count is ahead of the logs
		return c.log.path, nil, nil
	}
	why := "ContainerCreating"
	if w := c.status.State.Waiting; w != nil {
		why = w.Reason
	}
	return "", nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", c.spec.Name, filepath.Base(c.pod.key()), why)
}
