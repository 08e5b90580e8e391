package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// SiteStatus is what a site's agent tells whoever waits for the site; it is removed before each start.
type SiteStatus struct {
	Ready     bool     `json:"ready"`
	HTTPPort  int      `json:"httpPort"`
	HTTPSPort int      `json:"httpsPort"`
	Registry  string   `json:"registry"`
	Waiting   []string `json:"waiting,omitempty"` // what is not ready yet
	Failed    string   `json:"failed,omitempty"`  // why the agent gave up
	Notes     []string `json:"notes,omitempty"`
}

// WorldStatus is the same for what stands outside all sites.
type WorldStatus struct {
	Ready    bool      `json:"ready"`
	DNS      state.DNS `json:"dns"`
	Resolver string    `json:"resolver"`
	Failed   string    `json:"failed,omitempty"`
}

// ReadSiteStatus returns the zero status while there is none.
func ReadSiteStatus(s layout.Site) (SiteStatus, error) {
	var st SiteStatus
	return st, read(s.Status(), &st)
}

// ReadWorldStatus returns the zero status while there is none.
func ReadWorldStatus(s layout.Site) (WorldStatus, error) {
	var st WorldStatus
	return st, read(s.Status(), &st)
}

func read(path string, into any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// board collects what the parts of a process have reached, and writes each change to the status file.
type board struct {
	mu      sync.Mutex
	path    string
	status  SiteStatus
	missing map[string]bool
}

func newBoard(path string, parts ...string) *board {
	b := &board{path: path, missing: map[string]bool{}}
	for _, p := range parts {
		b.missing[p] = true
	}
	return b
}

// done notes that a part serves; set, which may be nil, changes the status with what the part found.
func (b *board) done(part string, set func(*SiteStatus)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.missing, part)
	if set != nil {
		set(&b.status)
	}
	b.status.Waiting = sortedKeys(b.missing)
	b.status.Ready = len(b.missing) == 0
	return state.WriteJSON(b.path, b.status)
}

func (b *board) failed(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Ready, b.status.Failed = false, err.Error()
	return state.WriteJSON(b.path, b.status)
}
