package vault

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// Records of a location's fate.
const (
	movedName   = "moved"    // control/moved: the vault is elsewhere now; of this location alone
	promotedDir = "promoted" // control/promoted/NNNNNN
)

// epochLeap is what a promotion raises epochs to a multiple of. What the lost location did after its last
// copy is not known here; nothing was moved so many times meanwhile.
const epochLeap = 1000

// oldPatience bounds the try to reach a location that is said to be lost.
const oldPatience = 10 * time.Second

// Promotion is the record of a replica's becoming the vault.
type Promotion struct {
	From   string            `json:"from"`
	To     string            `json:"to"`
	Reason string            `json:"reason"`
	By     string            `json:"by"`
	Time   time.Time         `json:"time"`
	Epochs map[string]uint64 `json:"epochs"` // raised to these
	// Retired says that the old location answered and knows that it is no longer the vault.
	Retired bool `json:"retired"`
}

// moved is the body of control/moved.
type moved struct {
	To        string    `json:"to"` // "" when the vault came back here
	Reason    string    `json:"reason"`
	Promotion time.Time `json:"promotion"`
}

// authority is a vault's location as the one place where ownership counts.
type authority struct{ *Vault }

// moved refuses to work with a location that is no longer the vault.
func (v authority) moved(ctx context.Context) error {
	var m moved
	_, err := v.get(ctx, controlPrefix+movedName, &m)
	switch {
	case errors.Is(err, dr.ErrNotFound), err == nil && m.To == "":
		return nil
	case err != nil:
		return err
	}
	if _, reading := v.store.(readOnly); reading {
		v.warnings = append(v.warnings, fmt.Sprintf("the vault moved to %s at %s: this place is only as new as its last copy", m.To, m.Promotion.Format(time.RFC3339)))
		return nil
	}
	return dr.Errorf(dr.ClassConflict, nil, "Name that location as the vault's in the fleet file; this one may become its replica.",
		"the vault at %s was moved to %s at %s (%s)", v.Location(), m.To, m.Promotion.Format(time.RFC3339), m.Reason)
}

// setMoved writes control/moved.
func (v authority) setMoved(ctx context.Context, m moved) error {
	name := controlPrefix + movedName
	var is moved
	version, err := v.get(ctx, name, &is)
	switch {
	case errors.Is(err, dr.ErrNotFound) && m.To == "":
		return nil
	case errors.Is(err, dr.ErrNotFound):
		_, err = v.put(ctx, name, m, blob.IfAbsent())
	case err == nil && is.To != m.To:
		_, err = v.put(ctx, name, m, blob.IfVersion(version))
	}
	return err
}

// Promote makes a replica the vault: every epoch is raised there, so that nobody who still goes by the old
// location can act, and the reason is recorded. Where the old location answers it is told first, what runs
// there loses its lease, and what it knows is copied. The fleet file is left to its owner.
// Errors: *dr.Error. Promote may be called again after any of them.
func Promote(ctx context.Context, v dr.Vault, r dr.Replica, reason, by string, say func(format string, args ...any)) (Promotion, error) {
	p := Promotion{From: v.Location, To: r.Location, Reason: reason, By: by, Time: time.Now().UTC(), Epochs: map[string]uint64{}}
	key, err := ReadKeyFile(v.EncryptionKey.File)
	if err != nil {
		return p, err
	}
	in := v.At(r)
	store, err := blob.Open(ctx, in.Location, options(in, say))
	if err != nil {
		return p, unopened(in.Location, err)
	}
	to, err := openStore(ctx, in, store, key)
	if err != nil {
		return p, err
	}
	return authority{to}.promote(ctx, v, r.Name, p, say)
}

func (v authority) promote(ctx context.Context, in dr.Vault, replica string, p Promotion, say func(format string, args ...any)) (Promotion, error) {
	if err := blob.Verify(ctx, v.store); err != nil {
		return p, failed(err, "replica %s cannot become the vault", replica)
	}
	asked, cancel := context.WithTimeout(ctx, oldPatience)
	old, err := open(asked, in)
	cancel()
	if err == nil {
		if err := (authority{old}).retire(ctx, v, replica, p, say); err != nil {
			return p, fmt.Errorf("take leave of %s: %w", in.Location, err)
		}
		p.Retired = true
	} else {
		say("warning: %s does not answer, so it does not know that it is no longer the vault (%v): let nobody use it again", in.Location, err)
	}
	if err := v.raise(ctx, p); err != nil {
		return p, err
	}
	if err := v.setMoved(ctx, moved{Promotion: p.Time}); err != nil {
		return p, err
	}
	return p, appendRecord(ctx, v.Vault, promotedDir, p)
}

// retire ends the work that goes by this location and gives what it knows to the replica.
func (v authority) retire(ctx context.Context, to authority, replica string, p Promotion, say func(format string, args ...any)) error {
	if err := v.setMoved(ctx, moved{To: p.To, Reason: p.Reason, Promotion: p.Time}); err != nil {
		return err
	}
	say("%s answers: bringing the replica in step with it first", v.Location())
	owned, err := v.owned(ctx)
	if err != nil {
		return err
	}
	for _, app := range owned {
		if _, err := v.takeOver(ctx, app, p.Reason, func(epoch uint64) uint64 { return epoch + 1 }); err != nil {
			return err
		}
	}
	r := &Replica{name: replica, vault: v.Vault, to: to.Vault}
	if ahead, err := r.ahead(ctx); err != nil || ahead {
		return err // promoted before: there is nothing to learn from here
	}
	_, err = r.Copy(ctx, say)
	return err
}

// ahead says whether the replica knows a later epoch than the vault.
func (r *Replica) ahead(ctx context.Context) (bool, error) {
	owned, err := authority{r.to}.owned(ctx)
	if err != nil {
		return false, err
	}
	for _, app := range owned {
		theirs, _, err := r.to.Ownership(ctx, app)
		if err != nil {
			return false, err
		}
		ours, _, err := r.vault.Ownership(ctx, app)
		if err != nil && !errors.Is(err, dr.ErrNotFound) {
			return false, err
		}
		if theirs.Epoch > ours.Epoch {
			return true, nil
		}
	}
	return false, nil
}

func (v authority) raise(ctx context.Context, p Promotion) error {
	owned, err := v.owned(ctx)
	if err != nil {
		return err
	}
	for _, app := range owned {
		epoch, err := v.takeOver(ctx, app, p.Reason, func(epoch uint64) uint64 { return (epoch/epochLeap + 1) * epochLeap })
		if err != nil {
			return err
		}
		p.Epochs[app] = epoch
	}
	return nil
}

// owned lists the applications that have an ownership record.
func (v authority) owned(ctx context.Context) ([]string, error) {
	dir := controlPrefix + appsDir
	var apps []string
	for info, err := range v.store.List(ctx, dir+"/") {
		if err != nil {
			return nil, failed(err, "cannot list %s of the vault at %s", dir, v.Location())
		}
		if parent, file := path.Split(info.Name); file == "ownership" {
			apps = append(apps, path.Base(parent))
		}
	}
	return apps, nil
}

// takeOver raises an epoch and ends the lease of whoever holds it.
func (v authority) takeOver(ctx context.Context, app, reason string, raised func(uint64) uint64) (uint64, error) {
	for {
		o, token, err := v.Ownership(ctx, app)
		if err != nil {
			return 0, err
		}
		o.Epoch, o.BreakGlass, o.Lease, o.Changed = raised(o.Epoch), reason, nil, time.Now().UTC()
		_, err = v.PutOwnership(ctx, o, token)
		if !errors.Is(err, dr.ErrStale) {
			return o.Epoch, err
		}
	}
}
