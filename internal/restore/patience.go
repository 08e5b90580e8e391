package restore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// unrepeatable is an error that trying again does not help against, whatever the server called it.
type unrepeatable struct{ error }

func (e *unrepeatable) Unwrap() error { return e.error }

// passing says whether an error may go away by itself: a webhook whose backend starts, a CRD that not
// every API server knows yet, an account that a controller is about to make.
func passing(err error) bool {
	var waits *notReady
	switch {
	case errors.As(err, &waits), errors.Is(err, context.DeadlineExceeded),
		apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsServerTimeout(err),
		apierrors.IsTimeout(err), apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err),
		unreachable(err):
		return true
	}
	for _, part := range []string{"failed calling webhook", "conversion webhook for", "error looking up service account", "being terminated",
		"status unknown for quota", "etcdserver: ", errDeleting.Error()} {
		if strings.Contains(err.Error(), part) {
			return true
		}
	}
	return false
}

// unreachable says whether nobody answered at all.
func unreachable(err error) bool {
	return utilnet.IsConnectionReset(err) || utilnet.IsConnectionRefused(err) || utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsProbableEOF(err)
}

// notReady is something else that an object waits for.
type notReady struct {
	what  key
	state string
}

func (e *notReady) Error() string { return e.what.String() + ": " + e.state }

var errDeleting = errors.New("the object that is there is being deleted")

// patience bounds how long things that may pass are waited for: once for each of them, however many
// objects wait for it.
type patience struct {
	mu     sync.Mutex
	since  map[string]time.Time // by cause: when it was met first
	causes map[key]string       // what each object waits for
	pauses map[key]time.Duration
}

// with says how long to pause before the next try; 0 when there is none.
func (p *patience) with(it *item, err error, opts Options) time.Duration {
	var rejected *unrepeatable
	if errors.As(err, &rejected) || !passing(err) {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since == nil {
		p.since, p.causes, p.pauses = map[string]time.Time{}, map[key]string{}, map[key]time.Duration{}
	}
	c, now := cause(it, err), opts.Now()
	p.causes[it.key] = c
	if _, met := p.since[c]; !met {
		p.since[c] = now
	}
	left := opts.GateTimeout - now.Sub(p.since[c])
	if left <= 0 {
		return 0
	}
	pause := max(p.pauses[it.key], firstPause)
	p.pauses[it.key] = min(2*pause, longestPause)
	return min(pause, left)
}

const (
	tryTimeout   = 30 * time.Second // of one try
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// over: what it waited for has passed, and would be waited for anew.
func (p *patience) over(it *item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, waited := p.causes[it.key]; waited {
		delete(p.since, c)
		delete(p.causes, it.key)
		delete(p.pauses, it.key)
	}
}

// cause is what an object waits for: a webhook, a group's conversion, or something of its own.
func cause(it *item, err error) string {
	var waits *notReady
	if errors.As(err, &waits) {
		return waits.what.String()
	}
	text := err.Error()
	for _, mark := range []string{`failed calling webhook "`, `conversion webhook for `} {
		if _, after, ok := strings.Cut(text, mark); ok {
			name, _, _ := strings.Cut(strings.TrimSuffix(after, `"`), `"`)
			name, _, _ = strings.Cut(name, ", ")
			return mark + name
		}
	}
	return it.key.String()
}
