package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	sessionPath  = "/session" // GET: the order; the answer stays open for as long as the work is wanted
	progressPath = "/progress"
	reportPath   = "/report"

	// grace is how long a worker that was told to stop may take to clear its locks away.
	grace = 5 * time.Second
	// farewell is how long a worker that has reported may take to end.
	farewell = 2 * time.Second
)

// Runner is the orchestrator's end. It implements driver.Mover.
type Runner struct {
	// Store is the vault's repository. A worker may read it, add to it, and remove its own locks.
	Store blob.Store
	// Password opens the repository. It is asked for at each run and travels in the stream alone.
	Password func(ctx context.Context) ([]byte, error)
	// Silence is how long the other end may say nothing before it counts as dead; 0 means 30 s.
	Silence time.Duration
}

var _ driver.Mover = (*Runner)(nil)

// order is what a worker gets: the only place in which the password leaves this process.
type order struct {
	Order    driver.MoverOrder `json:"order"`
	Password []byte            `json:"password"`
	Location string            `json:"location"`
}

// progress is what a worker says from time to time.
type progress struct {
	Doing    string          `json:"doing"`
	Progress driver.Progress `json:"progress"`
}

// ended is a worker's last word.
type ended struct {
	Report    driver.MoverReport `json:"report"`
	Fault     *fault             `json:"fault,omitempty"`
	Untouched bool               `json:"untouched,omitempty"` // it failed, and the volume is as it was
}

// Run implements driver.Mover. If stream is an io.Closer it is closed at the end, which is what ends a
// read from it that nobody answers. When ctx is done the worker is told to stop and has 5 s to clear up.
func (r *Runner) Run(ctx context.Context, stream io.ReadWriter, what driver.MoverOrder, tell func(driver.Progress)) (driver.MoverReport, error) {
	if ctx.Err() != nil {
		return driver.MoverReport{}, context.Cause(ctx)
	}
	password, err := r.Password(ctx)
	if err != nil {
		return driver.MoverReport{}, fmt.Errorf("reading the vault's key for the mover: %w", err)
	}
	below, _ := stream.(io.Closer)
	c := newConn(stream, stream, below)
	defer c.Close()
	patience := r.Silence
	if patience == 0 {
		patience = silence
	}
	s := &session{
		order:    order{Order: what, Password: password, Location: r.Store.Location()},
		tell:     tell,
		stop:     make(chan struct{}),
		reported: make(chan ended, 1),
		doing:    progress{Doing: "starting"},
	}
	if err := c.awaitGreeting(ctx, patience); err != nil {
		return driver.MoverReport{}, s.lost(ctx, err)
	}
	return s.serve(ctx, c, r.Store, patience)
}

// session is one run, seen from the orchestrator.
type session struct {
	order    order
	tell     func(driver.Progress)
	stop     chan struct{} // closed when the work is called off
	began    atomic.Bool   // the worker asked for its order
	stopped  atomic.Bool
	reported chan ended
	busy     sync.RWMutex // held for reading by each handler; Run takes it at its end

	mu    sync.Mutex
	doing progress
}

// serve answers the worker until it has reported, the stream has ended, or ctx is done and the grace
// is over.
func (s *session) serve(ctx context.Context, c *conn, store blob.Store, patience time.Duration) (driver.MoverReport, error) {
	// Handlers outlive ctx by the grace in which locks are removed; requests end with the connection.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := s.server(base, store, patience)
	go func() { _ = server.Serve(listenOn(c)) }()
	defer s.wait(server, cancel)
	// Pings begin with the first request; a worker that never makes one is dead as well.
	mute := time.AfterFunc(patience, func() {
		if !s.began.Load() {
			_ = c.Close()
		}
	})
	defer mute.Stop()
	e, ok := s.await(c, nil, ctx.Done())
	if !ok && ctx.Err() != nil {
		s.stopped.Store(true)
		close(s.stop)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		e, ok = s.await(c, timer.C, nil)
	}
	if !ok {
		return driver.MoverReport{}, s.lost(ctx, errors.New("the stream to it broke"))
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	s.await(c, timer.C, nil) // so that the mover ends by itself and not by a stream that breaks
	return s.end(ctx, e)
}

// await waits for the worker's report, the end of the stream, a time-out or a cancellation.
func (s *session) await(c *conn, timeout <-chan time.Time, cancelled <-chan struct{}) (ended, bool) {
	select {
	case e := <-s.reported:
		return e, true
	case <-c.closed:
	case <-timeout:
	case <-cancelled:
	}
	select {
	case e := <-s.reported: // it came at the same moment
		return e, true
	default:
		return ended{}, false
	}
}

func (s *session) server(base context.Context, store blob.Store, patience time.Duration) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+sessionPath, s.session)
	mux.HandleFunc("POST "+progressPath, s.progress)
	mux.HandleFunc("POST "+reportPath, s.report)
	mux.Handle("/", Serve(restricted{Store: store, verb: s.order.Order.Verb, stopped: s.stopped.Load}))
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.busy.TryRLock() {
			return // Run is at its end
		}
		defer s.busy.RUnlock()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(base, cancel)()
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
	return &http.Server{
		Handler:   counted,
		Protocols: protocol(),
		HTTP2:     http2(patience),
		ErrorLog:  log.New(io.Discard, "", 0), // what goes wrong is told by Run
	}
}

// wait ends what is still under way, so that nothing touches the store after Run; a store that does not
// heed its context is not waited for longer than the grace.
func (s *session) wait(server *http.Server, cancel context.CancelFunc) {
	cancel()
	_ = server.Close()
	done := make(chan struct{})
	go func() {
		s.busy.Lock()
		close(done)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func (s *session) session(w http.ResponseWriter, r *http.Request) {
	s.began.Store(true)
	if err := json.NewEncoder(w).Encode(s.order); err != nil {
		return
	}
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	select {
	case <-s.stop:
	case <-r.Context().Done():
	}
}

func (s *session) progress(w http.ResponseWriter, r *http.Request) {
	var p progress
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		fail(w, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = p
	if s.tell != nil {
		s.tell(p.Progress)
	}
}

func (s *session) report(w http.ResponseWriter, r *http.Request) {
	var e ended
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		fail(w, err)
		return
	}
	select {
	case s.reported <- e:
	default:
	}
}

// end turns a worker's last word into what Run returns.
func (s *session) end(ctx context.Context, e ended) (driver.MoverReport, error) {
	if e.Fault == nil {
		return e.Report, nil
	}
	err := e.Fault.err()
	if e.Untouched {
		err = fmt.Errorf("%w (%w)", err, driver.ErrUntouched)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return driver.MoverReport{}, err
}

// lost says what the worker was doing when it was heard of last.
func (s *session) lost(ctx context.Context, err error) error {
	s.mu.Lock()
	p := s.doing
	s.mu.Unlock()
	state := p.Doing
	if p.Progress.Files > 0 || p.Progress.Bytes > 0 {
		state += fmt.Sprintf(" (%d files, %d bytes so far)", p.Progress.Files, p.Progress.Bytes)
	}
	if ctx.Err() != nil {
		return dr.Errorf(dr.ClassInterrupted, context.Cause(ctx), "", "stopped the mover of %s while it was %s", s.name(), state)
	}
	return dr.Errorf(dr.ClassUnreachable, err, "Run it again; what was moved already is not moved twice.",
		"lost the mover of %s while it was %s", s.name(), state)
}

// name says whose volume it is, as far as the order tells.
func (s *session) name() string {
	l := s.order.Order.Labels
	if l["application"] == "" {
		return "a volume"
	}
	return l["application"] + "/" + l["datastore"]
}
