package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.dev/lifeboat/internal/dr"
)

const oldest = 150000 // the first version whose base backups come as one stream

// Info is what a server says of itself.
type Info struct {
	Version       string // "15.18"
	number        int
	System        string // system identifier
	Timeline      uint32 // of a primary: the one that it writes
	InRecovery    bool
	Position      LSN // up to where its log is flushed, or replayed
	Bytes         int64
	WALLevel      string
	SegmentSize   uint64
	KeepSize      int64  // max_slot_wal_keep_size in MiB; -1: without bound
	DataDirectory string // empty: the role may not see it
	DirectoryMode string
	replication   bool // the role may replicate
}

const inspectSQL = `SELECT current_setting('server_version'), current_setting('server_version_num'), pg_is_in_recovery(),
 (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')),
 current_setting('wal_level'), (SELECT setting::bigint * CASE unit WHEN '8kB' THEN 8192 ELSE 1 END FROM pg_settings WHERE name = 'wal_segment_size'),
 (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
 coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), ''), coalesce(current_setting('data_directory_mode', true), ''),
 (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)`

// Inspect asks a server what it is, without changing anything.
func (s *Server) Inspect(ctx context.Context) (Info, error) {
	c, err := s.connect(ctx, false)
	if err != nil {
		return Info{}, err
	}
	defer closing(ctx, c)
	return s.inspect(ctx, c)
}

func (s *Server) inspect(ctx context.Context, c *pgconn.PgConn) (Info, error) {
	row, err := queryRow(ctx, c, inspectSQL, 10)
	if err != nil {
		return Info{}, s.failed(err, "cannot inspect PostgreSQL, %s", s.Name)
	}
	i := Info{Version: row[0], InRecovery: row[2] == "t", WALLevel: row[4], DataDirectory: row[7], DirectoryMode: row[8], replication: row[9] == "t"}
	i.number, _ = strconv.Atoi(row[1]) // zero is older than all that is supported
	i.Bytes, _ = strconv.ParseInt(row[3], 10, 64)
	i.KeepSize, _ = strconv.ParseInt(row[6], 10, 64)
	if i.SegmentSize, err = strconv.ParseUint(row[5], 10, 64); err != nil || i.SegmentSize == 0 {
		return i, fmt.Errorf("wal_segment_size %q of PostgreSQL, %s, cannot be read", row[5], s.Name)
	}
	return i, nil
}

// lacks says what keeps a server from being protected, with the remedy.
func (s *Server) lacks(i Info) error {
	switch {
	case i.number < oldest:
		return dr.Errorf(dr.ClassUsage, nil, "Upgrade the server to PostgreSQL 15 or newer.", "PostgreSQL %s, %s, is older than what can be protected", i.Version, s.Name)
	case i.WALLevel == "minimal":
		return dr.Errorf(dr.ClassBlocked, nil, "Set wal_level = replica in the server's configuration, and restart it.", "PostgreSQL, %s, writes no log that could be kept: wal_level is minimal", s.Name)
	case !i.replication:
		return dr.Errorf(dr.ClassDenied, nil, fmt.Sprintf("Run in the server: ALTER ROLE %s REPLICATION", s.Credentials.User), "role %s of PostgreSQL, %s, may not replicate", s.Credentials.User, s.Name)
	case i.InRecovery:
		return dr.Errorf(dr.ClassBlocked, nil, "Wait until its recovery has ended; of a standby, name the Service of its primary in the fleet file.", "PostgreSQL, %s, is in recovery and takes no beacon", s.Name)
	}
	return nil
}

// identify asks which database it is and where its log is; c has to be a connection for replication.
func identify(ctx context.Context, c *pgconn.PgConn, i *Info) error {
	row, err := queryRow(ctx, c, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return err
	}
	timeline, err := strconv.ParseUint(row[1], 10, 32)
	if err != nil {
		return fmt.Errorf("timeline %q: %w", row[1], err)
	}
	i.System, i.Timeline = row[0], uint32(timeline)
	i.Position, err = ParseLSN(row[2])
	return err
}
