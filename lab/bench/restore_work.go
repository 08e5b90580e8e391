package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
	"lifeboat.dev/lifeboat/internal/wire"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

// made is the floor of a restore.
type made struct{ Seconds float64 }

// restored is a restore.
type restored struct {
	Created            int
	Restored, Verified float64 // seconds from the start
	MiB                float64 // the most that was resident
	Processor          float64 // seconds that it used of ours, not of the API server's
}

// createAll is a bare create of the population, with statuses.
func createAll(ctx context.Context, c *kube.Client, t task) (made, error) {
	spec := population.Spec{Objects: t.Objects, Namespaces: len(t.Namespaces)}
	objects := make([]population.Object, t.Objects)
	for i := range objects {
		objects[i] = spec.At(i)
	}
	began := time.Now()
	if err := population.MakeFoundation(ctx, c, spec); err != nil {
		return made{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(population.Workers)
	for _, o := range objects {
		g.Go(func() error { return population.Create(ctx, c, o) })
	}
	err := g.Wait()
	return made{time.Since(began).Seconds()}, err
}

// restoreAll restores a checkpoint and compares every object.
func restoreAll(ctx context.Context, c *kube.Client, t task) (restored, error) {
	store, err := blob.OpenFile(t.Vault)
	if err != nil {
		return restored{}, err
	}
	r, err := repo.Open(ctx, store, []byte("bench"))
	if err != nil {
		return restored{}, err
	}
	opts := restore.Options{Application: "bench", Point: "bench", From: dr.Site{Name: "east"}, To: dr.Site{Name: "bench"}}
	began := time.Now()
	set, err := restore.Load(ctx, wire.Stored(r, t.Snapshot))
	if err != nil {
		return restored{}, err
	}
	out, err := set.Apply(ctx, c, opts, nil)
	if err != nil {
		return restored{}, err
	}
	result := restored{Created: out.Created, Restored: time.Since(began).Seconds()}
	out, err = set.Verify(ctx, c, opts)
	result.Verified = time.Since(began).Seconds()
	if err != nil {
		return result, err
	}
	for _, p := range out.Problems { // no controllers run here
		if !strings.HasPrefix(p, "Deployment ") || !strings.HasSuffix(p, "not yet seen by its controller") {
			return result, fmt.Errorf("not as it was captured: %s", p)
		}
	}
	if out.Unchanged+len(out.Problems) < t.Objects {
		return result, fmt.Errorf("%d objects were compared of %d", out.Unchanged+len(out.Problems), t.Objects)
	}
	if result.Processor, err = processor(); err != nil {
		return result, err
	}
	result.MiB, err = memoryOf(os.Getpid(), "VmHWM")
	return result, err
}

// processor is the processor's time that this process used, in seconds.
func processor() (float64, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("asking how much of the processor was used: %w", err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, nil
}
