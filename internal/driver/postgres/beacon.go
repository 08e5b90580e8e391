package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.dev/lifeboat/internal/dr"
)

const beaconTable = `CREATE SCHEMA lifeboat;
COMMENT ON SCHEMA lifeboat IS 'Lifeboat reads off the beacon in here how much data a recovery has lost.';
CREATE TABLE lifeboat.beacon (
 one boolean PRIMARY KEY DEFAULT true CHECK (one),
 application text NOT NULL, datastore text NOT NULL, site text NOT NULL, epoch bigint NOT NULL,
 sequence bigint NOT NULL, time timestamptz NOT NULL) WITH (fillfactor = 20)`

const timeLayout = "2006-01-02 15:04:05.999999Z07"

// placed is a beacon and a position that lies behind its commit.
type placed struct {
	beacon dr.Beacon
	at     LSN
}

// writeBeacon writes the next beacon, with the server's time. Whatever was acknowledged before that time
// lies before the beacon in the log, and so before the position.
func writeBeacon(ctx context.Context, c *pgconn.PgConn, b dr.Beacon) (placed, error) {
	there, err := queryRow(ctx, c, "SELECT to_regclass('lifeboat.beacon') IS NOT NULL", 1)
	if err != nil {
		return placed{}, err
	}
	if there[0] != "t" {
		// Both statements are one transaction. Somebody else may have made them meanwhile.
		if _, err := query(ctx, c, beaconTable); err != nil && !slices.Contains([]string{codeSchemaExists, codeTableExists, codeNotUnique}, code(err)) {
			return placed{}, fmt.Errorf("make the beacon's table: %w", err)
		}
	}
	row, err := queryRow(ctx, c, fmt.Sprintf(`INSERT INTO lifeboat.beacon AS b (application, datastore, site, epoch, sequence, time)
 VALUES (%s, %s, %s, %d, 1, clock_timestamp()) ON CONFLICT (one) DO UPDATE SET application = excluded.application, datastore = excluded.datastore,
 site = excluded.site, epoch = excluded.epoch, sequence = b.sequence + 1, time = clock_timestamp() RETURNING sequence, time`,
		quote(b.Application), quote(b.Datastore), quote(b.Site), b.Epoch), 2)
	if err != nil {
		return placed{}, err
	}
	if b.Sequence, err = strconv.ParseUint(row[0], 10, 64); err == nil {
		b.Time, err = serverTime(row[1])
	}
	if err != nil {
		return placed{}, fmt.Errorf("read the beacon that was written: %w", err)
	}
	if row, err = queryRow(ctx, c, "SELECT pg_current_wal_insert_lsn()", 1); err != nil {
		return placed{}, err
	}
	at, err := ParseLSN(row[0])
	return placed{beacon: b, at: at}, err
}

// ReadBeacon returns the beacon that a server holds. Error: dr.ErrNotFound when it holds none.
func (s *Server) ReadBeacon(ctx context.Context) (dr.Beacon, error) {
	c, err := s.connect(ctx, false)
	if err != nil {
		return dr.Beacon{}, err
	}
	defer closing(ctx, c)
	rows, err := query(ctx, c, "SELECT application, datastore, site, epoch, sequence, time FROM lifeboat.beacon")
	if code(err) == codeNoTable || err == nil && len(rows) == 0 {
		return dr.Beacon{}, fmt.Errorf("beacon of PostgreSQL, %s: %w", s.Name, dr.ErrNotFound)
	}
	if err != nil {
		return dr.Beacon{}, s.failed(err, "cannot read the beacon of PostgreSQL, %s", s.Name)
	}
	row := rows[0]
	b := dr.Beacon{Application: row[0], Datastore: row[1], Site: row[2]}
	b.Epoch, _ = strconv.ParseUint(row[3], 10, 64) // bigint NOT NULL
	b.Sequence, _ = strconv.ParseUint(row[4], 10, 64)
	b.Time, err = serverTime(row[5])
	return b, err
}

func serverTime(text string) (time.Time, error) {
	t, err := time.Parse(timeLayout, text)
	return t.UTC(), err
}
