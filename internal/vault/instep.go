package vault

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Replicas are a vault's replicas.
type Replicas struct {
	*Vault
	in dr.Vault
}

// ReplicasOf returns the replicas of an open vault, as the fleet file declares them.
func ReplicasOf(v *Vault, in dr.Vault) Replicas { return Replicas{v, in} }

// Copied is what became of one replica.
type Copied struct {
	Replica string `json:"replica"`
	CopyResult
	Error string `json:"error,omitempty"`
	Err   error  `json:"-"`
}

// InStep copies the vault to its replicas, or to the one of that name, one after the other. A replica that
// fails holds up no other one.
func (v Replicas) InStep(ctx context.Context, only string, say func(format string, args ...any)) []Copied {
	var all []Copied
	for _, r := range v.in.Replicas {
		if only != "" && r.Name != only {
			continue
		}
		c := Copied{Replica: r.Name}
		replica, err := v.open(ctx, r)
		if err == nil {
			c.CopyResult, err = replica.Copy(ctx, say)
		}
		if err != nil {
			c.Err, c.Error = err, err.Error()
		}
		all = append(all, c)
	}
	return all
}

// lagDeadline bounds the look at a replica.
const lagDeadline = 20 * time.Second

// Lags says how far each replica is behind. One that cannot be looked at says why.
func (v Replicas) Lags(ctx context.Context) []Lag {
	all := make([]Lag, len(v.in.Replicas))
	var group errgroup.Group
	for i, r := range v.in.Replicas {
		group.Go(func() error {
			ctx, cancel := context.WithTimeoutCause(ctx, lagDeadline, fmt.Errorf("it was not looked through within %v", lagDeadline))
			defer cancel()
			all[i] = v.lag(ctx, r)
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return all
}

func (v Replicas) lag(ctx context.Context, r dr.Replica) Lag {
	lag := Lag{Replica: r.Name, Location: r.Location}
	store, err := openPlace(ctx, v.in.At(r), nil)
	if err == nil {
		replica := &Replica{name: r.Name, vault: v.Vault, to: &Vault{name: v.name, store: store, repo: v.repo}}
		lag, err = replica.Lag(ctx)
		lag.Location = r.Location
	}
	if err != nil {
		lag.Error = err.Error()
	}
	return lag
}
