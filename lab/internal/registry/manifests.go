package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// manifestLimit is what registries commonly take for one manifest.
const manifestLimit = 4 << 20

// keeper stands before the registry, which remembers manifests in memory only, and writes those that it
// accepted to disk: DIR/REPOSITORY/TAG-OR-DIGEST, both escaped, the media type in the first line.
type keeper struct {
	dir  string
	next http.Handler
	mu   sync.Mutex // one change at a time, so that disk and memory see the same order
}

func newKeeper(ctx context.Context, dir string, next http.Handler, log *slog.Logger) (*keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the registry's directory: %w", err)
	}
	k := &keeper{dir: dir, next: next}
	return k, k.load(ctx, log)
}

// load gives the registry what it knew before. An index is refused before its images are there, so what was
// refused is tried again as long as others get in.
func (k *keeper) load(ctx context.Context, log *slog.Logger) error {
	waiting, err := filepath.Glob(filepath.Join(k.dir, "*", "*"))
	if err != nil {
		return fmt.Errorf("reading the registry's manifests: %w", err)
	}
	for len(waiting) > 0 {
		var refused []string
		for _, path := range waiting {
			ok, err := k.replay(ctx, path)
			if err != nil {
				return fmt.Errorf("reading manifest %s: %w", path, err)
			}
			if !ok {
				refused = append(refused, path)
			}
		}
		if len(refused) == len(waiting) {
			log.Warn("these manifests are left out, parts of them are missing", "manifests", refused)
			return nil
		}
		waiting = refused
	}
	return nil
}

func (k *keeper) replay(ctx context.Context, path string) (bool, error) {
	if strings.HasSuffix(path, ".new") {
		return true, os.Remove(path) // it was being written when the registry was killed
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	repository, err1 := url.PathUnescape(filepath.Base(filepath.Dir(path)))
	reference, err2 := url.PathUnescape(filepath.Base(path))
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	mediaType, content, _ := bytes.Cut(data, []byte{'\n'})
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+reference, bytes.NewReader(content))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", string(mediaType))
	var a answer
	k.next.ServeHTTP(&a, req)
	return a.code == http.StatusCreated, nil
}

// ServeHTTP implements http.Handler.
func (k *keeper) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rest, inV2 := strings.CutPrefix(req.URL.Path, "/v2/")
	at := strings.LastIndex(rest, "/manifests/")
	if !inV2 || at < 1 || req.Method != http.MethodPut && req.Method != http.MethodDelete {
		k.next.ServeHTTP(w, req)
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, req.Body, manifestLimit))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(content))
	k.mu.Lock()
	defer k.mu.Unlock()
	var a answer
	k.next.ServeHTTP(&a, req)
	if a.code < 300 {
		dir := filepath.Join(k.dir, url.PathEscape(rest[:at]))
		if err := k.keep(dir, rest[at+len("/manifests/"):], req, content); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.code)
	_, _ = w.Write(a.body.Bytes()) // the client has gone: nobody to tell
}

// keep writes a manifest under its reference and, for the time when a tag has moved on, its digest.
func (k *keeper) keep(dir, reference string, req *http.Request, content []byte) error {
	if req.Method == http.MethodDelete {
		err := os.Remove(filepath.Join(dir, url.PathEscape(reference)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forgetting a manifest: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping a manifest: %w", err)
	}
	data := append([]byte(req.Header.Get("Content-Type")+"\n"), content...)
	sum := sha256.Sum256(content)
	for _, name := range []string{"sha256:" + hex.EncodeToString(sum[:]), reference} {
		path := filepath.Join(dir, url.PathEscape(name))
		err := os.WriteFile(path+".new", data, 0o600)
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			return fmt.Errorf("keeping a manifest: %w", err)
		}
	}
	return nil
}

// answer holds back what the registry says until the manifest is on disk.
type answer struct {
	code   int
	header http.Header
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) { a.code = code }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.body.Write(b)
}
