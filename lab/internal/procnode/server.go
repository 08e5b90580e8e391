package procnode

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// streamIdle ends exec and port-forward connections on which nothing happens for so long.
const streamIdle = 4 * time.Hour

// kubeletAPI is the node as the API server calls it.
type kubeletAPI struct{ *agent }

// serve answers the kubelet API until ctx ends. Whoever shows a certificate of the client CA may
// call all of it, as the site's API server does.
func (k kubeletAPI) serve(ctx context.Context) error {
	addr := net.JoinHostPort(k.opts.NodeIP, strconv.Itoa(k.opts.KubeletPort))
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           k.handler(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(k.opts.Log.Handler(), slog.LevelDebug),
	}
	closeAll := context.AfterFunc(ctx, func() { _ = server.Close() }) // what is open ends with the node
	defer closeAll()
	// HTTP/1.1 only: exec and port forwarding take the connection over.
	err = server.Serve(tls.NewListener(ln, &tls.Config{
		Certificates: []tls.Certificate{k.opts.ServerTLS}, ClientCAs: k.opts.ClientCA, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (k kubeletAPI) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("GET /pods", k.servePods)
	mux.HandleFunc("GET /stats/summary", k.serveStats)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", k.serveExec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", k.serveExec)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", k.servePortForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", k.servePortForward)
		mux.HandleFunc(method+" /attach/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "nodes of processes cannot attach; use logs -f or exec", http.StatusNotImplemented)
		})
	}
	return mux
}

func (k kubeletAPI) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, p := range k.list() {
		pod := p.current().DeepCopy()
		pod.Status = p.computeStatus()
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller is gone
}

// find resolves a request's pod and container; the answer to a caller is written if it fails.
func (k kubeletAPI) find(w http.ResponseWriter, r *http.Request) (*podRun, *container, bool) {
	p, err := k.lookup(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, nil, false
	}
	c, err := p.find(r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, nil, false
	}
	return p, c, true
}

func (k kubeletAPI) serveLogs(w http.ResponseWriter, r *http.Request) {
	_, c, ok := k.find(w, r)
	if !ok {
		return
	}
	q, err := parseLogQuery(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	path, live, err := c.logOf(r.URL.Query().Get("previous") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &flushing{w: w, c: http.NewResponseController(w)}
	if q.follow {
		out.Flush() // the caller waits for the header
	}
	if err := readLog(r.Context(), out, path, live, q); err != nil && !out.wrote {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// flushing sends what is written at once.
type flushing struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	wrote bool
}

func (f *flushing) Write(p []byte) (int, error) { f.wrote = true; return f.w.Write(p) }

func (f *flushing) Flush() { f.wrote = true; _ = f.c.Flush() } // the next write tells

func parseLogQuery(v url.Values, now time.Time) (logQuery, error) {
	q := logQuery{follow: v.Get("follow") == "true", timestamps: v.Get("timestamps") == "true", tail: -1, limit: -1}
	for name, to := range map[string]*int64{"tailLines": &q.tail, "limitBytes": &q.limit} {
		if s := v.Get(name); s != "" {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < 0 {
				return q, fmt.Errorf("%s %q is no count", name, s)
			}
			*to = n
		}
	}
	if s := v.Get("sinceSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return q, fmt.Errorf("sinceSeconds %q is no number of seconds", s)
		}
		q.since = now.Add(-time.Duration(n) * time.Second)
	}
	if s := v.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return q, fmt.Errorf("sinceTime %q is no time", s)
		}
		q.since = t
	}
	return q, nil
}

func (k kubeletAPI) serveExec(w http.ResponseWriter, r *http.Request) {
	p, c, ok := k.find(w, r)
	if !ok {
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	proc := c.running()
	if proc == nil {
		http.Error(w, fmt.Sprintf("container %s of pod %s is not running", c.spec.Name, p.key()), http.StatusNotFound)
		return
	}
	remotecommand.ServeExec(w, r, &executor{a: k.agent, proc: proc}, r.PathValue("pod"), string(p.uid), c.spec.Name, r.Form["command"],
		opts, streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k kubeletAPI) servePortForward(w http.ResponseWriter, r *http.Request) {
	p, err := k.lookup(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{p}, r.PathValue("pod"), string(p.uid), opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}
