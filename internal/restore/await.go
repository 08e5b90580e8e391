package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// readyPause is the time between two looks at what is not ready yet.
const readyPause = 150 * time.Millisecond

// AwaitReady waits until everything restored that can be ready is (workloads, claims, Routes), then
// compares the target with the set as Verify does. ctx must have a deadline; when it passes, the error
// (class incomplete) says what is not ready and in which state. What does not equal the set is in
// Problems and is no error.
func (s *Set) AwaitReady(ctx context.Context, c *kube.Client, opts Options, progress func(Progress)) (dr.ReadyOutput, error) {
	v, err := s.newVerifier(ctx, c, opts)
	if err != nil {
		return dr.ReadyOutput{}, err
	}
	v.progress = progress
	began := v.opts.Now()
	if err := v.await(ctx); err != nil {
		return dr.ReadyOutput{}, err
	}
	ready := v.opts.Now()
	out, err := s.Verify(ctx, c, opts)
	if err == nil && len(out.Problems) == 0 {
		err = volumes{v.applier}.release(ctx)
	}
	out.Notes = append(out.Notes, v.addresses...)
	return dr.ReadyOutput{RestoreOutput: out, WorkloadsReady: ready, Waited: ready.Sub(began)}, err
}

func (v *verifier) await(ctx context.Context) error {
	v.items = slices.DeleteFunc(slices.Clone(v.items), func(it *item) bool { return !kube.HasReadiness(it.key.GroupKind) })
	v.total = len(v.items)
	what := fmt.Sprintf("application %s to be ready at site %s", v.opts.Application, v.client.Site)
	pause := readyPause + time.Duration(v.total)*100*time.Microsecond // many are not looked at as often
	return kube.WaitFor(ctx, what, pause, func(ctx context.Context) (bool, string, error) {
		states, err := v.unready(ctx)
		if err != nil {
			return false, "the site does not answer: " + err.Error(), nil
		}
		if len(states) == 0 {
			return true, "all ready", nil
		}
		state := strings.Join(states[:min(len(states), 5)], "; ")
		if n := len(states); n > 5 {
			state += fmt.Sprintf("; and %d more", n-5)
		}
		if !slices.ContainsFunc(states, func(s string) bool { return !strings.Contains(s, claimed) }) {
			return false, state, dr.Errorf(dr.ClassIncomplete, errors.New(state), "Remove what has the host, or give the Route another one; then run this again.",
				"a host of application %s is somebody else's at site %s", v.opts.Application, v.client.Site)
		}
		v.say(Progress{Done: v.total - len(states), Total: v.total, Waiting: state})
		return false, state, nil
	})
}

// unready looks at the items that were not ready at the last look, and keeps those that still are not.
func (v *verifier) unready(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	states := map[key]string{}
	waits := func(it *item, state string) {
		mu.Lock()
		defer mu.Unlock()
		states[it.key] = state
	}
	err := v.show(ctx, func(_ context.Context, it *item, live *unstructured.Unstructured) error {
		state, ready := "missing", false
		if live != nil {
			v.learn(it, live)
			ready, state = v.ready(ctx, it, live)
		}
		if !ready {
			waits(it, state)
		}
		return nil
	}, func(it *item, err error) { waits(it, "cannot be read: "+err.Error()) })
	if err != nil {
		return nil, err
	}
	v.items = slices.DeleteFunc(v.items, func(it *item) bool { _, waits := states[it.key]; return !waits })
	out := make([]string, 0, len(v.items))
	for _, it := range v.items {
		out = append(out, fmt.Sprintf("%s: %s", it.key, states[it.key]))
	}
	return out, nil
}

// learn notes the addresses that the target gave: they are not those that the old site had.
func (v *verifier) learn(it *item, live *unstructured.Unstructured) {
	if it.key.GroupKind != serviceKind {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ingress := range maps(live.Object, "status", "loadBalancer", "ingress") {
		note := fmt.Sprintf("%s: its load balancer answers at %s", it.key, orElse(str(ingress, "ip"), str(ingress, "hostname")))
		if !slices.Contains(v.addresses, note) {
			v.addresses = append(v.addresses, note)
		}
	}
}
