package vault

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const prunedDir = "pruned" // control/pruned/NNNNNN

// pruned is the record of what a prune removed, by the names of objects in the vault's store. Replicas
// follow this record alone: that an object is missing in the vault never removes a copy of it.
type pruned struct {
	Time    time.Time `json:"time"`
	Removed []string  `json:"removed"`
}

// removals is a vault's store that notes which data, logs, snapshots and recovery points are deleted on
// purpose.
type removals struct {
	blob.Store
	mu    sync.Mutex
	names []string
}

// Delete implements blob.Store.
func (r *removals) Delete(ctx context.Context, name string) error {
	if err := r.Store.Delete(ctx, name); err != nil {
		return err
	}
	data := strings.HasPrefix(name, "repo/data/") || strings.HasPrefix(name, "repo/index/") || strings.HasPrefix(name, "repo/snapshots/")
	if data || strings.HasPrefix(name, logPrefix) || strings.Contains(name, "/points/") {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.names = append(r.names, name)
	}
	return nil
}

func (r *removals) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := r.names
	r.names = nil
	return names
}

// RecordRemovals writes down what was deleted since it was called last, for the replicas to follow; a prune
// ends with it, however it ends. What a crash keeps it from recording stays in the replicas, unused.
func (v *Vault) RecordRemovals(ctx context.Context) error {
	noting, ok := v.store.(*removals)
	if !ok {
		return nil // a replica, which is only read
	}
	const most = 20_000 // names in a record
	for part := range slices.Chunk(noting.take(), most) {
		if err := appendRecord(ctx, v, prunedDir, pruned{Time: time.Now().UTC(), Removed: part}); err != nil {
			return err
		}
	}
	return nil
}

// appendRecord adds a record to a directory of numbered ones.
func appendRecord(ctx context.Context, v *Vault, dir string, body any) error {
	for {
		names, err := v.list(ctx, controlPrefix+dir)
		if err != nil {
			return err
		}
		_, err = v.put(ctx, controlPrefix+dir+"/"+sequence(len(names)+1), body, blob.IfAbsent())
		if !errors.Is(err, dr.ErrExists) {
			return err
		}
	}
}

// remove follows the prunes of the vault, and takes away keys that no longer open it. What is named goes
// after what names it. What the replica's storage retains stays.
func (c *copying) remove(ctx context.Context, want, have listing) error {
	decided := map[string]bool{}
	extra := 0
	for i, part := range parts() {
		for name := range have[i] {
			if _, there := want[i][name]; !there && part != "repo/config" {
				extra++
			}
		}
	}
	if extra == 0 {
		return nil
	}
	names, err := c.vault.list(ctx, controlPrefix+prunedDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		var p pruned
		if _, err := c.vault.get(ctx, controlPrefix+prunedDir+"/"+name, &p); err != nil {
			return err
		}
		for _, removed := range p.Removed {
			decided[removed] = true
		}
	}
	for i, part := range slices.Backward(parts()) {
		for _, name := range slices.Sorted(maps.Keys(have[i])) {
			_, there := want[i][name]
			// The vault was just opened with one of its keys, so that its list of them is not empty by mistake.
			key := part == "repo/keys/" && len(want[i]) > 0
			if there || !decided[name] && !key || strings.HasPrefix(name, "repo/config") {
				continue
			}
			err := c.to.store.Delete(ctx, name)
			if errors.Is(err, blob.ErrRetained) {
				continue
			}
			if err != nil {
				return err
			}
			c.res.Removed++
		}
	}
	return nil
}
