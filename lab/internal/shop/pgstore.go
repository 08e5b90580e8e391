package shop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const pgSchema = `
CREATE TABLE IF NOT EXISTS shop_store (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  data_id text NOT NULL DEFAULT md5(random()::text || clock_timestamp()::text),
  last_sequence bigint NOT NULL DEFAULT 0);
INSERT INTO shop_store DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS shop_orders (
  id text PRIMARY KEY,
  sequence bigint NOT NULL UNIQUE,
  item text NOT NULL,
  quantity integer NOT NULL,
  site text NOT NULL,
  acknowledged_at timestamptz NOT NULL);`

const pgColumns = `id, item, quantity, sequence, site, acknowledged_at`

// pgStore keeps orders in PostgreSQL over one connection, made again when it breaks.
type pgStore struct {
	url  string
	now  func() time.Time
	turn chan struct{} // holds one token: whoever has it may use conn

	conn   *pgx.Conn // guarded by turn
	mu     sync.Mutex
	closed bool
}

// OpenPostgresStore connects, and makes the shop's tables where they are missing.
func OpenPostgresStore(ctx context.Context, url string, now func() time.Time) (Store, error) {
	s := &pgStore{url: url, now: now, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	err := s.with(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, pgSchema)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the shop's tables: %w", err)
	}
	return s, nil
}

func (s *pgStore) with(ctx context.Context, use func(*pgx.Conn) error) error {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the connection to PostgreSQL: %w", ctx.Err())
	}
	defer func() { s.turn <- struct{}{} }()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if s.conn == nil || s.conn.IsClosed() {
		c, err := pgx.Connect(ctx, s.url)
		if err != nil {
			return fmt.Errorf("connecting to PostgreSQL: %w", err) // pgx leaves the password out
		}
		s.conn = c
	}
	return use(s.conn)
}

func (s *pgStore) Add(ctx context.Context, site string, r Request) (Order, error) {
	o := Order{ID: r.ID, Item: r.Item, Quantity: r.Quantity, Site: site}
	err := s.with(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			// The row lock keeps sequences in the order of commits, without gaps.
			if err := tx.QueryRow(ctx, `UPDATE shop_store SET last_sequence = last_sequence + 1 RETURNING last_sequence`).Scan(&o.Sequence); err != nil {
				return fmt.Errorf("next sequence: %w", err)
			}
			o.AcknowledgedAt = s.now().UTC().Truncate(time.Microsecond)
			tag, err := tx.Exec(ctx, `INSERT INTO shop_orders (`+pgColumns+`) VALUES ($1,$2,$3,$4,$5,$6) ON CONFLICT (id) DO NOTHING`,
				o.ID, o.Item, o.Quantity, o.Sequence, o.Site, o.AcknowledgedAt)
			if err == nil && tag.RowsAffected() == 0 {
				return errThere
			}
			return err
		})
	})
	if errors.Is(err, errThere) {
		kept, err := s.Get(ctx, r.ID)
		if err != nil {
			return Order{}, err
		}
		a := answerFor(kept, r)
		return a.order, a.err
	}
	if err != nil {
		return Order{}, fmt.Errorf("keeping order %s: %w", r.ID, err)
	}
	return o, nil
}

var errThere = errors.New("the order is there already")

func (s *pgStore) Get(ctx context.Context, id string) (Order, error) {
	list, err := s.query(ctx, `SELECT `+pgColumns+` FROM shop_orders WHERE id = $1`, id)
	if err != nil {
		return Order{}, err
	}
	if len(list) == 0 {
		return Order{}, fmt.Errorf("%w: %s", ErrNoOrder, id)
	}
	return list[0], nil
}

func (s *pgStore) List(ctx context.Context, after int64, limit int) ([]Order, error) {
	return s.query(ctx, `SELECT `+pgColumns+` FROM shop_orders WHERE sequence > $1 ORDER BY sequence LIMIT NULLIF($2::bigint, 0)`, after, limit)
}

func (s *pgStore) query(ctx context.Context, sql string, args ...any) ([]Order, error) {
	var list []Order
	err := s.with(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Order, error) {
			var o Order
			err := row.Scan(&o.ID, &o.Item, &o.Quantity, &o.Sequence, &o.Site, &o.AcknowledgedAt)
			o.AcknowledgedAt = o.AcknowledgedAt.UTC()
			return o, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading orders: %w", err)
	}
	return list, nil
}

func (s *pgStore) Summary(ctx context.Context) (Summary, error) {
	var sum Summary
	err := s.with(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT data_id, last_sequence, (SELECT count(*) FROM shop_orders) FROM shop_store`).
			Scan(&sum.DataID, &sum.LastSequence, &sum.Orders)
	})
	if err != nil {
		return sum, fmt.Errorf("reading the store's summary: %w", err)
	}
	return sum, nil
}

// Writable refuses a server that would refuse an order: a standby, or one set to read only.
func (s *pgStore) Writable(ctx context.Context) error {
	var readOnly bool
	err := s.with(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean`).Scan(&readOnly)
	})
	if err != nil {
		return fmt.Errorf("asking PostgreSQL: %w", err)
	}
	if readOnly {
		return errors.New("PostgreSQL is read only: a standby, or fenced")
	}
	return nil
}

func (s *pgStore) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	// Bounded clean-up: the program is ending and its own context is done already.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }() // later callers get as far as seeing that it is closed
	case <-ctx.Done():
		return fmt.Errorf("waiting to close the connection to PostgreSQL: %w", ctx.Err())
	}
	if s.conn == nil {
		return nil
	}
	return s.conn.Close(ctx)
}
