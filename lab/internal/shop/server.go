package shop

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// SiteHeader is set on every response.
const SiteHeader = "X-Shop-Site"

// Status is what GET /status answers.
type Status struct {
	Site         string    `json:"site"`
	DataID       string    `json:"dataID"`
	Orders       int64     `json:"orders"`
	LastSequence int64     `json:"lastSequence"`
	StartedAt    time.Time `json:"startedAt"`
}

// Page is what GET /orders answers.
type Page struct {
	Site   string  `json:"site"`
	DataID string  `json:"dataID"`
	Orders []Order `json:"orders"`
}

// Acknowledgement is what POST /orders answers.
type Acknowledgement struct {
	ID             string    `json:"id"`
	Sequence       int64     `json:"sequence"`
	Site           string    `json:"site"`
	AcknowledgedAt time.Time `json:"acknowledgedAt"`
}

type server struct {
	site    string
	title   string
	gate    *gate
	started time.Time
	log     *slog.Logger
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", s.with(s.add))
	mux.HandleFunc("GET /orders", s.with(s.list))
	mux.HandleFunc("GET /orders/{id}", s.with(s.get))
	mux.HandleFunc("GET /status", s.with(s.status))
	mux.HandleFunc("GET /healthz", s.with(s.health))
	mux.HandleFunc("GET /livez", s.live)
	mux.HandleFunc("GET /{$}", s.with(s.page))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(SiteHeader, s.site)
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func (s *server) with(use func(http.ResponseWriter, *http.Request, Store) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		st, err := s.gate.get(r.Context())
		if err == nil {
			err = use(w, r, st)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
}

// badRequest is a client's mistake.
type badRequest struct{ error }

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusServiceUnavailable
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		code = http.StatusBadRequest
	case errors.Is(err, ErrDifferent):
		code = http.StatusConflict
	case errors.Is(err, ErrNoOrder):
		code = http.StatusNotFound
	default:
		s.log.Warn("not served", "method", r.Method, "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, code, map[string]string{"error": err.Error(), "site": s.site})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client has gone if this fails, and with it whoever could be told.
	_ = json.NewEncoder(w).Encode(v)
}

func (s *server) add(w http.ResponseWriter, r *http.Request, st Store) error {
	var req Request
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return badRequest{fmt.Errorf("the order is not understood: %w", err)}
	}
	if err := req.Check(); err != nil {
		return badRequest{err}
	}
	o, err := st.Add(r.Context(), s.site, req)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/orders/"+o.ID)
	writeJSON(w, http.StatusCreated, Acknowledgement{ID: o.ID, Sequence: o.Sequence, Site: o.Site, AcknowledgedAt: o.AcknowledgedAt})
	return nil
}

func (s *server) list(w http.ResponseWriter, r *http.Request, st Store) error {
	after, err := number(r, "after")
	if err != nil {
		return err
	}
	limit, err := number(r, "limit")
	if err != nil {
		return err
	}
	orders, err := st.List(r.Context(), after, int(limit))
	if err != nil {
		return err
	}
	sum, err := st.Summary(r.Context())
	if err != nil {
		return err
	}
	if orders == nil {
		orders = []Order{}
	}
	writeJSON(w, http.StatusOK, Page{Site: s.site, DataID: sum.DataID, Orders: orders})
	return nil
}

func number(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, badRequest{fmt.Errorf("%s must be a number from 0, not %q", name, text)}
	}
	return n, nil
}

func (s *server) get(w http.ResponseWriter, r *http.Request, st Store) error {
	o, err := st.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, o)
	return nil
}

func (s *server) status(w http.ResponseWriter, r *http.Request, st Store) error {
	sum, err := st.Summary(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Status{Site: s.site, DataID: sum.DataID, Orders: sum.Orders, LastSequence: sum.LastSequence, StartedAt: s.started})
	return nil
}

func (s *server) health(w http.ResponseWriter, r *http.Request, st Store) error {
	if err := st.Writable(r.Context()); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
	return nil
}

// live fails only where a restart of the process would help.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	if st, err := s.gate.get(r.Context()); err == nil {
		if err := st.Writable(r.Context()); errors.Is(err, ErrBroken) {
			s.fail(w, r, err)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{.Title}}</title>
<h1>{{.Title}}</h1>
<p>Served from site <b>{{.Site}}</b>, data <b>{{.DataID}}</b>: {{.Orders}} orders, the last is number {{.LastSequence}}.
</html>
`))

func (s *server) page(w http.ResponseWriter, r *http.Request, st Store) error {
	sum, err := st.Summary(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	return pageTemplate.Execute(w, struct {
		Title, Site string
		Summary
	}{s.title, s.site, sum})
}
