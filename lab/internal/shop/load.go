package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// LoadOptions say how orders are sent.
type LoadOptions struct {
	ClientOptions
	Rate     float64 // orders a second, whether earlier ones were answered or not
	Duration time.Duration
	Log      string // a JSON object a line is appended for each order answered or failed
	Prefix   string // of the orders' ids, unique to this run
}

// LoadEntry is a line of the load's log. AckedAt and Sequence are set only for acknowledged orders,
// FailedAt and Error for others; times are by the client's clock.
type LoadEntry struct {
	ID       string     `json:"id"`
	Item     string     `json:"item"`
	Quantity int        `json:"quantity"`
	Sequence int64      `json:"sequence,omitempty"`
	Site     string     `json:"site,omitempty"`
	SentAt   time.Time  `json:"sentAt"`
	AckedAt  *time.Time `json:"ackedAt,omitempty"`
	FailedAt *time.Time `json:"failedAt,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// LoadResult sums a load up.
type LoadResult struct {
	Acknowledged int            `json:"acknowledged"`
	Failed       int            `json:"failed"`
	Sites        map[string]int `json:"sites"` // acknowledged, by the site that did
	LongestGap   float64        `json:"longestGapSeconds"`
	GapBetween   [2]time.Time   `json:"gapBetween"` // last acknowledgement before it, first after it
}

// inFlight bounds orders that wait for an answer; more are not sent, as a user gives up, too.
const inFlight = 256

// Load sends orders until ctx is done or the duration is over.
func Load(ctx context.Context, o LoadOptions) (LoadResult, error) {
	if o.Rate <= 0 {
		return LoadResult{}, fmt.Errorf("--rate must be more than 0, not %v", o.Rate)
	}
	c, err := newClient(o.ClientOptions)
	if err != nil {
		return LoadResult{}, err
	}
	f, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return LoadResult{}, fmt.Errorf("opening the load's log: %w", err)
	}
	l := &loader{client: c, out: f, result: LoadResult{Sites: map[string]int{}}}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	l.send(ctx, o)
	err = errors.Join(l.writeError, f.Close())
	if err != nil {
		return l.result, fmt.Errorf("writing the load's log: %w", err)
	}
	return l.result, nil
}

type loader struct {
	client *client

	mu         sync.Mutex
	out        io.Writer
	result     LoadResult
	lastAck    time.Time
	writeError error
}

func (l *loader) send(ctx context.Context, o LoadOptions) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, inFlight)
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.Rate))
	defer tick.Stop()
	items := []string{"apples", "bread", "cheese", "dates", "eggs"}
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		r := Request{ID: fmt.Sprintf("%s-%06d", o.Prefix, n), Item: items[n%len(items)], Quantity: 1 + n%7}
		// An order that was sent is waited for, within its time-out, though the load has ended.
		one := context.WithoutCancel(ctx)
		wg.Go(func() {
			defer func() { <-slots }()
			l.order(one, r)
		})
	}
}

func (l *loader) order(ctx context.Context, r Request) {
	e := LoadEntry{ID: r.ID, Item: r.Item, Quantity: r.Quantity, SentAt: time.Now().UTC()}
	ack, site, err := l.client.order(ctx, r)
	now := time.Now().UTC()
	e.Site = site
	if err != nil {
		e.FailedAt, e.Error = &now, err.Error()
	} else {
		e.AckedAt, e.Sequence, e.Site = &now, ack.Sequence, ack.Site
	}
	l.note(e)
}

func (c *client) order(ctx context.Context, r Request) (Acknowledgement, string, error) {
	var ack Acknowledgement
	data, err := json.Marshal(r)
	if err != nil {
		return ack, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("orders").String(), bytes.NewReader(data))
	if err != nil {
		return ack, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return ack, "", err
	}
	defer resp.Body.Close()
	site := resp.Header.Get(SiteHeader)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return ack, site, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusCreated {
		return ack, site, fmt.Errorf("answer %s", resp.Status)
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return ack, site, fmt.Errorf("the acknowledgement is not understood: %w", err)
	}
	if ack.ID != r.ID || ack.Sequence == 0 {
		return ack, site, fmt.Errorf("the acknowledgement is for %q, not %q", ack.ID, r.ID)
	}
	return ack, site, nil
}

// note appends one whole line at a time, so that a log cut off by a kill is good up to its last line.
func (l *loader) note(e LoadEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = l.out.Write(append(line, '\n'))
	}
	if err != nil && l.writeError == nil {
		l.writeError = err
	}
	if e.AckedAt == nil {
		l.result.Failed++
		return
	}
	l.result.Acknowledged++
	l.result.Sites[e.Site]++
	if gap := e.AckedAt.Sub(l.lastAck).Seconds(); !l.lastAck.IsZero() && gap > l.result.LongestGap {
		l.result.LongestGap, l.result.GapBetween = gap, [2]time.Time{l.lastAck, *e.AckedAt}
	}
	if e.AckedAt.After(l.lastAck) {
		l.lastAck = *e.AckedAt
	}
}
