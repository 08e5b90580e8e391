package wire

import (
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/postgres"
)

// TestPointsNameHowFarLogsGo: a recovery point names the log that was kept by then, if that goes on from the
// base backup without a gap.
func TestPointsNameHowFarLogsGo(t *testing.T) {
	t.Parallel()
	const segment = 16 << 20
	base := dr.DataPoint{Datastore: "orders", Snapshot: "s", Beacon: dr.Beacon{Sequence: 5, Time: time.Unix(5, 0)},
		Postgres: &dr.PostgresCopy{System: "1", Timeline: 1, Stop: "0/2000100", SegmentSize: segment, Ended: time.Unix(6, 0)}}
	volume := dr.DataPoint{Datastore: "uploads", Snapshot: "v", Beacon: dr.Beacon{Sequence: 9}}
	reach := func(whole, to postgres.LSN, system string, sequence uint64) kept {
		return kept{whole, driver.LogPiece{System: system, Timeline: 2, To: uint64(to), Beacon: dr.Beacon{Sequence: sequence, Time: time.Unix(int64(sequence), 0)}}}
	}
	for name, c := range map[string]struct {
		log   kept
		until string
	}{
		"without a gap":             {reach(0x2000000, 0x3000400, "1", 8), "0/3000400"},
		"from the segment's end on": {reach(0x3000000, 0x3000400, "1", 8), "0/3000400"},
		"with a gap":                {reach(0x3000001, 0x3000400, "1", 8), ""},
		"not beyond the copy":       {reach(0x2000000, 0x3000000, "1", 8), ""},
		"of another database":       {reach(0x2000000, 0x3000400, "2", 8), ""},
		"older than the copy":       {reach(0x2000000, 0x3000400, "1", 5), ""},
	} {
		p := &protector{logs: map[string]kept{"orders": c.log}}
		got := p.withLogs([]dr.DataPoint{base, volume})
		if got[1] != volume {
			t.Errorf("%s: the volume became %+v", name, got[1])
		}
		if got[0].Postgres.Until != c.until || (c.until != "") != (got[0].Beacon.Sequence == 8) || copied(got[0]) != base.Postgres.Ended {
			t.Errorf("%s: got %+v, %+v, want until %q", name, got[0], got[0].Postgres, c.until)
		}
		if base.Postgres.Until != "" {
			t.Fatalf("%s: the copy itself was changed", name)
		}
	}
}
