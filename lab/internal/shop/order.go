package shop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Order is an acknowledged order. AcknowledgedAt is by the clock of the site that took it.
type Order struct {
	ID             string    `json:"id"`
	Item           string    `json:"item"`
	Quantity       int       `json:"quantity"`
	Sequence       int64     `json:"sequence"`
	Site           string    `json:"site"`
	AcknowledgedAt time.Time `json:"acknowledgedAt"`
}

// Request is what a client asks for. ID is the client's own, so that asking twice orders once.
type Request struct {
	ID       string `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// Check says what is wrong with a request.
func (r Request) Check() error {
	switch {
	case r.ID == "" || len(r.ID) > 128 || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '/' }):
		return errors.New("id must be 1 to 128 characters without spaces or slashes, chosen by the client")
	case r.Item == "" || len(r.Item) > 200:
		return errors.New("item must be 1 to 200 characters")
	case r.Quantity < 1 || r.Quantity > 1_000_000:
		return fmt.Errorf("quantity must be 1 to 1000000, not %d", r.Quantity)
	}
	return nil
}

// Summary describes a store's contents.
type Summary struct {
	DataID       string // made once, when the data was first initialised: it travels with the data
	Orders       int64
	LastSequence int64
}

// Store keeps orders. What Add returned without error is there after any crash.
type Store interface {
	// Add keeps an order and returns it as kept. An id that is there already gives the order kept
	// then, or ErrDifferent where that was for something else.
	Add(ctx context.Context, site string, r Request) (Order, error)
	Get(ctx context.Context, id string) (Order, error)
	// List returns orders with a sequence greater than after, ascending; limit 0 means all.
	List(ctx context.Context, after int64, limit int) ([]Order, error)
	Summary(ctx context.Context) (Summary, error)
	// Writable returns nil only if an order could be kept now.
	Writable(ctx context.Context) error
	Close() error
}

// Errors of stores.
var (
	ErrNoOrder   = errors.New("no such order")
	ErrDifferent = errors.New("the id was used for another order")
	ErrClosed    = errors.New("the shop is closing")
	ErrBroken    = errors.New("only a new process can go on with this data")
	ErrRestoring = errors.New("a restore of this data is under way")
)
