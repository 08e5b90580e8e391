package mover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// progressEvery spaces out what a worker says of its progress.
const progressEvery = 250 * time.Millisecond

// Work is the end beside the volume: it says its greeting on stdout, does the one order that it then
// reads from stdin, and reports. An order that failed has been reported and is no error of Work; an
// error means that the orchestrator could not be told.
func Work(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	return work(ctx, stdin, stdout, silence)
}

func work(ctx context.Context, stdin io.Reader, stdout io.Writer, patience time.Duration) error {
	c := newConn(stdin, stdout, nil)
	defer c.Close()
	if _, err := io.WriteString(c, greeting); err != nil {
		return fmt.Errorf("greeting the orchestrator: %w", err)
	}
	client, err := clientOver(ctx, c, patience)
	if err != nil {
		return err
	}
	w := &worker{client: client}
	o, rest, err := w.receive(ctx)
	if err != nil {
		return err
	}
	defer rest.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The answer that brought the order ends when the work is no longer wanted, or with the stream.
	go func() {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			cancel(errStream)
			return
		}
		cancel(fmt.Errorf("the orchestrator called it off: %w", context.Canceled))
	}()
	e := ended{}
	if report, err := w.do(ctx, o); err != nil {
		e.Fault, e.Untouched = newFault(explain(w.now().Doing, err)), !w.touched
	} else {
		e.Report = report
	}
	// Even where the work was called off its end is told, within bounds.
	last, done := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer done()
	if err := w.post(last, reportPath, e); err != nil {
		return fmt.Errorf("reporting after %s: %w", w.now().Doing, err)
	}
	return nil
}

// clientOver speaks HTTP/2 over a stream that is there once and cannot be dialled again.
func clientOver(ctx context.Context, c *conn, patience time.Duration) (*http.Client, error) {
	transport := &http.Transport{
		Protocols:   protocol(),
		HTTP2:       http2(patience),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	only, err := transport.NewClientConn(ctx, "http", "vault:80")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	return &http.Client{Transport: only}, nil
}

// worker is one run, seen from beside the volume.
type worker struct {
	client  *http.Client
	touched bool // something in the volume was changed

	mu    sync.Mutex
	state progress
}

// receive gets the order; the rest of the answer stays open.
func (w *worker) receive(ctx context.Context) (order, io.ReadCloser, error) {
	var o order
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vault"+sessionPath, nil)
	if err != nil {
		return o, nil, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return o, nil, broken(ctx, "receiving the order", err)
	}
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil {
		resp.Body.Close()
		return o, nil, broken(ctx, "receiving the order", err)
	}
	return o, resp.Body, nil
}

// do carries the order out while a goroutine of its own tells the progress.
func (w *worker) do(ctx context.Context, o order) (driver.MoverReport, error) {
	if o.Order.Path == "" {
		o.Order.Path = os.Getenv(MountVariable)
	}
	v, err := openVolume(o.Order.Path)
	if err != nil {
		return driver.MoverReport{}, err
	}
	defer v.close()
	told := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(told)
		w.tell(ctx)
	}()
	defer func() { cancel(); <-told }()
	if o.Order.Verb == driver.MoverRestored {
		return v.restored(o.Order.Point)
	}
	if o.Order.Verb != driver.MoverProtect && o.Order.Verb != driver.MoverRestore {
		return driver.MoverReport{}, fmt.Errorf("unknown order %q: this mover is older than what called it", o.Order.Verb)
	}
	if err := v.refuse(o.Order); err != nil {
		return driver.MoverReport{}, err
	}
	if o.Order.Verb == driver.MoverRestore {
		// A restore that ended is reported without the vault, which may be far.
		if done, err := v.restored(o.Order.Point); err != nil || done.Done {
			return done, err
		}
	}
	w.set("opening the vault's repository")
	r, err := repo.Open(ctx, &relayStore{client: w.client, location: o.Location}, o.Password)
	if err != nil {
		return driver.MoverReport{}, err
	}
	if o.Order.Verb == driver.MoverProtect {
		return v.protect(ctx, r, o.Order, w)
	}
	return v.restore(ctx, r, o.Order, w)
}

// set notes what is being done, for progress and for errors.
func (w *worker) set(doing string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Doing = doing
}

func (w *worker) count(p driver.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Progress = p
}

func (w *worker) now() progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// tell sends the state whenever it has changed, until ctx is done.
func (w *worker) tell(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last progress
	for {
		if p := w.now(); p != last {
			if w.post(ctx, progressPath, p) != nil {
				return // the work itself will meet what is wrong
			}
			last = p
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *worker) post(ctx context.Context, path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://vault"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return broken(ctx, "POST "+path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("the orchestrator answered " + resp.Status)
	}
	return nil
}
