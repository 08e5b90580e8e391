package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Store holds parts of logs by name; vault.Logs is one.
type Store interface {
	// Put adds a part, durably. One that is there already stays, and is no error.
	Put(ctx context.Context, name string, data []byte) error
	// Get reads a part. Error: dr.ErrNotFound.
	Get(ctx context.Context, name string) ([]byte, error)
	// List returns the names that begin with a prefix, in order.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Logs implements driver.Logs in a store.
type Logs struct{ Store Store }

var _ driver.Logs = Logs{}

// Open implements driver.Logs.
func (l Logs) Open(application, datastore string, epoch uint64) driver.Log {
	return &log{store: l.Store, of: vault.LogName{Application: application, Datastore: datastore, Epoch: epoch}}
}

// log is the log of a datastore under one epoch.
type log struct {
	store Store
	of    vault.LogName
}

func (l *log) name(p driver.LogPiece) string {
	n := l.of
	n.System, n.Timeline, n.From, n.To, n.Time = p.System, p.Timeline, p.From, p.To, p.Beacon.Time
	return n.String()
}

// Append implements driver.Log.
func (l *log) Append(ctx context.Context, p driver.LogPiece, data []byte) error {
	if uint64(len(data)) != p.To-p.From {
		return fmt.Errorf("a piece of log from %X to %X has %d bytes", p.From, p.To, len(data))
	}
	head, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return l.store.Put(ctx, l.name(p), append(append(head, '\n'), data...))
}

// Pieces implements driver.Log.
func (l *log) Pieces(ctx context.Context) ([]driver.LogPiece, error) {
	names, err := l.store.List(ctx, l.of.Dir())
	if err != nil {
		return nil, err
	}
	pieces := make([]driver.LogPiece, 0, len(names))
	for _, name := range names {
		if n, ok := vault.ParseLogName(name); ok && !n.History {
			pieces = append(pieces, driver.LogPiece{System: n.System, Timeline: n.Timeline, From: n.From, To: n.To, Beacon: dr.Beacon{Time: n.Time}})
		}
	}
	return pieces, nil
}

// Read implements driver.Log.
func (l *log) Read(ctx context.Context, p driver.LogPiece) (driver.LogPiece, []byte, error) {
	raw, err := l.store.Get(ctx, l.name(p))
	if err != nil {
		return p, nil, err
	}
	head, data, _ := bytes.Cut(raw, []byte("\n"))
	var is driver.LogPiece
	if err := json.Unmarshal(head, &is); err != nil || is.From != p.From || uint64(len(data)) != is.To-is.From {
		return p, nil, fmt.Errorf("log %s: %w", l.name(p), repo.ErrDamaged)
	}
	return is, data, nil
}

// PutHistory implements driver.Log.
func (l *log) PutHistory(ctx context.Context, system string, timeline uint32, text []byte) error {
	n := l.of
	n.System, n.Timeline, n.History = system, timeline, true
	return l.store.Put(ctx, n.String(), text)
}

// Histories implements driver.Log.
func (l *log) Histories(ctx context.Context, system string) (map[uint32][]byte, error) {
	of := l.of
	of.System, of.History = system, true
	names, err := l.store.List(ctx, path.Dir(of.String())+"/")
	if err != nil {
		return nil, err
	}
	histories := map[uint32][]byte{}
	for _, name := range names {
		n, ok := vault.ParseLogName(name)
		if !ok || !n.History {
			continue
		}
		if histories[n.Timeline], err = l.store.Get(ctx, name); err != nil {
			return nil, err
		}
	}
	return histories, nil
}
