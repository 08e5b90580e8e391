package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/wire"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

// following are the measurements of checkpoints after a change of one object in a hundred.
type following struct {
	delays []float64 // seconds from the last change until the recovery point is there
	shares []float64 // bytes stored, of the first checkpoint's
	memory float64   // MiB: the most that was resident
	idle   float64   // MiB: resident at the end
}

const (
	interval     = 5 * time.Second // as protect has it
	pointTimeout = 2 * time.Minute
)

// measureChanges lets a process of its own protect the population, changes one object in a hundred, several
// times, and looks when the recovery point is there.
func measureChanges(ctx context.Context, dir string, c *cluster, rounds int) (f following, err error) {
	home := filepath.Join(dir, "protect")
	if err := os.Mkdir(home, 0o700); err != nil {
		return f, err
	}
	raw, err := json.Marshal(task{Kubeconfig: c.kubeconfig, Namespaces: c.spec.Names(), Vault: home})
	if err != nil {
		return f, err
	}
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, self, "-work", "protect", string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return f, err
	}
	if err := cmd.Start(); err != nil {
		return f, err
	}
	points := make(chan wire.ProtectEvent, 100)
	go readPoints(out, points)
	defer func() { err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) }()
	first, _, err := pointOf(ctx, points, c.spec.Objects)
	if err != nil {
		return f, err
	}
	for round := range rounds {
		time.Sleep(interval + time.Second) // the next one is due when something changes
		n, err := population.Change(ctx, c.client, c.spec, 100, round)
		if err != nil {
			return f, err
		}
		last := time.Now()
		point, stored, err := pointOf(ctx, points, n)
		if err != nil {
			return f, err
		}
		delay, share := point.Time.Sub(last).Seconds(), float64(stored)/float64(first.StoredBytes)
		fmt.Printf("change of %d objects: recovery point %.2f s after the last one, %d bytes stored of %d (%.2f %%)\n", n, delay, stored, first.StoredBytes, 100*share)
		f.delays, f.shares = append(f.delays, delay), append(f.shares, share)
	}
	if f.memory, err = memoryOf(cmd.Process.Pid, "VmHWM"); err != nil {
		return f, err
	}
	f.idle, err = memoryOf(cmd.Process.Pid, "VmRSS")
	return f, err
}

// pointOf waits for the recovery point with which this many changes are in, and says what all took to store.
func pointOf(ctx context.Context, points <-chan wire.ProtectEvent, changes int) (wire.ProtectEvent, int64, error) {
	deadline := time.After(pointTimeout)
	var stored int64
	for {
		select {
		case p, ok := <-points:
			if !ok {
				return p, 0, errors.New("protect ended")
			}
			if stored += p.StoredBytes; changes <= p.Changed {
				return p, stored, nil
			}
			changes -= p.Changed
		case <-deadline:
			return wire.ProtectEvent{}, 0, fmt.Errorf("%d changes are in no recovery point after %s", changes, pointTimeout)
		case <-ctx.Done():
			return wire.ProtectEvent{}, 0, context.Cause(ctx)
		}
	}
}

func readPoints(in io.Reader, points chan<- wire.ProtectEvent) {
	defer close(points)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var e wire.ProtectEvent
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Type == wire.EventPoint {
			points <- e
		}
	}
}

// protect protects the population until it is stopped, and prints what happens, a line each.
func protect(ctx context.Context, t task, out io.Writer) error {
	key, location := filepath.Join(t.Vault, "key"), "file://"+filepath.Join(t.Vault, "vault")
	if err := vault.CreateKeyFile(key); err != nil {
		return err
	}
	secret, err := vault.ReadKeyFile(key)
	if err != nil {
		return err
	}
	if err := vault.Init(ctx, dr.Vault{Location: location}, secret, nil); err != nil {
		return err
	}
	fleet := &dr.Fleet{
		Sites:        []dr.Site{{Name: "bench", Cluster: dr.Cluster{Kubeconfig: t.Kubeconfig}}},
		Vaults:       []dr.Vault{{Name: "main", Location: location, EncryptionKey: dr.KeySource{File: key}}},
		Applications: []dr.Application{{Name: "bench", Namespaces: t.Namespaces, Vault: "main", Strategy: dr.BackupRestore, Sites: dr.Placement{Preferred: "bench"}}},
	}
	op, err := wire.Open(ctx, fleet, &fleet.Applications[0], wire.Options{})
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	return op.Protect(ctx, wire.ProtectOptions{Interval: interval, Event: func(e wire.ProtectEvent) { _ = lines.Encode(e) }})
}
