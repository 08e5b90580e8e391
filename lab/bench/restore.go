package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/repo"
	"lifeboat.dev/lifeboat/internal/wire"
	"lifeboat.dev/lifeboat/lab/internal/apiserver"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

// The bounds of the figures of restores.
const (
	boundRestore  = 1.25 // times a bare 32-way create of the same objects, with their statuses
	boundVerified = 1.6  // times the same, with every object compared afterwards
)

// restore measures restores of realistic objects into an empty cluster.
func (b *bench) restore(ctx context.Context, dir string, objects, rounds int) error {
	fmt.Printf("input restore-objects %d rounds %d\n", objects, rounds)
	m, err := measureRestores(ctx, dir, population.Spec{Objects: objects}, rounds)
	if err != nil {
		return err
	}
	b.figure("restore-ratio", median(m.restored)/median(m.floor), boundRestore)
	b.figure("restore-verified-ratio", median(m.verified)/median(m.floor), boundVerified)
	b.figure("restore-memory-mib", m.memory, boundMemory)
	return nil
}

// restoreLarge measures how the cost grows from a tenth of the objects to all of them. A bare create shows
// what of it is the API server's.
func (b *bench) restoreLarge(ctx context.Context, dir string, objects int) error {
	rounds := []int{3, 1} // what is short is at the mercy of the moment
	fmt.Printf("input restore-large-objects %d rounds %d and %d\n", objects, rounds[0], rounds[1])
	var floor, ours [2]float64
	for i, n := range []int{objects / 10, objects} {
		part := filepath.Join(dir, fmt.Sprint(n))
		if err := os.Mkdir(part, 0o700); err != nil {
			return err
		}
		m, err := measureRestores(ctx, part, population.Spec{Objects: n, Namespaces: 10}, rounds[i])
		if err != nil {
			return err
		}
		floor[i], ours[i] = median(m.floor)/float64(n), median(m.verified)/float64(n)
		if n == objects {
			b.figure(fmt.Sprintf("restore-%dk-memory-mib", n/1000), m.memory, boundMemory)
		}
	}
	fmt.Printf("restore time an object, of ten times as many: floor %.2f times, ours %.2f times\n", floor[1]/floor[0], ours[1]/ours[0])
	b.figure(fmt.Sprintf("restore-%dk-time-per-object-ratio", objects/1000), ours[1]/ours[0]/max(1, floor[1]/floor[0]), boundLinear)
	return nil
}

// restores are the measurements of restores and of their floor, taken in turns.
type restores struct {
	floor, restored, verified []float64 // seconds
	memory                    float64   // MiB: the most that any of ours had resident
}

// measureRestores gives each floor and each restore an API server of its own, so that none finds warm what
// another had to warm up.
func measureRestores(ctx context.Context, dir string, spec population.Spec, rounds int) (restores, error) {
	var m restores
	t := task{Namespaces: spec.Names(), Vault: filepath.Join(dir, "vault"), Objects: spec.Objects}
	for i := range rounds {
		err := withServer(ctx, filepath.Join(dir, fmt.Sprintf("floor-%d", i)), func(kubeconfig string) error {
			t.Kubeconfig = kubeconfig
			floor, err := work[made](ctx, "create", t)
			if err != nil {
				return err
			}
			m.floor = append(m.floor, floor.Seconds)
			if i == 0 {
				t.Snapshot, err = checkpointed(ctx, t)
			}
			return err
		})
		if err != nil {
			return m, err
		}
		var processor float64
		err = withServer(ctx, filepath.Join(dir, fmt.Sprintf("ours-%d", i)), func(kubeconfig string) error {
			t.Kubeconfig = kubeconfig
			ours, err := work[restored](ctx, "restore", t)
			if err != nil {
				return err
			}
			if ours.Created < spec.Objects {
				return fmt.Errorf("%d objects were restored of %d", ours.Created, spec.Objects)
			}
			processor = ours.Processor
			m.restored, m.verified, m.memory = append(m.restored, ours.Restored), append(m.verified, ours.Verified), max(m.memory, ours.MiB)
			return nil
		})
		if err != nil {
			return m, err
		}
		fmt.Printf("restore floor %.2f s ours %.2f s, verified after %.2f s (processor %.2f s, %.0f MiB resident)\n",
			m.floor[i], m.restored[i], m.verified[i], processor, m.memory)
	}
	return m, nil
}

// withServer runs an empty API server while fn does something with it.
func withServer(ctx context.Context, dir string, fn func(kubeconfig string) error) (err error) {
	binary, err := apiserver.Binary()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	server, err := apiserver.Start(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(), os.RemoveAll(dir)) }()
	return fn(server.Kubeconfig)
}

// checkpointed captures what is to be restored.
func checkpointed(ctx context.Context, t task) (string, error) {
	c, err := kube.Connect(ctx, dr.Site{Name: "bench", Cluster: dr.Cluster{Kubeconfig: t.Kubeconfig}})
	if err != nil {
		return "", err
	}
	r, err := newRepo(ctx, t.Vault)
	if err != nil {
		return "", err
	}
	cp, err := wire.TakeCheckpoint(ctx, r, c, capture.Scope{Application: "bench", Namespaces: t.Namespaces}, repo.Snapshot{})
	return cp.Snapshot, err
}
