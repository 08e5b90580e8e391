// Command bench measures what Lifeboat and its lab cost, a suite at a time, and holds each figure against its
// bound. A floor that a figure is measured against is measured in the same run. It runs the built programs in
// bin/.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The bounds.
const (
	boundReady    = 15.0   // seconds from nothing to two sites that are ready, warm
	boundPSS      = 1536.0 // MiB that two idle sites and what stands around them hold
	boundIdle     = 0.15   // of one core that they use when idle
	boundOverhead = 3.0    // seconds that Lifeboat adds to the achieved RTO of the demo
)

func main() {
	bin := flag.String("bin", "bin", "directory of the built programs")
	settle := flag.Duration("settle", 20*time.Second, "time between ready and the measurement of idling")
	idle := flag.Duration("idle", 30*time.Second, "how long idling is measured")
	runs := flag.Int("runs", 3, "how often the demo is shown; the middle result counts")
	var volume volumeInput
	flag.IntVar(&volume.rounds, "volume-rounds", 3, "how often volumes are copied; the middle result counts")
	flag.Int64Var(&volume.large, "volume-large", 4<<30, "bytes of the large file of the volume suite")
	only := flag.String("suite", "", "run only these suites, separated by commas (default: all)")
	objects := flag.Int("objects", 10_000, "objects of the cluster of suites state and restore; state-large and restore-large have ten times as many")
	rounds := flag.Int("rounds", 5, "how often floors and figures of cluster state are measured in turns")
	worker := flag.String("work", "", "do a task for another bench and print its result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *worker != "" {
		var err error
		if *worker == volumeWork {
			err = doVolumeWork(ctx, flag.Args(), os.Stdout)
		} else {
			err = doWork(ctx, *worker, flag.Arg(0), os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{bin: *bin}
	suites := []suite{
		{"lab", func(ctx context.Context, dir string) error { return b.lab(ctx, dir, *settle, *idle) }},
		{"volume", func(ctx context.Context, dir string) error { return b.volume(ctx, dir, volume) }},
		{"demo", func(ctx context.Context, _ string) error { return b.demo(ctx, *runs) }},
		{"state", func(ctx context.Context, dir string) error { return b.state(ctx, dir, *objects, *rounds) }},
		{"state-large", func(ctx context.Context, dir string) error { return b.stateLarge(ctx, dir, 10**objects, 3) }},
		{"restore", func(ctx context.Context, dir string) error { return b.restore(ctx, dir, *objects, *rounds) }},
		{"restore-large", func(ctx context.Context, dir string) error { return b.restoreLarge(ctx, dir, 10**objects) }},
	}
	if err := runSuites(ctx, suites, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if b.short > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d figures are short of their bounds\n", b.short)
		os.Exit(1)
	}
}

type bench struct {
	bin   string
	short int
}

// suite is a group of figures that are measured together, in a directory of their own.
type suite struct {
	name string
	run  func(ctx context.Context, dir string) error
}

// runSuites runs those of the suites that are asked for, one after the other; a failed one does not keep
// the others from being measured.
func runSuites(ctx context.Context, suites []suite, only string) (err error) {
	fmt.Printf("input cores %d\ninput memory %s\n", runtime.NumCPU(), memory())
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if only != "" && !slices.ContainsFunc(suites, func(s suite) bool { return s.name == name }) {
			return fmt.Errorf("there is no suite %q", name)
		}
	}
	dir, err := os.MkdirTemp("", "lifeboat-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, s := range suites {
		if ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if only != "" && !slices.Contains(wanted, s.name) {
			continue
		}
		fmt.Printf("suite %s\n", s.name)
		part := filepath.Join(dir, s.name)
		failed := os.Mkdir(part, 0o700)
		if failed == nil {
			failed = s.run(ctx, part)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("suite %s: %w", s.name, failed))
		}
	}
	return err
}

// lab measures two sites of processes.
func (b *bench) lab(ctx context.Context, dir string, settle, idle time.Duration) (err error) {
	fmt.Printf("input settle %s idle %s\n", settle, idle)
	dir = filepath.Join(dir, "lab")
	// The first start reads the programs from disk; the second one is what "warm" means.
	if _, err := b.run(ctx, "lifeboat-lab", "up", "--dir", dir); err != nil {
		return err
	}
	if _, err := b.run(ctx, "lifeboat-lab", "down", "--dir", dir); err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.run(ctx, "lifeboat-lab", "up", "--dir", dir); err != nil {
		return err
	}
	b.figure("two-sites-ready-seconds", time.Since(began).Seconds(), boundReady)
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // also after Ctrl-C
		defer cancel()
		_, derr := b.run(bounded, "lifeboat-lab", "down", "--dir", dir)
		err = errors.Join(err, derr)
	}()
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	out, err := b.run(ctx, "lifeboat-lab", "measure", "--dir", dir, "--for", idle.String(), "-o", "json")
	if err != nil {
		return err
	}
	var parts []struct {
		Site     string  `json:"site"`
		PSSBytes float64 `json:"pssBytes"`
		Cores    float64 `json:"cores"`
	}
	if err := json.Unmarshal(out, &parts); err != nil {
		return fmt.Errorf("read the measurement: %w", err)
	}
	var pss, cores float64
	for _, p := range parts {
		pss, cores = pss+p.PSSBytes, cores+p.Cores
	}
	b.figure("two-sites-idle-pss-mib", pss/(1<<20), boundPSS)
	b.figure("two-sites-idle-cores", cores, boundIdle)
	return nil
}

// demo measures what Lifeboat adds to a recovery.
func (b *bench) demo(ctx context.Context, runs int) error {
	fmt.Printf("input demo-runs %d\n", runs)
	var all []float64
	for range runs {
		out, err := b.run(ctx, "lifeboat", "demo", "-o", "json", "--report", os.DevNull)
		if err != nil {
			return err
		}
		var f struct {
			RTO      float64 `json:"achievedRTOSeconds"`
			RPO      float64 `json:"achievedRPOSeconds"`
			TTL      float64 `json:"ttlSeconds"`
			Start    float64 `json:"applicationStartSeconds"`
			Overhead float64 `json:"overheadSeconds"`
			Verified bool    `json:"verified"`
		}
		if err := json.Unmarshal(out, &f); err != nil {
			return fmt.Errorf("read the demo's result: %w", err)
		}
		if !f.Verified {
			return errors.New("a demo was not verified")
		}
		fmt.Printf("demo rto %.2f rpo %.2f ttl %.2f application-start %.2f overhead %.2f\n", f.RTO, f.RPO, f.TTL, f.Start, f.Overhead)
		all = append(all, f.Overhead)
	}
	b.figure("demo-overhead-seconds", median(all), boundOverhead)
	return nil
}

func (b *bench) figure(name string, value, bound float64) {
	verdict := "ok"
	if value > bound {
		verdict = "short"
		b.short++
	}
	fmt.Printf("figure %s %.3g %g %s\n", name, value, bound, verdict)
}

func (b *bench) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, program), args...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, problems.String())
	}
	return out, nil
}

func memory() string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.Join(strings.Fields(line)[1:], " ")
}

func median(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[len(sorted)/2]
}
