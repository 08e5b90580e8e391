package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

func TestLogNames(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 25, 10, 30, 0, 123456000, time.UTC)
	for _, n := range []LogName{
		{Application: "shop", Datastore: "orders", Epoch: 7, System: "7421", Timeline: 2, From: 0x16B374D848, To: 0x16B374D900, Time: at},
		{Application: "shop", Datastore: "orders", Epoch: 1, System: "7421", Timeline: 1, From: 0, To: 1},
		{Application: "shop", Datastore: "orders", Epoch: 1, System: "7421", Timeline: 17, History: true},
	} {
		if got, ok := ParseLogName(n.String()); !ok || got != n {
			t.Errorf("%s: read %+v, %v, want %+v", n, got, ok, n)
		}
	}
	for _, s := range []string{"", "shop/orders/00000001/7421/00000001/x", "shop/orders/1/7421/00000001/0000000000000000-0000000000000001-0000000000000000", "a/b/c/d/e/f/g"} {
		if n, ok := ParseLogName(s); ok {
			t.Errorf("%q was read as %+v", s, n)
		}
	}
}

func TestLogsAreSealedAndBoundToTheirNames(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	l := Logs{v}
	for _, text := range []string{"first", "second"} { // the second is too late
		if err := l.Put(t.Context(), "shop/orders/x", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.Get(t.Context(), "shop/orders/x"); err != nil || string(got) != "first" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := l.Get(t.Context(), "shop/orders/y"); !errors.Is(err, dr.ErrNotFound) {
		t.Errorf("a part that is not there: got error %v", err)
	}
	o, err := v.store.Get(t.Context(), logPrefix+"shop/orders/x", blob.Range{})
	if err != nil || strings.Contains(string(o.Data), "first") {
		t.Errorf("it lies open in the store: %q, %v", o.Data, err)
	}
	if _, err := v.store.Put(t.Context(), logPrefix+"shop/orders/y", o.Data, blob.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Get(t.Context(), "shop/orders/y"); !errors.Is(err, repo.ErrDamaged) {
		t.Errorf("a copy of another part: got error %v", err)
	}
	report, err := Check(t.Context(), v, true, nil)
	if err != nil || report.LogParts != 2 || len(report.Problems) != 1 || !strings.Contains(report.Problems[0], "shop/orders/y") {
		t.Errorf("check: %+v, %v", report, err)
	}
}

// TestLogsGoWithTheirPoints: parts go that no recovery point which stays could use, and replicas follow.
func TestLogsGoWithTheirPoints(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	piece := func(epoch uint64, system string, from uint64) string {
		n := LogName{Application: "shop", Datastore: "orders", Epoch: epoch, System: system, Timeline: 1, From: from, To: from + 0x100}
		if err := (Logs{v}).Put(t.Context(), n.String(), []byte(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		return n.String()
	}
	point := func(n int, epoch uint64, start string) {
		p, err := backUp(t.Context(), v, "shop", n)
		if err != nil {
			t.Fatal(err)
		}
		p.Epoch, p.Data[0].Beacon.Epoch = epoch, epoch
		p.Data[0].Postgres = &dr.PostgresCopy{System: "1", Start: start, Stop: start}
		if err := SealPoint(t.Context(), v, p); err != nil {
			t.Fatal(err)
		}
	}
	gone := []string{piece(1, "1", 0x100), piece(2, "1", 0x100), piece(2, "1", 0x200)}
	stays := []string{piece(2, "1", 0x300), piece(2, "1", 0x400), piece(3, "1", 0x100), piece(2, "2", 0x100)}
	point(0, 1, "0/100")
	point(1, 2, "0/100")
	point(2, 2, "0/350") // in the middle of a piece
	to := blob.NewMem()
	copied(t, v, to)
	options := keepLast(1, "shop")
	planned, err := PlanPrune(t.Context(), v, options)
	if err != nil || planned.LogParts != len(gone) {
		t.Errorf("planned to remove %+v, %v", planned, err)
	}
	report, err := Prune(t.Context(), v, options)
	if err != nil || report.LogParts != len(gone) {
		t.Errorf("removed %+v, %v", report, err)
	}
	copied(t, v, to)
	there := replica(t, v, to).to
	slices.Sort(stays)
	for _, at := range []*Vault{v, there} {
		if got, err := (Logs{at}).List(t.Context(), ""); err != nil || !slices.Equal(got, stays) {
			t.Errorf("at %s there are %v, %v, want %v", at.Location(), got, err, stays)
		}
	}
	if report, err := Check(t.Context(), there, true, nil); err != nil || len(report.Problems) > 0 {
		t.Errorf("check of the replica: %+v, %v", report, err)
	}
}
