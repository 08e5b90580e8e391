package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.dev/lifeboat/internal/driver"
)

const (
	statusEvery = 5 * time.Second  // what is durable is told, and a sign of life asked for
	silence     = 45 * time.Second // of a server that was asked for one
	lastSeal    = 10 * time.Second // for what is in memory when the stream ends
)

// Messages within a replication stream.
const (
	logData   = 'w'
	keepalive = 'k'
	status    = 'r'
)

// stream follows one timeline of a server's log from a position, and seals it into pieces.
type stream struct {
	*Archiver
	conn     *pgconn.PgConn
	system   string
	timeline uint32
	sealed   LSN // everything before is durable
	buffer   []byte
	since    time.Time // of the first byte in the buffer
	told     time.Time // the server was last told of sealed
	heard    time.Time // the server last sent something
}

func (s *stream) received() LSN { return s.sealed + LSN(len(s.buffer)) }

// follow streams until the timeline ends, and then returns where the next begins. Whatever ends the
// stream, what was received is sealed.
func (s *stream) follow(ctx context.Context) (next uint32, from LSN, err error) {
	command := fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %d", s.Slot, s.sealed, s.timeline)
	if err := send(s.conn, command); err != nil {
		return 0, 0, err
	}
	for streaming := false; !streaming; {
		msg, err := receive(ctx, s.conn, silence)
		if err != nil {
			return 0, 0, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			streaming = true
		case *pgproto3.DataRow: // the timeline ends where the stream was to begin
			return s.successor(ctx, m)
		}
	}
	s.told, s.heard = time.Now(), time.Now()
	done, err := s.pump(ctx)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSeal)
	defer cancel()
	if sealErr := s.seal(bounded); err == nil {
		err = sealErr
	}
	if err != nil || !done {
		return 0, 0, err
	}
	s.conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := s.conn.Frontend().Flush(); err != nil {
		return 0, 0, err
	}
	for {
		msg, err := receive(ctx, s.conn, silence)
		if err != nil {
			return 0, 0, err
		}
		if m, ok := msg.(*pgproto3.DataRow); ok {
			return s.successor(ctx, m)
		}
	}
}

// successor reads which timeline follows, and waits until the server takes the next command.
func (s *stream) successor(ctx context.Context, m *pgproto3.DataRow) (next uint32, from LSN, err error) {
	if len(m.Values) < 2 {
		return 0, 0, errors.New("the server did not say which timeline follows")
	}
	timeline, err := strconv.ParseUint(string(m.Values[0]), 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("the timeline that follows: %w", err)
	}
	if from, err = ParseLSN(string(m.Values[1])); err != nil {
		return 0, 0, err
	}
	for {
		msg, err := receive(ctx, s.conn, silence)
		if err != nil {
			return 0, 0, err
		}
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return uint32(timeline), from, nil
		}
	}
}

// pump takes what the server sends until its timeline ends, which is when done is true.
func (s *stream) pump(ctx context.Context) (done bool, err error) {
	for {
		if err := s.due(ctx); err != nil {
			return false, err
		}
		until, cancel := context.WithDeadline(ctx, s.nextDue())
		msg, err := s.conn.ReceiveMessage(until)
		cancel()
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil && pgconn.Timeout(err) && time.Since(s.heard) < silence:
			continue
		case err != nil && pgconn.Timeout(err):
			return false, fmt.Errorf("the server sent nothing for %s", silence)
		case err != nil:
			return false, err
		}
		s.heard = time.Now()
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return false, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyData:
			err = s.message(m.Data)
		case *pgproto3.CopyDone:
			return true, nil
		case *pgproto3.CommandComplete:
			return false, errors.New("the server ended the stream: it shuts down")
		}
		if err != nil {
			return false, err
		}
	}
}

func (s *stream) nextDue() time.Time {
	at := s.told.Add(statusEvery)
	if seal := s.since.Add(s.Every); len(s.buffer) > 0 && seal.Before(at) {
		at = seal
	}
	return at
}

// due does what is due: seals, and tells the server.
func (s *stream) due(ctx context.Context) error {
	if len(s.buffer) >= s.Most || len(s.buffer) > 0 && time.Since(s.since) >= s.Every {
		if err := s.seal(ctx); err != nil {
			return err
		}
		return s.tell(false)
	}
	if time.Since(s.told) >= statusEvery {
		return s.tell(true)
	}
	return nil
}

func (s *stream) message(data []byte) error {
	switch {
	case len(data) >= 25 && data[0] == logData:
		if at := LSN(binary.BigEndian.Uint64(data[1:])); at != s.received() {
			return fmt.Errorf("the server sent its log from %s on, and %s is the next", at, s.received())
		}
		if len(s.buffer) == 0 {
			s.since = time.Now()
		}
		s.buffer = append(s.buffer, data[25:]...)
	case len(data) >= 18 && data[0] == keepalive && data[17] != 0:
		return s.tell(false)
	}
	return nil
}

// seal makes a piece of what was received.
func (s *stream) seal(ctx context.Context) error {
	if len(s.buffer) == 0 {
		return nil
	}
	piece := driver.LogPiece{System: s.system, Timeline: s.timeline, From: uint64(s.sealed), To: uint64(s.received())}
	piece.Beacon = s.beacons.before(s.received())
	if err := s.Log.Append(ctx, piece, s.buffer); err != nil {
		return fmt.Errorf("keep the log from %s to %s: %w", s.sealed, s.received(), err)
	}
	s.sealed, s.buffer = s.received(), s.buffer[:0]
	s.archived(piece)
	return nil
}

// tell says what is durable; asking makes the server answer.
func (s *stream) tell(asking bool) error {
	var m [34]byte
	m[0] = status
	binary.BigEndian.PutUint64(m[1:], uint64(s.received()))
	binary.BigEndian.PutUint64(m[9:], uint64(s.sealed))
	binary.BigEndian.PutUint64(m[17:], uint64(s.sealed))
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	binary.BigEndian.PutUint64(m[25:], uint64(time.Since(epoch).Microseconds()))
	if asking {
		m[33] = 1
	}
	s.told = time.Now()
	s.conn.Frontend().Send(&pgproto3.CopyData{Data: m[:]})
	return s.conn.Frontend().Flush()
}
