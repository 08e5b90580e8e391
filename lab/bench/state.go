package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/lab/internal/apiserver"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

// The bounds of the figures of cluster state.
const (
	boundCheckpoint  = 1.3   // times a bare parallel paged list of the same objects, decoded
	boundAfterChange = 0.5   // seconds from the last change until the next checkpoint is there
	boundChangeBytes = 0.03  // of the first checkpoint's bytes, for one change in a hundred
	boundMemory      = 300.0 // MiB, resident
	boundLinear      = 1.15  // time an object of a large cluster over that of a tenth of it: linear, but for noise
)

// state measures checkpoints of a cluster of realistic objects.
func (b *bench) state(ctx context.Context, dir string, objects, rounds int) (err error) {
	fmt.Printf("input state-objects %d rounds %d\n", objects, rounds)
	c, stop, err := populated(ctx, dir, population.Spec{Objects: objects})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	m, err := measureCheckpoints(ctx, dir, c, rounds)
	if err != nil {
		return err
	}
	b.figure("checkpoint-ratio", m.ratio(), boundCheckpoint)
	b.figure("checkpoint-memory-mib", m.memory, boundMemory)
	f, err := measureChanges(ctx, dir, c, rounds)
	if err != nil {
		return err
	}
	b.figure("checkpoint-after-change-seconds", median(f.delays), boundAfterChange)
	b.figure("checkpoint-change-bytes-share", median(f.shares), boundChangeBytes)
	b.figure("protect-memory-mib", f.memory, boundMemory)
	fmt.Printf("protect at rest: %.0f MiB resident\n", f.idle)
	return nil
}

// stateLarge measures how the cost grows from a tenth of the objects to all of them.
func (b *bench) stateLarge(ctx context.Context, dir string, objects, rounds int) error {
	fmt.Printf("input state-large-objects %d rounds %d\n", objects, rounds)
	var each [2]float64
	for i, n := range []int{objects / 10, objects} {
		err := func() (err error) {
			part := filepath.Join(dir, fmt.Sprint(n))
			if err := os.Mkdir(part, 0o700); err != nil {
				return err
			}
			c, stop, err := populated(ctx, part, population.Spec{Objects: n, Namespaces: 10})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			m, err := measureCheckpoints(ctx, part, c, rounds)
			if err != nil {
				return err
			}
			each[i] = median(m.ours) / float64(n)
			if n == objects {
				b.figure(fmt.Sprintf("checkpoint-%dk-ratio", n/1000), m.ratio(), boundCheckpoint)
				b.figure(fmt.Sprintf("checkpoint-%dk-memory-mib", n/1000), m.memory, boundMemory)
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	b.figure(fmt.Sprintf("checkpoint-%dk-time-per-object-ratio", objects/1000), each[1]/each[0], boundLinear)
	return nil
}

// cluster is a populated API server.
type cluster struct {
	spec       population.Spec
	client     *kube.Client
	kubeconfig string
}

func populated(ctx context.Context, dir string, spec population.Spec) (*cluster, func() error, error) {
	binary, err := apiserver.Binary()
	if err != nil {
		return nil, nil, err
	}
	home := filepath.Join(dir, "cluster")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, nil, err
	}
	server, err := apiserver.Start(ctx, binary, home)
	if err != nil {
		return nil, nil, err
	}
	c := &cluster{spec: spec, kubeconfig: server.Kubeconfig}
	c.client, err = kube.Connect(ctx, dr.Site{Name: "bench", Cluster: dr.Cluster{Kubeconfig: server.Kubeconfig}})
	if err == nil {
		err = population.Make(ctx, c.client, spec)
	}
	if err != nil {
		return nil, nil, errors.Join(err, server.Stop())
	}
	return c, server.Stop, nil
}

// checkpoints are the measurements of full checkpoints and of their floor, taken in turns.
type checkpoints struct {
	floor, ours []float64 // seconds
	memory      float64   // MiB: the most that any of ours had resident
	stored      int64     // bytes of a first checkpoint
}

func (m checkpoints) ratio() float64 { return median(m.ours) / median(m.floor) }

func measureCheckpoints(ctx context.Context, dir string, c *cluster, rounds int) (checkpoints, error) {
	var m checkpoints
	for i := range rounds {
		floor, err := work[listed](ctx, "list", task{Kubeconfig: c.kubeconfig, Namespaces: c.spec.Names()})
		if err != nil {
			return m, err
		}
		if floor.Objects < c.spec.Objects {
			return m, fmt.Errorf("the floor listed %d objects of %d", floor.Objects, c.spec.Objects)
		}
		vault := filepath.Join(dir, fmt.Sprintf("vault-%d", i))
		ours, err := work[captured](ctx, "checkpoint", task{Kubeconfig: c.kubeconfig, Namespaces: c.spec.Names(), Vault: vault})
		if err != nil {
			return m, err
		}
		if ours.Objects < c.spec.Objects || len(ours.Missing) > 0 {
			return m, fmt.Errorf("captured %d objects of %d; missing: %v", ours.Objects, c.spec.Objects, ours.Missing)
		}
		if err := os.RemoveAll(vault); err != nil {
			return m, err
		}
		fmt.Printf("checkpoint floor %.2f s ours %.2f s, %.0f MiB resident, %.1f MiB stored\n", floor.Seconds, ours.Seconds, ours.MiB, float64(ours.Stored)/(1<<20))
		m.floor, m.ours = append(m.floor, floor.Seconds), append(m.ours, ours.Seconds)
		m.memory, m.stored = max(m.memory, ours.MiB), ours.Stored
	}
	return m, nil
}

// work lets a process of its own do a task, so that its memory can be told from that of others.
func work[T any](ctx context.Context, kind string, t task) (T, error) {
	var result T
	self, err := os.Executable()
	if err != nil {
		return result, err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return result, err
	}
	cmd := exec.CommandContext(ctx, self, "-work", kind, string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return result, fmt.Errorf("%s: %w", kind, err)
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return result, fmt.Errorf("read the result of %s: %w", kind, err)
	}
	return result, nil
}
