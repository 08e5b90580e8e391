package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// logPrefix is where the write-ahead logs of datastores are kept, in sealed parts that never change.
const logPrefix = "log/"

// LogName names a part of a log: a piece, or the history of a timeline.
type LogName struct {
	Application, Datastore string
	Epoch                  uint64
	System                 string // of the database
	Timeline               uint32
	History                bool
	From, To               uint64    // of a piece: its positions
	Time                   time.Time // of a piece: of its beacon; zero: it has none
}

// logHistory is where histories are.
const logHistory = "history"

// Dir is where the parts of a datastore's log under an epoch are.
func (n LogName) Dir() string {
	return fmt.Sprintf("%s/%s/%08d/", n.Application, n.Datastore, n.Epoch)
}

// String is DIR/SYSTEM/TIMELINE/FROM-TO-TIME or DIR/SYSTEM/history/TIMELINE. Numbers are hexadecimal and of
// one length, so that names are in the order of positions; times are in microseconds since 1970.
func (n LogName) String() string {
	if n.History {
		return n.Dir() + fmt.Sprintf("%s/%s/%08X", n.System, logHistory, n.Timeline)
	}
	var at int64
	if !n.Time.IsZero() {
		at = n.Time.UnixMicro()
	}
	return n.Dir() + fmt.Sprintf("%s/%08X/%016X-%016X-%016X", n.System, n.Timeline, n.From, n.To, at)
}

// ParseLogName reads what String wrote.
func ParseLogName(name string) (n LogName, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 6 {
		return n, false
	}
	n.Application, n.Datastore, n.System, n.History = parts[0], parts[1], parts[3], parts[4] == logHistory
	format, text := "%X/%X-%X-%X", parts[4]+"/"+parts[5]
	if n.History {
		format, text = "%X", parts[5]
	}
	var at int64
	values := []any{&n.Timeline, &n.From, &n.To, &at}
	if n.History {
		values = values[:1]
	}
	_, err := fmt.Sscanf(text, format, values...)
	var errEpoch error
	n.Epoch, errEpoch = strconv.ParseUint(parts[2], 10, 64)
	if at != 0 {
		n.Time = time.UnixMicro(at).UTC()
	}
	return n, err == nil && errEpoch == nil && n.String() == name
}

// Logs keeps the logs of datastores, by names that LogName makes.
type Logs struct{ Vault *Vault }

// Put adds a part of a log. One that is there already stays as it is, and is no error: what a log held at
// a position never changes.
func (l Logs) Put(ctx context.Context, name string, plain []byte) error {
	// The name binds what is sealed to its place.
	bound := append(append([]byte(name), '\n'), plain...)
	_, err := l.Vault.store.Put(ctx, logPrefix+name, repo.SealLarge(l.Vault.repo, bound), blob.IfAbsent())
	if err != nil && !errors.Is(err, blob.ErrExists) {
		return failed(err, "cannot write log %s to the vault at %s", name, l.Vault.Location())
	}
	return nil
}

// Get reads a part of a log. Error: dr.ErrNotFound.
func (l Logs) Get(ctx context.Context, name string) ([]byte, error) {
	o, err := l.Vault.store.Get(ctx, logPrefix+name, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("log %s: %w", name, dr.ErrNotFound)
	}
	var plain []byte
	if err == nil {
		plain, err = repo.UnsealLarge(l.Vault.repo, o.Data)
	}
	if err == nil && !bytes.HasPrefix(plain, []byte(name+"\n")) {
		err = fmt.Errorf("%w: it is another part of a log", repo.ErrDamaged)
	}
	if err != nil {
		return nil, failed(err, "cannot read log %s from the vault at %s", name, l.Vault.Location())
	}
	return plain[len(name)+1:], nil
}

// List returns the names that begin with a prefix, in order.
func (l Logs) List(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for info, err := range l.Vault.store.List(ctx, logPrefix+prefix) {
		if err != nil {
			return nil, failed(err, "cannot list the logs of the vault at %s", l.Vault.Location())
		}
		names = append(names, strings.TrimPrefix(info.Name, logPrefix))
	}
	return names, nil
}

// endedLogs returns the parts of logs that no recovery point which stays could use: what lies before the
// oldest base backup of its log, and logs of earlier epochs without any.
func endedLogs(ctx context.Context, v *Vault, points []PointFate) ([]string, error) {
	type log struct {
		application, datastore, system string
		epoch                          uint64
	}
	type datastore struct{ application, datastore string }
	needed := map[log]uint64{} // from there on
	newest := map[datastore]uint64{}
	for _, f := range points {
		for _, d := range f.Point.Data {
			if d.Postgres == nil || !f.Keep {
				continue
			}
			from, err := dr.ParseLogPosition(d.Postgres.Start)
			if err != nil {
				return nil, fmt.Errorf("recovery point %s: %w", f.Point.ID, err)
			}
			l := log{f.Point.Application, d.Datastore, d.Postgres.System, d.Beacon.Epoch}
			if is, ok := needed[l]; !ok || from < is {
				needed[l] = from
			}
			of := datastore{l.application, l.datastore}
			newest[of] = max(newest[of], l.epoch)
		}
	}
	names, err := Logs{v}.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var ended []string
	for _, name := range names {
		n, ok := ParseLogName(name)
		if !ok {
			continue
		}
		from, used := needed[log{n.Application, n.Datastore, n.System, n.Epoch}]
		before := used && !n.History && n.To <= from
		// The log of the newest epoch may be waiting for its first base backup.
		if before || !used && n.Epoch < newest[datastore{n.Application, n.Datastore}] {
			ended = append(ended, name)
		}
	}
	return ended, nil
}

// removeLogs removes parts of logs; what the store retains stays.
func removeLogs(ctx context.Context, v *Vault, names []string) (retained int, err error) {
	err = blob.DeleteAll(ctx, v.store, len(names), func(i int) string { return logPrefix + names[i] }, func(_ int, kept bool) {
		if kept {
			retained++
		}
	})
	if err != nil {
		return retained, failed(err, "cannot remove logs from the vault at %s", v.Location())
	}
	return retained, nil
}

// checkLogs opens every part of the logs, where data is to be read.
func checkLogs(ctx context.Context, v *Vault, report *CheckReport, readData bool) error {
	names, err := Logs{v}.List(ctx, "")
	if err != nil {
		return err
	}
	report.LogParts = len(names)
	if !readData {
		return nil
	}
	for _, name := range names {
		_, err := Logs{v}.Get(ctx, name)
		switch {
		case errors.Is(err, repo.ErrDamaged):
			report.Problems = append(report.Problems, fmt.Sprintf("%s%s: %v", logPrefix, name, err))
		case err != nil && !errors.Is(err, dr.ErrNotFound): // removed meanwhile
			return err
		}
	}
	return nil
}
