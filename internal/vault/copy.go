package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// parts are what a vault consists of, in the order in which a copy of it grows: what is named comes before
// what names it, so that the copy is a vault at any instant. They are listed the other way round, so that
// all that a listed object names is listed too.
func parts() []string {
	return []string{"repo/keys/", "repo/config", "repo/data/", "repo/index/", "repo/snapshots/", logPrefix, controlPrefix}
}

// copiers is how many objects are copied at the same time: a pack of each is in memory.
const copiers = 4

// rounds is how often a copy looks again at a vault that is pruned meanwhile.
const rounds = 3

// CopyResult is what a copy did.
type CopyResult struct {
	Objects int      `json:"objects"` // written to the replica
	Bytes   int64    `json:"bytes"`
	Removed int      `json:"removed"`           // because the vault was pruned of them
	Damaged []string `json:"damaged,omitempty"` // not copied: what the vault holds is not what was written
}

// open opens the storage of a replica for the copy, and makes sure that it holds this vault or
// nothing. It is not a vault yet where nothing was ever copied.
func (v Replicas) open(ctx context.Context, r dr.Replica) (*Replica, error) {
	at := v.in.At(r)
	store, err := blob.Open(ctx, at.Location, options(at, nil))
	if errors.Is(err, blob.ErrNoDirectory) {
		store, err = blob.Create(ctx, at.Location, options(at, nil))
	}
	if err != nil {
		return nil, unopened(at.Location, err)
	}
	return v.replicaOf(ctx, r.Name, store)
}

func (v Replicas) replicaOf(ctx context.Context, name string, store blob.Store) (*Replica, error) {
	ours, err := v.store.Get(ctx, "repo/config", blob.Range{})
	if err != nil {
		return nil, failed(err, "cannot read the vault at %s", v.Location())
	}
	theirs, err := store.Get(ctx, "repo/config", blob.Range{})
	fresh := errors.Is(err, blob.ErrNotFound)
	switch {
	case fresh:
		// It may have to be the vault one day.
		if err := blob.Verify(ctx, store); err != nil {
			return nil, failed(err, "replica %s cannot take the vault", name)
		}
	case err != nil:
		return nil, failed(err, "cannot read replica %s", name)
	case !bytes.Equal(ours.Data, theirs.Data):
		return nil, dr.Errorf(dr.ClassConflict, nil, "Name an empty place for the replica.", "replica %s at %s holds another vault", name, store.Location())
	}
	return &Replica{name: name, vault: v.Vault, to: &Vault{name: v.name, store: store, repo: v.repo}}, nil
}

// Replica is a copy of a vault at another place.
type Replica struct {
	name  string
	vault *Vault
	to    *Vault // the same repository, in the replica's store
}

// listing is what a store holds of each part.
type listing []map[string]int64

func list(ctx context.Context, s blob.Store) (listing, error) {
	found := make(listing, len(parts()))
	for i, part := range slices.Backward(parts()) {
		found[i] = map[string]int64{}
		for info, err := range s.List(ctx, part) {
			if err != nil {
				return nil, err
			}
			if i == len(found)-1 && local(info.Name) {
				continue
			}
			found[i][info.Name] = info.Size
		}
	}
	return found, nil
}

// Copy brings the replica in step. It goes on where an earlier one was broken off, writes nothing that is
// there, and checks what is named by its hash. Nothing is removed because it is missing in the vault:
// only what the vault's own record of a prune names, and keys that were taken away.
// Errors: *dr.Error; of class conflict when the replica knows a later epoch than the vault.
func (r *Replica) Copy(ctx context.Context, say func(format string, args ...any)) (CopyResult, error) {
	var res CopyResult
	if err := r.vault.RecordRemovals(ctx); err != nil {
		return res, err
	}
	for round := 1; ; round++ {
		done, err := r.copyOnce(ctx, say)
		res.Objects, res.Bytes, res.Removed = res.Objects+done.Objects, res.Bytes+done.Bytes, res.Removed+done.Removed
		res.Damaged = done.Damaged
		if errors.Is(err, errVanished) && round < rounds {
			say("the vault is being pruned: looking at it again")
			continue
		}
		if err != nil {
			return res, r.failed(err)
		}
		if len(res.Damaged) > 0 {
			return res, dr.Errorf(dr.ClassIncomplete, repo.ErrDamaged, "Run 'lifeboat vault check', and bring them back from the replica if it has them.",
				"%d objects of the vault are damaged and were not copied to replica %s: %s", len(res.Damaged), r.name, strings.Join(res.Damaged[:min(3, len(res.Damaged))], ", "))
		}
		return res, nil
	}
}

func (r *Replica) failed(err error) error {
	var known *dr.Error
	if errors.As(err, &known) {
		return err
	}
	return failed(err, "cannot bring replica %s in step", r.name)
}

// errVanished: an object was removed between being listed and being read.
var errVanished = errors.New("an object of the vault vanished while it was copied")

// copying is one round of a copy.
type copying struct {
	*Replica
	mu  sync.Mutex
	res CopyResult
}

func (r *Replica) copyOnce(ctx context.Context, say func(format string, args ...any)) (CopyResult, error) {
	have, err := list(ctx, r.to.store)
	if err != nil {
		return CopyResult{}, fmt.Errorf("list the replica: %w", err)
	}
	want, err := list(ctx, r.vault.store)
	if err != nil {
		return CopyResult{}, fmt.Errorf("list the vault: %w", err)
	}
	c := &copying{Replica: r}
	if err := c.precede(ctx, want[len(want)-1]); err != nil {
		return c.res, err
	}
	for i, part := range parts() {
		var missing []string
		for name, size := range want[i] {
			if is, there := have[i][name]; !there || is != size {
				missing = append(missing, name)
			}
		}
		if part == controlPrefix {
			break
		}
		slices.Sort(missing)
		if len(missing) > 0 && part == "repo/data/" {
			say("replica %s: %d packs to copy", r.name, len(missing))
		}
		if err := c.objects(ctx, missing); err != nil {
			return c.res, err
		}
		if len(c.res.Damaged) > 0 && part == "repo/data/" {
			return c.res, nil // what names a pack that is missing must not come to be there
		}
	}
	if err := c.control(ctx, want[len(want)-1], have[len(have)-1]); err != nil {
		return c.res, err
	}
	return c.res, c.remove(ctx, want, have)
}

// objects copies what never changes once it is there.
func (c *copying) objects(ctx context.Context, names []string) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(copiers)
	for _, name := range names {
		group.Go(func() error { return c.object(gctx, name) })
	}
	return group.Wait()
}

func (c *copying) object(ctx context.Context, name string) error {
	o, err := c.vault.store.Get(ctx, name, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%s: %w", name, errVanished)
	}
	if err != nil {
		return err
	}
	addressed := strings.HasPrefix(name, repoPrefix+"/") && len(path.Base(name)) == 2*sha256.Size
	if sum := sha256.Sum256(o.Data); addressed && hex.EncodeToString(sum[:]) != path.Base(name) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.res.Damaged = append(c.res.Damaged, name)
		return nil
	}
	_, err = c.to.store.Put(ctx, name, o.Data, blob.IfAbsent())
	if errors.Is(err, blob.ErrExists) {
		err = c.again(ctx, name, o.Data)
	}
	if err != nil {
		return err
	}
	c.count(len(o.Data))
	return nil
}

// again replaces an object that is there and may be another one than it should be: half of one, or one
// that its storage damaged.
func (c *copying) again(ctx context.Context, name string, data []byte) error {
	is, err := c.to.store.Get(ctx, name, blob.Range{})
	if err != nil || bytes.Equal(is.Data, data) {
		return err
	}
	_, err = c.to.store.Put(ctx, name, data, blob.IfVersion(is.Version))
	return err
}

func (c *copying) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res.Objects++
	c.res.Bytes += int64(n)
}

// control copies the records, in order within a directory, so that a journal has no gap at any instant.
func (c *copying) control(ctx context.Context, want, have map[string]int64) error {
	dirs := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, there := have[name]; !there || mutable(name) {
			dirs[path.Dir(name)] = append(dirs[path.Dir(name)], name)
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, names := range dirs {
		group.Go(func() error {
			for _, name := range names {
				if err := c.recordOf(gctx, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// mutable says which records are not written once and for all.
func mutable(name string) bool {
	dir, file := path.Split(name)
	switch {
	case file == "ownership":
		return true
	case strings.HasPrefix(name, controlPrefix+appsDir+"/"):
		return path.Base(dir) != "points" && path.Base(dir) != "runs"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(name, controlPrefix), "/")
	return !slices.Contains([]string{runsDir, evidenceDir, fleetDir, prunedDir, promotedDir}, first)
}

// local says which records belong to a location, not to the vault.
func local(name string) bool { return name == controlPrefix+movedName }

func (c *copying) recordOf(ctx context.Context, name string) error {
	if path.Base(name) == "ownership" {
		return c.ownership(ctx, name)
	}
	o, err := c.vault.store.Get(ctx, name, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%s: %w", name, errVanished)
	}
	if err != nil {
		return err
	}
	var body any
	if err := c.vault.decode(name, o.Data, &body); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	is, err := c.to.store.Get(ctx, name, blob.Range{})
	cond := blob.IfVersion(is.Version)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		cond = blob.IfAbsent()
	case err != nil:
		return err
	case bytes.Equal(is.Data, o.Data):
		return nil
	}
	if _, err := c.to.store.Put(ctx, name, o.Data, cond); err != nil && !errors.Is(err, blob.ErrExists) {
		return err
	}
	c.count(len(o.Data))
	return nil
}

// ownership copies who owns an application, without the lease of the moment: that is held at the vault.
func (c *copying) ownership(ctx context.Context, name string) error {
	var ours, theirs dr.Ownership
	if _, err := c.vault.get(ctx, name, &ours); err != nil {
		return err
	}
	version, err := c.to.get(ctx, name, &theirs)
	cond := blob.IfVersion(version)
	switch {
	case errors.Is(err, dr.ErrNotFound):
		cond = blob.IfAbsent()
	case err != nil:
		return err
	}
	if err == nil && theirs.Epoch > ours.Epoch {
		return c.overtaken(name, theirs, ours)
	}
	ours.Lease = nil
	if err == nil && theirs == ours {
		return nil
	}
	if _, err := c.to.put(ctx, name, ours, cond); err != nil {
		return err
	}
	c.count(0)
	return nil
}

func (c *copying) overtaken(name string, theirs, ours dr.Ownership) error {
	return dr.Errorf(dr.ClassConflict, nil, "It was promoted: name its location as the vault's in the fleet file, and never use the old one again.",
		"replica %s knows %s at epoch %d, and the vault at epoch %d", c.name, path.Base(path.Dir(name)), theirs.Epoch, ours.Epoch)
}

// precede refuses to copy over a replica that knows more than the vault, before anything is written.
func (c *copying) precede(ctx context.Context, records map[string]int64) error {
	for _, name := range slices.Sorted(maps.Keys(records)) {
		if path.Base(name) != "ownership" {
			continue
		}
		var ours, theirs dr.Ownership
		_, err := c.to.get(ctx, name, &theirs)
		if errors.Is(err, dr.ErrNotFound) {
			continue
		}
		if err == nil {
			_, err = c.vault.get(ctx, name, &ours)
		}
		if err != nil {
			return err
		}
		if theirs.Epoch > ours.Epoch {
			return c.overtaken(name, theirs, ours)
		}
	}
	return nil
}

// Lag is how far a replica is behind.
type Lag struct {
	Replica  string `json:"replica"`
	Location string `json:"location"`
	Error    string `json:"error,omitempty"` // why it could not be looked at; the rest means nothing then
	Missing  int    `json:"missing"`         // objects that are not there
	Bytes    int64  `json:"missingBytes"`
	// Newest is the newest recovery point there of each application.
	Newest map[string]time.Time `json:"newestRecoveryPoints,omitempty"`
}

// Lag compares the replica with the vault, by names and sizes.
func (r *Replica) Lag(ctx context.Context) (Lag, error) {
	lag := Lag{Replica: r.name, Location: r.to.Location(), Newest: map[string]time.Time{}}
	var have, want listing
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { have, err = list(gctx, r.to.store); return err })
	group.Go(func() (err error) { want, err = list(gctx, r.vault.store); return err })
	if err := group.Wait(); err != nil {
		return lag, failed(err, "cannot compare replica %s with the vault", r.name)
	}
	newest := map[string]string{}
	for i := range want {
		for name, size := range want[i] {
			if is, there := have[i][name]; !there || is != size && !mutable(name) {
				lag.Missing++
				lag.Bytes += size
			}
		}
	}
	for name := range have[len(have)-1] {
		if dir, id := path.Split(name); path.Base(dir) == "points" && id > newest[path.Base(path.Dir(path.Clean(dir)))] {
			newest[path.Base(path.Dir(path.Clean(dir)))] = id
		}
	}
	for app, id := range newest {
		p, err := r.to.Point(ctx, app, id)
		if err != nil {
			return lag, err
		}
		lag.Newest[app] = p.Time
	}
	return lag, nil
}
