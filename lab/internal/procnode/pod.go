package procnode

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podRun is one pod, from when it is bound to this node until its object is gone.
type podRun struct {
	a          *agent
	uid        types.UID
	dir        string
	volumes    *volumes
	containers []*container
	finished   bool      // it had ended before this agent began: only its logs and its deletion are left
	news       broadcast // something the pod may wait for has changed
	dirty      broadcast // its status has changed

	killing context.Context // ends when what still runs is to be killed
	killNow context.CancelFunc
	life    context.Context // ends when the pod is to end
	endLife context.CancelFunc

	deleting chan struct{} // closed when the object is to go
	gone     chan struct{} // closed when it is gone

	mu              sync.Mutex
	pod             *corev1.Pod
	addr            netip.Addr
	prepared        bool
	started         time.Time
	reason, message string
	stale           bool // somebody else overwrote our status
	sent            *corev1.PodStatus
}

// newPodRun takes over a pod. ctx is the agent's: when it ends the pod's processes end, but nothing
// is said of it to the API server, for the pod is to run again with the next agent.
func newPodRun(ctx context.Context, a *agent, pod *corev1.Pod) (*podRun, error) {
	p := &podRun{
		a: a, uid: pod.UID, pod: pod, dir: filepath.Join(a.opts.Dir, "pods", string(pod.UID)),
		deleting: make(chan struct{}), gone: make(chan struct{}), started: time.Now(),
		finished: pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if pod.Status.StartTime != nil {
		p.started = pod.Status.StartTime.Time
	}
	if !pod.Spec.HostNetwork && !p.finished {
		addr, err := a.addresses.take(pod.Status.PodIP)
		if err != nil {
			return nil, err
		}
		p.addr = addr
	}
	gid := -1
	if sc := pod.Spec.SecurityContext; a.root && sc != nil && sc.FSGroup != nil {
		gid = int(*sc.FSGroup)
	}
	p.volumes = &volumes{base: filepath.Join(p.dir, "volumes"), gid: gid, dirs: map[string]string{}, tokens: a.newTokens()}
	p.killing, p.killNow = context.WithCancel(context.WithoutCancel(ctx))
	p.life, p.endLife = context.WithCancel(ctx)
	for _, spec := range pod.Spec.InitContainers {
		r := roleInit
		if spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			r = roleSidecar
		}
		p.addContainer(spec, r, pod.Status.InitContainerStatuses)
	}
	for _, spec := range pod.Spec.Containers {
		p.addContainer(spec, roleMain, pod.Status.ContainerStatuses)
	}
	return p, nil
}

func (p *podRun) addContainer(spec corev1.Container, r role, old []corev1.ContainerStatus) {
	c := newContainer(p, spec, r, filepath.Join(p.dir, "containers", spec.Name))
	for _, s := range old {
		switch {
		case s.Name != spec.Name:
		case p.finished:
			c.status = s
		default:
			c.inherit(s)
		}
	}
	p.containers = append(p.containers, c)
}

func (p *podRun) current() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pod
}

func (p *podRun) key() string { pod := p.current(); return pod.Namespace + "/" + pod.Name }

func (p *podRun) ip() string {
	if !p.addr.IsValid() {
		return p.a.opts.NodeIP
	}
	return p.addr.String()
}

func (p *podRun) facts() podFacts {
	return podFacts{pod: p.current(), podIP: p.ip(), hostIP: p.a.opts.NodeIP, apiServer: p.a.opts.APIServer, allocatable: p.a.capacity}
}

// grace is how long the pod's containers get to end.
func (p *podRun) grace() time.Duration {
	pod := p.current()
	seconds := int64(30)
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		seconds = *s
	}
	return time.Duration(seconds) * time.Second
}

// observe takes in the pod as the API server has it now.
func (p *podRun) observe(pod *corev1.Pod) {
	p.mu.Lock()
	first := p.pod.DeletionTimestamp == nil
	shorter := pod.DeletionGracePeriodSeconds != nil && p.pod.DeletionGracePeriodSeconds != nil &&
		*pod.DeletionGracePeriodSeconds < *p.pod.DeletionGracePeriodSeconds
	changed := p.pod.Generation != pod.Generation || formatMap(p.pod.Labels) != formatMap(pod.Labels) || formatMap(p.pod.Annotations) != formatMap(pod.Annotations)
	p.pod = pod
	if p.sent != nil && (p.sent.Phase != pod.Status.Phase || readiness(p.sent) != readiness(&pod.Status)) {
		p.stale = true
	}
	stale := p.stale || len(pod.Spec.ReadinessGates) > 0
	p.mu.Unlock()
	if pod.DeletionTimestamp != nil && (first || shorter || !closed(p.deleting)) {
		p.delete()
	}
	if changed {
		p.news.fire()
	}
	if changed || stale {
		p.dirty.fire()
	}
}

func readiness(s *corev1.PodStatus) bool { return conditionTrue(s.Conditions, corev1.PodReady) }

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// delete begins the pod's end on behalf of its deletion; again with a shorter grace hastens it.
func (p *podRun) delete() {
	if !closed(p.deleting) {
		close(p.deleting)
		p.event(corev1.EventTypeNormal, "Killing", "Stopping the pod's containers")
	}
	p.terminate(p.grace())
}

// vanish says that the object is gone: if nobody asked first, what runs has a second.
func (p *podRun) vanish() {
	p.terminate(time.Second)
	if !closed(p.deleting) {
		close(p.deleting)
	}
	close(p.gone)
}

// terminate ends the pod's life; what has not ended after grace is killed.
func (p *podRun) terminate(grace time.Duration) {
	if grace <= 0 {
		p.killNow()
	} else {
		time.AfterFunc(grace, p.killNow)
	}
	p.endLife()
}

// fail ends the pod for a reason of its own, which its status then shows.
func (p *podRun) fail(reason, message string) {
	p.mu.Lock()
	p.reason, p.message = reason, message
	p.mu.Unlock()
	p.event(corev1.EventTypeNormal, reason, "%s", message)
	p.terminate(p.grace())
}

// run is the pod's whole life; it returns when the object is gone or the agent is told to stop.
func (p *podRun) run(ctx context.Context) {
	defer p.endLife()
	defer p.killNow()
	if !p.finished {
		p.runContainers(ctx)
	}
	select {
	case <-ctx.Done():
		return
	case <-p.deleting:
	}
	p.deleteObject(ctx)
	select {
	case <-ctx.Done():
		return
	case <-p.gone:
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.a.opts.Log.Warn("removing a pod's directory", "pod", p.key(), "error", err)
	}
}

// runContainers runs the containers and keeps the status written, to the last.
func (p *podRun) runContainers(ctx context.Context) {
	disarm := context.AfterFunc(ctx, func() { p.terminate(p.a.opts.StopGrace) })
	defer disarm()
	writing, stopWriting := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() { p.writeStatus(writing) })
	if s := p.current().Spec.ActiveDeadlineSeconds; s != nil {
		late := time.AfterFunc(time.Until(p.started.Add(time.Duration(*s)*time.Second)), func() {
			p.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
		})
		defer late.Stop()
	}
	p.live()
	for _, c := range p.containers {
		c.settle()
	}
	p.clear(ctx)
	stopWriting()
	writer.Wait()
	p.flushStatus(ctx)
	if p.addr.IsValid() {
		p.a.addresses.free(p.addr)
	}
}

// live runs the containers until they are all done or the pod's life ends.
func (p *podRun) live() {
	if p.life.Err() != nil || !p.prepare(p.life) {
		return
	}
	var refresh sync.WaitGroup
	refreshing, stopRefresh := context.WithCancel(p.life)
	refresh.Go(func() { p.refreshVolumes(refreshing) })
	defer refresh.Wait()
	defer stopRefresh()

	// Sidecars outlast the main containers, whatever ends those.
	sideLife, endSides := context.WithCancel(context.WithoutCancel(p.life))
	var sides sync.WaitGroup
	defer sides.Wait()
	defer endSides()
	for _, c := range p.containers {
		switch c.role {
		case roleInit:
			c.supervise(p.life, func(e exit) bool { return e.code != 0 && p.current().Spec.RestartPolicy != corev1.RestartPolicyNever })
			if !done(c.snapshot()) {
				return
			}
		case roleSidecar:
			sides.Go(func() { c.supervise(sideLife, func(exit) bool { return true }) })
			if !p.awaitStarted(c) {
				return
			}
		}
	}
	var mains sync.WaitGroup
	for _, c := range p.containers {
		if c.role == roleMain {
			mains.Go(func() { c.superviseMain(p.life) })
		}
	}
	mains.Wait()
}

// superviseMain runs a main container as the pod's restart policy says. What an earlier agent saw
// end for good is not run again.
func (c *container) superviseMain(ctx context.Context) {
	again := func(e exit) bool {
		switch c.pod.current().Spec.RestartPolicy {
		case corev1.RestartPolicyNever:
			return false
		case corev1.RestartPolicyOnFailure:
			return e.code != 0
		}
		return true
	}
	if t := c.snapshot().LastTerminationState.Terminated; t != nil && !again(exit{code: int(t.ExitCode)}) {
		c.update(func(s *corev1.ContainerStatus) { s.RestartCount = max(0, s.RestartCount-1) })
		c.settle()
		return
	}
	c.supervise(ctx, again)
}

func (p *podRun) awaitStarted(c *container) bool {
	for {
		news := p.news.changed()
		if s := c.snapshot(); s.Started != nil && *s.Started {
			return true
		}
		select { // bounded by the pod's life; its status says which container it waits for
		case <-p.life.Done():
			return false
		case <-news:
		}
	}
}

// prepare waits until volumes are there.
func (p *podRun) prepare(ctx context.Context) bool {
	said := ""
	for {
		news := p.news.changed()
		err := p.volumes.prepare(ctx, p.a.cluster, p.facts())
		if err == nil {
			err = p.a.hosts.add(p.current().Namespace)
		}
		if err == nil {
			p.mu.Lock()
			p.prepared = true
			p.mu.Unlock()
			p.dirty.fire()
			return true
		}
		if err.Error() != said {
			said = err.Error()
			p.event(corev1.EventTypeWarning, "FailedMount", "%v", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-news:
		case <-time.After(5 * time.Second):
		}
	}
}

// refreshVolumes keeps what the agent writes into volumes true to its objects.
func (p *podRun) refreshVolumes(ctx context.Context) {
	for {
		news := p.news.changed()
		renew, err := p.volumes.refresh(ctx, p.a.cluster, p.facts())
		if err != nil && ctx.Err() == nil {
			p.event(corev1.EventTypeWarning, "FailedMount", "%v", err)
			renew = time.Now().Add(backoffMost)
		}
		var timer <-chan time.Time
		if !renew.IsZero() {
			timer = time.After(time.Until(renew))
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-timer:
		}
	}
}

// clear ends every process of the pod, those included that exec started.
func (p *podRun) clear(ctx context.Context) {
	// Also when the agent is told to stop: this is the clean-up, and it has a bound of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	kin := family{env: []string{envNode + "=" + p.a.opts.Dir, envPod + "=" + string(p.uid)}}
	if err := kin.end(ctx); err != nil {
		p.a.opts.Log.Error("ending what a pod left behind", "pod", p.key(), "error", err)
	}
}

func (p *podRun) event(kind, reason, format string, args ...any) {
	p.a.events.Eventf(p.current(), kind, reason, format, args...)
}

func (p *podRun) find(name string) (*container, error) {
	for _, c := range p.containers {
		if c.spec.Name == name || name == "" && c.role == roleMain {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %s not found in pod %s", name, p.key())
}
