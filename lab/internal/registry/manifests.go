package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// manifestLimit is what registries commonly take for one manifest.
const manifestLimit = 4 << 20

// keeper stands before the registry, which remembers manifests in memory only, and writes those that it
// accepted to disk: one file for each name and tag or digest, its type in the first line.
type keeper struct {
	dir  string
	next http.Handler
	mu   sync.Mutex // one change at a time, so that disk and memory see the same order
}

func newKeeper(dir string, next http.Handler) (*keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the registry's directory: %w", err)
	}
	k := &keeper{dir: dir, next: next}
	return k, k.load()
}

// load gives the registry what it knew before. An index is refused before its images are there, so what was
// refused is tried again as long as others get in.
func (k *keeper) load() error {
	waiting, err := k.files()
	if err != nil {
		return fmt.Errorf("reading the registry's manifests: %w", err)
	}
	for len(waiting) > 0 {
		var refused []string
		for _, path := range waiting {
			ok, err := k.replay(path)
			if err != nil {
				return err
			}
			if !ok {
				refused = append(refused, path)
			}
		}
		if len(refused) == len(waiting) {
			return fmt.Errorf("the registry does not take back %d manifests, the first is %s: blobs are missing beside it", len(refused), refused[0])
		}
		waiting = refused
	}
	return nil
}

func (k *keeper) files() ([]string, error) {
	var list []string
	err := filepath.WalkDir(k.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".new") {
			list = append(list, path)
		}
		return err
	})
	return list, err
}

func (k *keeper) replay(path string) (bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading a manifest: %w", err)
	}
	rel, err := filepath.Rel(k.dir, path)
	if err != nil {
		return false, fmt.Errorf("reading a manifest: %w", err)
	}
	mediaType, content, _ := bytes.Cut(data, []byte{'\n'})
	at := strings.LastIndexByte(rel, filepath.Separator)
	req := httptest.NewRequest(http.MethodPut, "/v2/"+rel[:max(at, 0)]+"/manifests/"+rel[at+1:], bytes.NewReader(content))
	req.Header.Set("Content-Type", string(mediaType))
	w := httptest.NewRecorder()
	k.next.ServeHTTP(w, req)
	return w.Code == http.StatusCreated, nil
}

// path returns the file of a request for a manifest; repository names have slashes, tags and digests none.
func (k *keeper) path(req *http.Request) (string, bool) {
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		return "", false
	}
	at := strings.LastIndex(rest, "/manifests/")
	if at < 1 {
		return "", false
	}
	rel := filepath.Join(rest[:at], rest[at+len("/manifests/"):])
	return filepath.Join(k.dir, rel), filepath.IsLocal(rel)
}

// ServeHTTP implements http.Handler.
func (k *keeper) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path, ok := k.path(req)
	if !ok || req.Method != http.MethodPut && req.Method != http.MethodDelete {
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
	answer := httptest.NewRecorder()
	k.next.ServeHTTP(answer, req)
	if answer.Code < 300 {
		if err := k.keep(path, req, content); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // the client has gone: nobody to tell
}

func (k *keeper) keep(path string, req *http.Request, content []byte) error {
	if req.Method == http.MethodDelete {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forgetting a manifest: %w", err)
		}
		return nil
	}
	data := append([]byte(req.Header.Get("Content-Type")+"\n"), content...)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+".new", data, 0o600))
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keeping a manifest: %w", err)
	}
	return nil
}
