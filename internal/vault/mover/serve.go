package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	objectPath = "/object" // PUT, GET, HEAD and DELETE of one object
	listPath   = "/list"

	headerVersion = "Lifeboat-Version" // of an object; with PUT, the one that must be there
	headerAbsent  = "Lifeboat-Absent"  // with PUT: there must be no object
	headerRange   = "Lifeboat-Range"   // offset+length
	headerSize    = "Lifeboat-Size"
	headerFault   = "Lifeboat-Fault" // an error; in a header, because answers to HEAD have no body

	// maxObject bounds what one request makes the orchestrator hold in memory; packs are far smaller.
	maxObject = 256 << 20
)

// Serve answers a relayed store's requests from the real one.
func Serve(store blob.Store) http.Handler {
	h := objects{store}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+objectPath, h.put)
	mux.HandleFunc("GET "+objectPath, h.get)
	mux.HandleFunc("HEAD "+objectPath, h.stat)
	mux.HandleFunc("DELETE "+objectPath, h.delete)
	mux.HandleFunc("GET "+listPath, h.list)
	return mux
}

type objects struct{ store blob.Store }

func (h objects) put(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 || r.ContentLength > maxObject {
		fail(w, fmt.Errorf("an object of %d bytes cannot be relayed", r.ContentLength))
		return
	}
	data := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, data); err != nil {
		fail(w, fmt.Errorf("receiving the object: %w", err))
		return
	}
	var cond blob.Condition
	if r.Header.Get(headerAbsent) != "" {
		cond = blob.IfAbsent()
	} else if v := r.Header.Get(headerVersion); v != "" {
		cond = blob.IfVersion(blob.Version(v))
	}
	version, err := h.store.Put(r.Context(), r.FormValue("name"), data, cond)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set(headerVersion, string(version))
}

func (h objects) get(w http.ResponseWriter, r *http.Request) {
	var part blob.Range
	if s := r.Header.Get(headerRange); s != "" {
		if _, err := fmt.Sscanf(s, "%d+%d", &part.Offset, &part.Length); err != nil {
			fail(w, fmt.Errorf("range %q: %w", s, err))
			return
		}
	}
	object, err := h.store.Get(r.Context(), r.FormValue("name"), part)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set(headerVersion, string(object.Version))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(object.Data)))
	_, _ = w.Write(object.Data) // a reader that is gone has nobody to be told
}

func (h objects) stat(w http.ResponseWriter, r *http.Request) {
	info, err := h.store.Stat(r.Context(), r.FormValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set(headerSize, strconv.FormatInt(info.Size, 10))
}

func (h objects) delete(w http.ResponseWriter, r *http.Request) {
	if err := h.store.Delete(r.Context(), r.FormValue("name")); err != nil {
		fail(w, err)
	}
}

// listItem is a line of an answer to list: an object, an error, or the end, without which a list is
// not whole.
type listItem struct {
	Info  *blob.Info `json:"info,omitempty"`
	Fault *fault     `json:"fault,omitempty"`
	End   bool       `json:"end,omitempty"`
}

func (h objects) list(w http.ResponseWriter, r *http.Request) {
	out := json.NewEncoder(w)
	for info, err := range h.store.List(r.Context(), r.FormValue("prefix")) {
		if err != nil {
			_ = out.Encode(listItem{Fault: newFault(err)})
			return
		}
		if out.Encode(listItem{Info: &info}) != nil {
			return
		}
	}
	_ = out.Encode(listItem{End: true})
}

func fail(w http.ResponseWriter, err error) {
	raw, jsonErr := json.Marshal(newFault(err))
	if jsonErr != nil {
		raw = []byte(`{"why":"an error that cannot be told"}`)
	}
	w.Header().Set(headerFault, strconv.QuoteToASCII(string(raw)))
	w.WriteHeader(http.StatusConflict)
}

// restricted lets a worker do what its order needs and nothing else, so that a mover that somebody took
// over can neither remove nor replace what the vault holds.
type restricted struct {
	blob.Store
	verb    driver.MoverVerb
	stopped func() bool // true once the work was called off: then only locks may still be removed
}

func (s restricted) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	lock := strings.HasPrefix(name, "locks/")
	adds := s.verb == driver.MoverProtect && (strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "snapshots/"))
	if !cond.Absent() || !lock && !adds || s.stopped() {
		return "", s.refuse("write", name)
	}
	return s.Store.Put(ctx, name, data, cond)
}

func (s restricted) Delete(ctx context.Context, name string) error {
	if !strings.HasPrefix(name, "locks/") {
		return s.refuse("delete", name)
	}
	return s.Store.Delete(ctx, name)
}

func (s restricted) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if s.stopped() {
		return blob.Object{}, s.refuse("read", name)
	}
	return s.Store.Get(ctx, name, r)
}

func (s restricted) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	if s.stopped() {
		return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, s.refuse("list", prefix)) }
	}
	return s.Store.List(ctx, prefix)
}

func (s restricted) refuse(what, name string) error {
	if s.stopped() {
		return fmt.Errorf("%s %s: the work was called off: %w", what, name, context.Canceled)
	}
	return fmt.Errorf("%s %s: a mover that does %s may not: %w", what, name, s.verb, blob.ErrDenied)
}
