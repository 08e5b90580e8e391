package shop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

const verifyPage = 1000

// LostOrder is an order that was acknowledged and is not there, or not as it was.
type LostOrder struct {
	ID       string    `json:"id"`
	Sequence int64     `json:"sequence"`
	Site     string    `json:"site"` // that acknowledged it
	AckedAt  time.Time `json:"ackedAt"`
	Reason   string    `json:"reason"`
}

// Verification compares what was acknowledged to what the shop has now.
type Verification struct {
	Acknowledged   int         `json:"acknowledged"`
	Recovered      int         `json:"recovered"`
	Lost           int         `json:"lost"`
	LostOrders     []LostOrder `json:"lostOrders"`
	Unacknowledged int         `json:"unacknowledged"` // there, though the client got no answer: no loss
	Stored         int         `json:"stored"`         // all orders there
	Site           string      `json:"site"`           // that answered
	DataID         string      `json:"dataID"`
	// FirstLostAt and LastLostAt are when the client got the first and last acknowledgement lost.
	FirstLostAt *time.Time `json:"firstLostAt,omitempty"`
	LastLostAt  *time.Time `json:"lastLostAt,omitempty"`
}

// Verify reads all orders back and compares them with a load's log, trying for wait to reach the shop.
func Verify(ctx context.Context, o ClientOptions, log string, wait time.Duration) (Verification, error) {
	c, err := newClient(o)
	if err != nil {
		return Verification{}, err
	}
	entries, err := readLog(log)
	if err != nil {
		return Verification{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		orders, page, err := c.all(ctx)
		if err == nil {
			v := compare(entries, orders)
			v.Site, v.DataID = page.Site, page.DataID
			return v, nil
		}
		select {
		case <-ctx.Done():
			return Verification{}, fmt.Errorf("waiting %s for the shop to give back its orders: %w", wait, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func readLog(path string) ([]LoadEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the load's log: %w", err)
	}
	defer f.Close()
	var entries []LoadEntry
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return entries, nil // what does not end was being written when the load was killed
		}
		if err != nil {
			return nil, fmt.Errorf("reading the load's log: %w", err)
		}
		var e LoadEntry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, n, err)
		}
		entries = append(entries, e)
	}
}

func (c *client) all(ctx context.Context) (map[string]Order, Page, error) {
	orders := map[string]Order{}
	var last Page
	for after := int64(0); ; {
		p, err := c.page(ctx, after)
		if err != nil {
			return nil, p, err
		}
		if last.DataID != "" && p.DataID != last.DataID {
			return nil, p, fmt.Errorf("data changed from %s to %s while it was read", last.DataID, p.DataID)
		}
		last = p
		for _, o := range p.Orders {
			orders[o.ID] = o
			after = o.Sequence
		}
		if len(p.Orders) < verifyPage {
			return orders, last, nil
		}
	}
}

func (c *client) page(ctx context.Context, after int64) (Page, error) {
	var p Page
	u := c.base.JoinPath("orders")
	u.RawQuery = url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(verifyPage)}}.Encode()
	err := c.get(ctx, u, &p)
	return p, err
}

func (c *client) get(ctx context.Context, u *url.URL, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: answer %s", u, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("GET %s: %w", u, err)
	}
	return nil
}

func compare(entries []LoadEntry, orders map[string]Order) Verification {
	v := Verification{Stored: len(orders), LostOrders: []LostOrder{}}
	for _, e := range entries {
		o, there := orders[e.ID]
		if e.AckedAt == nil {
			if there {
				v.Unacknowledged++
			}
			continue
		}
		v.Acknowledged++
		reason := difference(e, o, there)
		if reason == "" {
			v.Recovered++
			continue
		}
		v.Lost++
		v.LostOrders = append(v.LostOrders, LostOrder{ID: e.ID, Sequence: e.Sequence, Site: e.Site, AckedAt: *e.AckedAt, Reason: reason})
		if v.FirstLostAt == nil || e.AckedAt.Before(*v.FirstLostAt) {
			v.FirstLostAt = e.AckedAt
		}
		if v.LastLostAt == nil || e.AckedAt.After(*v.LastLostAt) {
			v.LastLostAt = e.AckedAt
		}
	}
	return v
}

func difference(e LoadEntry, o Order, there bool) string {
	switch {
	case !there:
		return "not there"
	case o.Item != e.Item || o.Quantity != e.Quantity:
		return fmt.Sprintf("changed: %d × %s became %d × %s", e.Quantity, e.Item, o.Quantity, o.Item)
	case o.Sequence != e.Sequence || o.Site != e.Site:
		return fmt.Sprintf("changed: number %d of %s became number %d of %s", e.Sequence, e.Site, o.Sequence, o.Site)
	}
	return ""
}

// Ask reads the shop's status once.
func Ask(ctx context.Context, o ClientOptions) (Status, error) {
	var st Status
	c, err := newClient(o)
	if err != nil {
		return st, err
	}
	err = c.get(ctx, c.base.JoinPath("status"), &st)
	return st, err
}
