package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
	"lifeboat.dev/lifeboat/internal/wire"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

// task is what a process of its own does.
type task struct {
	Kubeconfig string
	Namespaces []string
	Vault      string
	Snapshot   string // to be restored
	Objects    int
}

// listed is the floor of a checkpoint.
type listed struct {
	Objects int
	Seconds float64
}

// captured is a checkpoint.
type captured struct {
	Objects int
	Seconds float64
	MiB     float64 // the most that was resident
	Stored  int64
	Missing []string
}

// doWork does a task and prints its result.
func doWork(ctx context.Context, kind, raw string, out io.Writer) error {
	var t task
	if err := json.Unmarshal([]byte(raw), &t); err != nil {
		return err
	}
	c, err := kube.Connect(ctx, dr.Site{Name: "bench", Cluster: dr.Cluster{Kubeconfig: t.Kubeconfig}})
	if err != nil {
		return err
	}
	if kind == "protect" {
		return protect(ctx, t, out)
	}
	var result any
	switch kind {
	case "list":
		result, err = listAll(ctx, c, t)
	case "checkpoint":
		result, err = checkpoint(ctx, c, t)
	case "create":
		result, err = createAll(ctx, c, t)
	case "restore":
		result, err = restoreAll(ctx, c, t)
	default:
		err = fmt.Errorf("there is no work %q", kind)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

const (
	pageSize = 500 // as capture has them
	parallel = 16
)

// listAll is a bare parallel paged list of the population, decoded.
func listAll(ctx context.Context, c *kube.Client, t task) (listed, error) {
	kinds := map[schema.GroupVersionResource]bool{}
	for i := range 60 {
		kinds[population.Spec{}.At(i).Resource] = true
	}
	var objects atomic.Int64
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, ns := range t.Namespaces {
		for kind := range kinds {
			g.Go(func() error {
				opts := metav1.ListOptions{Limit: pageSize}
				for {
					page, err := c.Dynamic.Resource(kind).Namespace(ns).List(ctx, opts)
					if err != nil {
						return err
					}
					objects.Add(int64(len(page.Items)))
					if opts.Continue = page.GetContinue(); opts.Continue == "" {
						return nil
					}
				}
			})
		}
	}
	err := g.Wait()
	return listed{Objects: int(objects.Load()), Seconds: time.Since(began).Seconds()}, err
}

// checkpoint captures the population into a new repository.
func checkpoint(ctx context.Context, c *kube.Client, t task) (captured, error) {
	r, err := newRepo(ctx, t.Vault)
	if err != nil {
		return captured{}, err
	}
	began := time.Now()
	cp, err := wire.TakeCheckpoint(ctx, r, c, capture.Scope{Application: "bench", Namespaces: t.Namespaces}, repo.Snapshot{})
	took := time.Since(began).Seconds()
	if err != nil {
		return captured{}, err
	}
	mib, err := memoryOf(os.Getpid(), "VmHWM")
	return captured{Objects: cp.Found.Objects, Seconds: took, MiB: mib, Stored: cp.Stored, Missing: cp.Found.Missing}, err
}

func newRepo(ctx context.Context, dir string) (*repo.Repo, error) {
	store, err := blob.CreateFile(dir)
	if err != nil {
		return nil, err
	}
	return repo.Init(ctx, store, []byte("bench"))
}

// memoryOf is a process's memory in MiB: resident now (VmRSS), or the most that ever was (VmHWM).
func memoryOf(pid int, which string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, which+": %f kB", &kib); n == 1 {
			return kib / 1024, nil
		}
	}
	return 0, errors.New("the system does not say how much memory was resident")
}
