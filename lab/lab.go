package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/agent"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/wan"
)

// Nodes is the kind of a lab's nodes.
type Nodes string

// The kinds of node.
const (
	Processes Nodes = state.Processes // pods are processes of this machine; needs no root
	Pods      Nodes = state.Pods      // pods are containers; needs root and some of Debian's packages
)

// State describes a lab; `lifeboat-lab status -o json` prints it.
type (
	State = state.State
	Site  = state.Site
	Cut   = state.Cut
)

// Options say what lab to start.
type Options struct {
	Name  string   // "default" if empty
	Dir   string   // DefaultDir(Name) if empty; must be absent, empty or a lab's
	Nodes Nodes    // Processes if empty
	Sites []string // east and west if empty

	// Programs; each is looked for beside the running program if empty. Only the first two are needed
	// in mode Processes.
	SelfBinary     string // lifeboat-lab
	KubeBinary     string // lab-kube
	LifeboatBinary string // lifeboat
	ShopBinary     string // shop
	PauseBinary    string // pause

	Progress func(string) // gets a line per step; may be nil; called from several goroutines, one at a time
}

// Lab is a lab that is up, or was.
type Lab struct {
	dir layout.Dir
}

// DefaultName is the name of a lab that is given none.
const DefaultName = "default"

// DefaultDir is where the lab of that name is: $XDG_STATE_HOME/lifeboat-lab/NAME.
func DefaultDir(name string) (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", dr.Errorf(dr.ClassUsage, err, "Set HOME or XDG_STATE_HOME, or name a directory with --dir.", "cannot choose the lab's directory")
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "lifeboat-lab", name), nil
}

// Open returns the lab in dir; fs.ErrNotExist is in the error's chain if there is none.
func Open(dir string) (*Lab, error) {
	real, err := canonical(dir)
	if err == nil {
		_, err = os.Stat(layout.Dir(real).Marker())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dr.Errorf(dr.ClassUsage, err, "Start one: lifeboat-lab up", "there is no lab in %s", dir)
	}
	if err != nil {
		return nil, dr.Errorf(dr.ClassInternal, err, "", "cannot open the lab in %s", dir)
	}
	return &Lab{dir: layout.Dir(real)}, nil
}

// canonical is the one spelling of a directory that exists; processes of a lab are found by it.
func canonical(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("directory %s: %w", dir, err)
	}
	return filepath.EvalSymlinks(abs)
}

// Dir is the lab's directory.
func (l *Lab) Dir() string { return string(l.dir) }

// Kubeconfig is the path of a site's kubeconfig.
func (l *Lab) Kubeconfig(name string) (string, error) {
	st, err := l.State()
	if err != nil {
		return "", err
	}
	s, err := find(st, name)
	if err != nil {
		return "", err
	}
	return s.Kubeconfig, nil
}

// State returns what the lab's file says, with the state of each site as it is now.
func (l *Lab) State() (*State, error) {
	st, err := state.Load(string(l.dir))
	if err != nil {
		return nil, dr.Errorf(dr.ClassIncomplete, err, "Remove it: lifeboat-lab down, then lifeboat-lab up", "the lab in %s has no readable state", l.dir)
	}
	cuts, err := wan.Load(string(l.dir))
	if err != nil {
		return nil, err
	}
	st.Cuts = cuts
	for i := range st.Sites {
		s := &st.Sites[i]
		switch {
		case l.running(s.Name):
			s.State = state.Running
		case s.State != state.Killed:
			s.State = state.Stopped
		}
	}
	return st, nil
}

// Status is State with a note for all that is not as it should be.
func (l *Lab) Status(ctx context.Context) (*State, error) {
	st, err := l.State()
	if err != nil {
		return nil, err
	}
	if !st.Complete {
		st.Notes = append(st.Notes, "Starting this lab was not finished: lifeboat-lab up starts it over, lifeboat-lab down removes it.")
	}
	if !l.running(state.World) {
		st.Notes = append(st.Notes, "DNS and the resolver do not run: lifeboat-lab up starts them again.")
	}
	for _, s := range st.Sites {
		if s.State != state.Running {
			continue
		}
		if why := notReady(ctx, l.dir, st, s.Name); why != "" {
			st.Notes = append(st.Notes, fmt.Sprintf("Site %s runs but is not ready: %s.", s.Name, why))
		}
	}
	return st, nil
}

func notReady(ctx context.Context, dir layout.Dir, st *State, name string) string {
	status, err := agent.ReadSiteStatus(dir.Site(name))
	switch {
	case err != nil:
		return err.Error()
	case status.Failed != "":
		return status.Failed
	case !status.Ready:
		return "waiting for " + strings.Join(status.Waiting, ", ")
	}
	cfg, err := agent.ClusterConfig(st, name)
	if err != nil {
		return err.Error()
	}
	if err := cfg.Healthy(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// part is the directory of a site or of the world.
func (l *Lab) part(name string) layout.Site {
	if name == state.World {
		return l.dir.World()
	}
	return l.dir.Site(name)
}

// ref names the first process of a site or of the world; the zero Ref if it was never started.
func (l *Lab) ref(name string) site.Ref {
	var r site.Ref
	if err := readJSON(l.part(name).Init(), &r); err != nil {
		return site.Ref{} // never started, or a torn crash: what runs is found by its markers
	}
	return r
}

func (l *Lab) running(name string) bool { return l.ref(name).Alive() }

var siteName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$`)

// reserved are names that mean something else where a site could be named.
var reserved = []string{state.World, wan.Client, wan.DNS, wan.Resolver, wan.Vault}

func checkSites(sites []string) error {
	if len(sites) > layout.MaxSites {
		return dr.Errorf(dr.ClassUsage, nil, "", "%d sites are too many: a lab has at most %d", len(sites), layout.MaxSites)
	}
	seen := map[string]bool{}
	for _, s := range sites {
		switch {
		case !siteName.MatchString(s):
			return dr.Errorf(dr.ClassUsage, nil, "Use lower-case letters, digits and hyphens, at most 22, a letter first.", "%q is no name for a site", s)
		case slices.Contains(reserved, s):
			return dr.Errorf(dr.ClassUsage, nil, "Choose another name.", "%q stands for something outside all sites and cannot be a site's name", s)
		case seen[s]:
			return dr.Errorf(dr.ClassUsage, nil, "Name each site once.", "the site %q is named twice", s)
		}
		seen[s] = true
	}
	return nil
}

func find(st *State, name string) (*Site, error) {
	if s, ok := st.Site(name); ok {
		return s, nil
	}
	names := make([]string, 0, len(st.Sites))
	for _, s := range st.Sites {
		names = append(names, s.Name)
	}
	return nil, dr.Errorf(dr.ClassUsage, nil, "Name one of "+strings.Join(names, ", ")+".", "the lab %s has no site %q", st.Name, name)
}
