package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
	"lifeboat.dev/lifeboat/internal/kube"
)

const (
	pageSize = 500
	restarts = 5 // of one list whose continuation the server forgot
	retries  = 2 // of one page that broke off
	// near is how fast a site answers whose network is faster than compressing what it sends.
	near = 3 * time.Millisecond
	// No request waits longer: for next to nothing, for a page or an object, and for a watch to end after the
	// time that it was asked for.
	pingDeadline  = 10 * time.Second
	pageDeadline  = 5 * time.Minute
	watchDeadline = time.Minute
)

// reader asks a site for objects, and takes them as they lie on the wire.
type reader struct {
	rest    rest.Interface
	streams sync.Pool // of *rawjson.Stream
}

func newReader(ctx context.Context, c *kube.Client) (*reader, error) {
	r := &reader{rest: c.Discovery.RESTClient()}
	r.streams.New = func() any { return rawjson.NewStream(nil, 64<<10) }
	if !r.isNear(ctx) {
		return r, nil
	}
	plain := rest.CopyConfig(c.Config)
	plain.DisableCompression = true
	plain.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	httpClient, err := rest.HTTPClientFor(plain)
	if err == nil {
		r.rest, err = rest.UnversionedRESTClientForConfigAndClient(plain, httpClient)
	}
	if err != nil {
		return nil, fmt.Errorf("make a client of site %s: %w", c.Site, err)
	}
	return r, nil
}

// isNear measures how long the site takes for next to nothing. Where that is as long as a packet takes within
// a region, compression costs both sides more than it saves; farther away it pays.
func (r *reader) isNear(ctx context.Context) bool {
	for range 5 {
		began := time.Now()
		if r.ping(ctx) != nil {
			return false // whoever asks for more will say what is wrong
		}
		if time.Since(began) < near {
			return true
		}
	}
	return false
}

// ping asks for something small, over the connection that everything else comes over.
func (r *reader) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pingDeadline, fmt.Errorf("no answer within %s", pingDeadline))
	defer cancel()
	return r.rest.Get().AbsPath("/version").Do(ctx).Error()
}

// query is a list or a watch of one kind.
type query struct {
	path            string
	labels, fields  string
	resourceVersion string
	continueAt      string
	limit           int
	watch           time.Duration // how long to watch; 0: a list
}

func (r *reader) open(ctx context.Context, q query) (io.ReadCloser, error) {
	req := r.rest.Get().AbsPath(q.path).SetHeader("Accept", "application/json")
	for name, value := range map[string]string{"labelSelector": q.labels, "fieldSelector": q.fields, "continue": q.continueAt, "resourceVersion": q.resourceVersion} {
		if value != "" {
			req.Param(name, value)
		}
	}
	if q.limit > 0 {
		req.Param("limit", strconv.Itoa(q.limit))
	}
	if q.watch > 0 {
		req.Param("watch", "true").Param("allowWatchBookmarks", "true").Param("timeoutSeconds", strconv.Itoa(int(q.watch.Seconds())))
	}
	return req.Stream(ctx)
}

// page is what a page of a list says of itself.
type page struct {
	resourceVersion, continueAt string
}

// page reads one page and hands out its objects one by one; none is held longer than item takes.
func (r *reader) page(ctx context.Context, q query, item func(raw []byte) error) (page, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pageDeadline, fmt.Errorf("no page within %s", pageDeadline))
	defer cancel()
	body, err := r.open(ctx, q)
	if err != nil {
		return page{}, err
	}
	defer func() { _ = body.Close() }() // what was not read is not wanted
	s := r.streams.Get().(*rawjson.Stream)
	defer r.streams.Put(s)
	s.Reset(body)
	var p page
	err = s.List(item, func(name string, raw []byte) error {
		if name != "metadata" {
			return nil
		}
		var d rawjson.Doc
		if err := d.Parse(raw); err != nil {
			return err
		}
		p.resourceVersion, p.continueAt = d.Root().Get("resourceVersion").Text(), d.Root().Get("continue").Text()
		return nil
	})
	return p, broken(q.path, err)
}

// object reads one object.
func (r *reader) object(ctx context.Context, path, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pageDeadline, fmt.Errorf("no answer within %s", pageDeadline))
	defer cancel()
	raw, err := r.rest.Get().AbsPath(path, name).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if ctx.Err() != nil {
		err = broken(path, context.Cause(ctx))
	}
	return raw, err
}

// broken makes an answer that breaks off what it is: a fault of the connection.
func broken(path string, err error) error {
	var sink *sinkError
	var transport *url.Error
	if err == nil || errors.As(err, &sink) || errors.As(err, &transport) || errors.Is(err, rawjson.ErrSyntax) {
		return err
	}
	return &url.Error{Op: http.MethodGet, URL: path, Err: err}
}
