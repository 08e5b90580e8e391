package wire

import (
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestNextBackup(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	last := at("2026-03-28T10:20:00Z")
	for _, c := range []struct {
		schedule dr.Schedule
		last     time.Time
		want     time.Time
	}{
		{dr.Schedule{}, last, time.Time{}},
		{dr.Schedule{Every: time.Hour}, last, at("2026-03-28T11:20:00Z")},
		{dr.Schedule{Cron: "0 3 * * *"}, last, at("2026-03-29T03:00:00Z")},
		{dr.Schedule{Cron: "0 3 * * *"}, last.In(time.FixedZone("far", 13*3600)), at("2026-03-29T03:00:00Z")}, // in UTC wherever it runs
		{dr.Schedule{Cron: "CRON_TZ=Asia/Tokyo 0 3 * * *"}, last, at("2026-03-28T18:00:00Z")},
		{dr.Schedule{Cron: "@daily"}, last, at("2026-03-29T00:00:00Z")},
	} {
		got, err := next(c.schedule, c.last)
		if err != nil || !got.Equal(c.want) {
			t.Errorf("%+v after %s: %s, want %s (%v)", c.schedule, c.last, got, c.want, err)
		}
	}
	// Never backed up: it is due, however many times were missed.
	for _, s := range []dr.Schedule{{Every: time.Hour}, {Cron: "0 3 * * *"}} {
		if got, err := next(s, time.Time{}); err != nil || got.IsZero() || got.After(time.Now()) {
			t.Errorf("%+v after never: %s (%v)", s, got, err)
		}
	}
	if _, err := next(dr.Schedule{Cron: "nonsense"}, last); err == nil {
		t.Error("nonsense is a schedule")
	}
}

func TestDataOfAPoint(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 28, 10, 0, 0, 0, time.UTC)
	copied := func(datastore string, sequence uint64, at time.Time) dr.DataPoint {
		return dr.DataPoint{Datastore: datastore, Snapshot: datastore, Beacon: dr.Beacon{Sequence: sequence, Time: at}}
	}
	p := &protector{Operation: &Operation{app: &dr.Application{Name: "shop", Data: []dr.Datastore{{Name: "orders"}, {Name: "uploads"}, {Name: "new"}}}}}
	p.takeData([]dr.RecoveryPoint{
		{Data: []dr.DataPoint{copied("orders", 1, began.Add(-3*time.Hour)), copied("uploads", 1, began.Add(-3*time.Hour))}},
		{Data: []dr.DataPoint{copied("orders", 2, began.Add(-time.Hour)), copied("gone", 7, began)}},
	})
	point := dr.RecoveryPoint{Site: "east", Started: began, Time: began}
	p.addData(&point)
	if len(point.Data) != 2 || point.Data[0].Beacon.Sequence != 2 || point.Data[1].Datastore != "uploads" {
		t.Errorf("data %+v", point.Data)
	}
	if !point.Time.Equal(began.Add(-3*time.Hour)) || !point.Started.Equal(began) {
		t.Errorf("the point is of %s", point.Time)
	}
	if point.Complete() || point.Missing[0] != "datastore new: it was not copied yet at site east" {
		t.Errorf("missing %v", point.Missing)
	}
}
