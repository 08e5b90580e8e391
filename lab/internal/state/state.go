// Package state describes a running lab: the file lab.json in the lab's directory, which is also
// what `lifeboat-lab up -o json` prints.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the state file in a lab's directory.
const FileName = "lab.json"

// Kinds of node.
const (
	Processes = "processes" // pods are processes of the host; needs no root
	Pods      = "pods"      // pods are containers; needs root and Debian's containerd, runc, …
)

// States of a site.
const (
	Running = "running"
	Killed  = "killed"  // ended by `kill`: all of its processes at once
	Stopped = "stopped" // not running for another reason (a crash, a reboot)
)

// Environment variables that every process of a lab carries.
const (
	EnvLab  = "LIFEBOAT_LAB"      // the lab's directory
	EnvSite = "LIFEBOAT_LAB_SITE" // the site's name, or World
)

// World is the pseudo-site of what stands outside all sites: DNS and the resolver.
const World = "world"

// State is a lab as its users see it.
type State struct {
	Name     string   `json:"name"`
	Dir      string   `json:"dir"`
	Nodes    string   `json:"nodes"`
	Sites    []Site   `json:"sites"`
	DNS      DNS      `json:"dns"`
	Resolver string   `json:"resolver"` // ip:port
	CAFile   string   `json:"caFile"`   // PEM of the CA that signs what routers serve
	Notes    []string `json:"notes"`    // plain sentences for a person
	Octet    int      `json:"octet,omitempty"`
	Complete bool     `json:"complete"` // false while `up` has not finished
	Binaries Binaries `json:"binaries"`
	Cuts     []Cut    `json:"cuts,omitempty"`
}

// Site is one cluster.
type Site struct {
	Name           string `json:"name"`
	Region         string `json:"region"`
	Kubeconfig     string `json:"kubeconfig"`
	Context        string `json:"context"`
	APIServer      string `json:"apiServer"` // https URL
	IngressAddress string `json:"ingressAddress"`
	IngressDomain  string `json:"ingressDomain"`
	HTTPPort       int    `json:"httpPort"`
	HTTPSPort      int    `json:"httpsPort"`
	Registry       string `json:"registry"` // host:port
	StorageClass   string `json:"storageClass"`
	State          string `json:"state"`
}

// DNS is the authoritative server of the shared zone.
type DNS struct {
	Zone     string `json:"zone"`
	Server   string `json:"server"`  // ip:port
	KeyFile  string `json:"keyFile"` // TSIG key that may update the zone
	Software string `json:"software"`
}

// Binaries are the programs a lab runs.
type Binaries struct {
	Self     string `json:"lifeboatLab"`
	Kube     string `json:"labKube"`
	Lifeboat string `json:"lifeboat,omitempty"`
	Shop     string `json:"shop,omitempty"`
	Pause    string `json:"pause,omitempty"`
}

// Cut is a partition between two endpoints: a site's name, "client", "dns" or "vault".
type Cut struct {
	A      string `json:"a"`
	B      string `json:"b"`
	OneWay bool   `json:"oneWay,omitempty"` // only what A begins towards B is lost
}

// Site returns the site of that name.
func (s *State) Site(name string) (*Site, bool) {
	for i := range s.Sites {
		if s.Sites[i].Name == name {
			return &s.Sites[i], true
		}
	}
	return nil, false
}

// Load reads the state of the lab in dir; fs.ErrNotExist when there is none.
func Load(dir string) (*State, error) {
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		return nil, fmt.Errorf("read the lab's state: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("parse %s: %w", filepath.Join(dir, FileName), err)
	}
	return &s, nil
}

// Save writes the state so that a reader sees the old or the new one, never a part.
func Save(s *State) error {
	return WriteJSON(filepath.Join(s.Dir, FileName), s)
}

// WriteJSON writes v to path atomically, readable by the owner alone.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// Exists says whether dir holds a lab's state.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, FileName))
	return !errors.Is(err, fs.ErrNotExist)
}
