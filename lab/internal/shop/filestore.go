package shop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	logName     = "orders.jsonl"
	healthName  = "health"
	batchOrders = 256
	lockWait    = 3 * time.Second // for a predecessor to let go of the directory
)

// fileStore appends orders to a log and holds them all in memory.
type fileStore struct {
	dir      string
	log      *os.File
	identity identity
	now      func() time.Time

	requests chan *addRequest // unbuffered: what is accepted is answered
	closing  chan struct{}
	closed   chan struct{}
	stop     sync.Once

	mu     sync.RWMutex
	orders []Order // ascending sequence
	byID   map[string]int
	broken error // set once a write failed: what is on disk is unknown until the log is read again
}

type addRequest struct {
	site   string
	req    Request
	answer chan addAnswer // buffered
}

type addAnswer struct {
	order Order
	err   error
}

// OpenFileStore opens or initialises the data directory. A torn last record is cut off.
func OpenFileStore(ctx context.Context, dir string, now func() time.Time, log *slog.Logger) (Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making data directory: %w", err)
	}
	path := filepath.Join(dir, logName)
	if err := initialise(path, now()); err != nil {
		return nil, fmt.Errorf("initialising %s: %w", dir, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the log of orders: %w", err)
	}
	s := &fileStore{
		dir: dir, log: f, now: now, byID: map[string]int{},
		requests: make(chan *addRequest), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	if err := s.load(ctx, log); err != nil {
		return nil, errors.Join(fmt.Errorf("log of orders %s: %w", path, err), f.Close())
	}
	go s.commit()
	return s, nil
}

// initialise makes a log with nothing but its identity, whole or not at all.
func initialise(path string, now time.Time) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	line, err := encodeRecord(body{Store: &identity{DataID: hex.EncodeToString(id), Created: now.UTC()}})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(line)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		// Link, not rename: of two that initialise at once, one wins and both go on with its log.
		if err = os.Link(tmp.Name(), path); errors.Is(err, os.ErrExist) {
			err = nil
		}
	}
	return errors.Join(err, os.Remove(tmp.Name()), syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *fileStore) load(ctx context.Context, log *slog.Logger) error {
	if err := lock(ctx, s.log); err != nil {
		return err
	}
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	good, err := replay(data, s.use)
	if err != nil {
		return err
	}
	if s.identity.DataID == "" {
		return errors.New("it does not begin with its identity: not a log of this shop, or damaged")
	}
	if torn := int64(len(data)) - good; torn > 0 {
		log.Warn("cutting off a record that was being written when the shop died; none of its orders was acknowledged", "bytes", torn)
		if err := errors.Join(s.log.Truncate(good), s.log.Sync()); err != nil {
			return fmt.Errorf("cutting off a torn record: %w", err)
		}
	}
	return nil
}

func lock(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting %s for another shop process to let go of it: %w", lockWait, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *fileStore) use(b body) error {
	if b.Store != nil {
		if s.identity.DataID != "" {
			return errors.New("a second identity")
		}
		s.identity = *b.Store
	}
	for _, o := range b.Orders {
		if last := s.lastSequence(); o.Sequence <= last {
			return fmt.Errorf("sequence %d after %d", o.Sequence, last)
		}
		s.byID[o.ID] = len(s.orders)
		s.orders = append(s.orders, o)
	}
	return nil
}

func (s *fileStore) lastSequence() int64 {
	if len(s.orders) == 0 {
		return 0
	}
	return s.orders[len(s.orders)-1].Sequence
}

func (s *fileStore) Add(ctx context.Context, site string, r Request) (Order, error) {
	a := &addRequest{site: site, req: r, answer: make(chan addAnswer, 1)}
	select {
	case s.requests <- a:
	case <-s.closing:
		return Order{}, ErrClosed
	case <-ctx.Done():
		return Order{}, fmt.Errorf("waiting to write the order: %w", ctx.Err())
	}
	select {
	case got := <-a.answer:
		return got.order, got.err
	case <-ctx.Done():
		return Order{}, fmt.Errorf("waiting for the order to be on disk: %w", ctx.Err())
	}
}

// commit is the only writer: it takes what waits, writes it as one record, syncs once, and answers.
func (s *fileStore) commit() {
	defer close(s.closed)
	for {
		var batch []*addRequest
		select {
		case <-s.closing:
			return
		case a := <-s.requests:
			batch = append(batch, a)
		}
		for more := true; more && len(batch) < batchOrders; {
			select {
			case a := <-s.requests:
				batch = append(batch, a)
			default:
				more = false
			}
		}
		s.commitBatch(batch)
	}
}

func (s *fileStore) commitBatch(batch []*addRequest) {
	fresh := map[string]Order{}
	var orders []Order
	next := s.lastSequence() + 1
	for _, a := range batch {
		_, there := s.byID[a.req.ID] // commit is the only one that changes it
		if _, now := fresh[a.req.ID]; there || now {
			continue
		}
		o := Order{ID: a.req.ID, Item: a.req.Item, Quantity: a.req.Quantity, Sequence: next, Site: a.site, AcknowledgedAt: s.now().UTC()}
		fresh[o.ID] = o
		orders = append(orders, o)
		next++
	}
	err := s.append(orders)
	for _, a := range batch {
		if err != nil {
			a.answer <- addAnswer{err: err}
			continue
		}
		o := s.orders[s.byID[a.req.ID]]
		a.answer <- answerFor(o, a.req)
	}
}

func answerFor(o Order, r Request) addAnswer {
	if o.Item != r.Item || o.Quantity != r.Quantity {
		return addAnswer{err: fmt.Errorf("%w: %s was %d × %s", ErrDifferent, o.ID, o.Quantity, o.Item)}
	}
	return addAnswer{order: o}
}

func (s *fileStore) append(orders []Order) error {
	if s.broken != nil {
		return s.broken
	}
	if len(orders) == 0 {
		return nil
	}
	line, err := encodeRecord(body{Orders: orders})
	if err != nil {
		return err
	}
	if _, err = s.log.Write(line); err == nil {
		err = syscall.Fdatasync(int(s.log.Fd()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// A failed sync may have dropped what it could not write, so nothing that follows can be
		// trusted: the log has to be read again, by a new process.
		s.broken = fmt.Errorf("%w: writing to %s: %w", ErrBroken, s.log.Name(), err)
		return s.broken
	}
	return s.use(body{Orders: orders})
}

func (s *fileStore) Get(_ context.Context, id string) (Order, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, ok := s.byID[id]
	if !ok {
		return Order{}, fmt.Errorf("%w: %s", ErrNoOrder, strings.ToValidUTF8(id, "?"))
	}
	return s.orders[i], nil
}

func (s *fileStore) List(_ context.Context, after int64, limit int) ([]Order, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from, _ := slices.BinarySearchFunc(s.orders, after+1, func(o Order, seq int64) int { return int(o.Sequence - seq) })
	list := s.orders[from:]
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	return slices.Clone(list), nil
}

func (s *fileStore) Summary(context.Context) (Summary, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Summary{DataID: s.identity.DataID, Orders: int64(len(s.orders)), LastSequence: s.lastSequence()}, nil
}

// Writable really writes, in a file of its own, and looks whether the log is still the one in the
// directory: a volume that was taken away or put back underneath must not go unnoticed.
func (s *fileStore) Writable(context.Context) error {
	s.mu.RLock()
	broken := s.broken
	s.mu.RUnlock()
	if broken != nil {
		return broken
	}
	if err := os.WriteFile(filepath.Join(s.dir, healthName), []byte(s.now().UTC().Format(time.RFC3339Nano)+"\n"), 0o644); err != nil {
		return fmt.Errorf("the data directory cannot be written: %w", err)
	}
	named, err := os.Stat(s.log.Name())
	if err != nil {
		return fmt.Errorf("%w: the log of orders is gone: %w", ErrBroken, err)
	}
	held, err := s.log.Stat()
	if err != nil {
		return fmt.Errorf("the log of orders: %w", err)
	}
	if !os.SameFile(named, held) {
		return fmt.Errorf("%w: the log of orders was replaced underneath the shop", ErrBroken)
	}
	return nil
}

func (s *fileStore) Close() error {
	var err error
	s.stop.Do(func() {
		close(s.closing)
		<-s.closed
		err = s.log.Close()
	})
	return err
}
