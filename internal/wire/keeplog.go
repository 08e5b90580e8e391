package wire

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/postgres"
	"lifeboat.dev/lifeboat/internal/kube"
)

// kept is how far the log of a datastore is kept: without a gap from whole to the end of the piece.
type kept struct {
	whole postgres.LSN
	piece driver.LogPiece
}

// keepLog keeps the log of a datastore until ctx ends. A server that does not answer is waited for.
func (p *protector) keepLog(ctx context.Context, moved context.CancelCauseFunc, client *kube.Client, own dr.Ownership, ds dr.Datastore) {
	d := databases{p.Operation}
	a := &postgres.Archiver{
		Log: d.logs().Open(p.app.Name, ds.Name, own.Epoch), Slot: postgres.SlotName(p.app.Name, ds.Name),
		Beacon: dr.Beacon{Application: p.app.Name, Datastore: ds.Name, Site: own.Site, Epoch: own.Epoch},
		Say:    p.waiting,
		Sealed: func(piece driver.LogPiece, whole postgres.LSN) { p.logReaches(ds.Name, kept{whole, piece}) },
	}
	for {
		err := d.driver(client).Archive(ctx, ds, a)
		if ctx.Err() != nil {
			return
		}
		// Whoever owns the application now decides whose log is kept: the server may be gone because of that.
		if is, _, ownErr := p.vault.Ownership(ctx, p.app.Name); ownErr == nil && (is.Site != own.Site || is.Epoch != own.Epoch) {
			moved(fmt.Errorf("%s belongs to %s now: %w", p.app.Name, is.Site, errMoved))
			return
		}
		p.waiting("%v", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
		}
	}
}

// logReaches notes how far a log is kept; of a piece without a beacon nobody can say of what time it is.
func (p *protector) logReaches(datastore string, k kept) {
	if k.piece.Beacon.Time.IsZero() {
		return
	}
	p.mu.Lock()
	first := p.logs[datastore].piece.To == 0
	p.logs[datastore] = k
	p.mu.Unlock()
	if first {
		p.tell(ProtectEvent{Type: EventLog, Text: fmt.Sprintf("the log of %s is kept, up to %s", datastore, k.piece.Beacon.Time.Format(time.RFC3339))})
	}
}

// withLogs returns copies with what their logs add to them by now; the caller holds mu.
func (p *protector) withLogs(copies []dr.DataPoint) []dr.DataPoint {
	out := slices.Clone(copies)
	for i := range out {
		k, ok := p.logs[out[i].Datastore]
		is := out[i].Postgres
		if !ok || is == nil || k.piece.System != is.System || k.piece.Beacon.Sequence <= out[i].Beacon.Sequence {
			continue
		}
		if !postgres.Continues(is, k.whole, postgres.LSN(k.piece.To)) {
			continue
		}
		further := *is
		further.Until, further.UntilTimeline = postgres.LSN(k.piece.To).String(), k.piece.Timeline
		out[i].Postgres, out[i].Beacon = &further, k.piece.Beacon
	}
	return out
}
