// Package config reads and writes fleet files: every problem in a file is reported at once, each with
// its line and what to do about it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// APIVersion is the only version of the kinds that this version reads and writes.
const APIVersion = "lifeboat.dev/v1alpha1"

// What a fleet file may leave out.
const (
	DefaultTTL          = 30 * time.Second
	DefaultProbeTimeout = 2 * time.Second
)

const maxFileBytes = 4 << 20

// Load reads the fleet file at path. Its error is a *dr.Error of class usage; where the file could be
// read it wraps *Errors.
func Load(path string) (*dr.Fleet, error) {
	f, err := os.Open(path)
	if err != nil {
		next := "Name the fleet file with --fleet, or write one with `lifeboat init`."
		return nil, dr.Errorf(dr.ClassUsage, err, next, "cannot read fleet file %s", path)
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "Name a file that can be read with --fleet.", "cannot read fleet file %s", path)
	}
	if len(data) > maxFileBytes {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Name a fleet file with --fleet.", "%s is larger than 4 MiB and cannot be a fleet file", path)
	}
	return Parse(path, data)
}

// Parse reads a fleet from data. Relative paths in it are taken from the directory of the file name,
// paths that begin with ~/ from the home directory.
func Parse(name string, data []byte) (*dr.Fleet, error) {
	d := newDecoder(name)
	d.documents(data)
	for _, check := range d.afterwards {
		check()
	}
	if d.count == 0 && len(d.problems) == 0 {
		d.addAt(1, 1, "the file declares nothing", "declare at least a Site, or write a file with `lifeboat init`")
	}
	if len(d.problems) > 0 {
		errs := newErrors(d.problems)
		next := "Correct the file and run the command again; nothing was changed."
		return nil, dr.Errorf(dr.ClassUsage, errs, next, "fleet file %s has %s", name, errs.count())
	}
	return d.fleet(), nil
}

// decoder holds what was read so far. Pointers let the checks that need the whole file, which run
// afterwards, fill in what they resolve.
type decoder struct {
	file string // as the user named it, for messages
	dir  string // what relative paths start from
	home string

	count      int // documents that were not empty
	problems   []Problem
	afterwards []func()

	sites        named[dr.Site]
	vaults       named[dr.Vault]
	zones        named[dr.Zone]
	tiers        named[dr.Tier]
	applications named[dr.Application]
}

func newDecoder(name string) *decoder {
	d := &decoder{file: name, dir: "."}
	if abs, err := filepath.Abs(name); err == nil {
		d.dir = filepath.Dir(abs)
	}
	if home, err := os.UserHomeDir(); err == nil {
		d.home = home
	}
	return d
}

func (d *decoder) fleet() *dr.Fleet {
	return &dr.Fleet{
		Sites: d.sites.values(), Vaults: d.vaults.values(), Zones: d.zones.values(), Tiers: d.tiers.values(),
		Applications: d.applications.values(),
	}
}

func (d *decoder) documents(data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			d.syntax(err)
			return
		}
		if len(doc.Content) == 0 || isNull(doc.Content[0]) {
			continue
		}
		d.count++
		d.document(doc.Content[0])
	}
}

var lineInYAMLError = regexp.MustCompile(`line (\d+)(?:, column (\d+))?: *`)

func (d *decoder) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line, column := 1, 1
	if m := lineInYAMLError.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // the expression admits digits only; a number too large stays 0
		if c, err := strconv.Atoi(m[2]); err == nil {
			column = c
		}
		text = strings.Replace(text, m[0], "", 1)
	}
	d.addAt(max(line, 1), column, "not valid YAML: "+text, "check the indentation, colons and quotes near this line")
}

func (d *decoder) document(n *yaml.Node) {
	o, ok := d.object(n, "document")
	if !ok {
		return
	}
	version, kind := o.text("apiVersion", required), o.text("kind", required)
	if version.ok() && version.value != APIVersion {
		d.add(version.node, fmt.Sprintf("unknown apiVersion %q", version.value), "write "+APIVersion)
	}
	if !kind.ok() {
		return // without a kind nothing below has a meaning
	}
	read := d.reader(kind)
	if read == nil {
		return
	}
	o.title = kind.value
	meta, ok := o.object("metadata", required)
	var name text
	if ok {
		name = meta.text("name", required)
		meta.ignore("labels", "annotations")
		meta.end()
		if name.ok() {
			o.title = kind.value + " " + name.value
		}
	}
	if spec, ok := o.object("spec", required); ok {
		spec.path = "" // "sites.preferred" is clear enough
		read(name, spec)
		spec.end()
	}
	o.end()
}

func (d *decoder) reader(kind text) func(text, *object) {
	switch kind.value {
	case "Site":
		return d.site
	case "Vault":
		return d.vault
	case "Zone":
		return d.zone
	case "Tier":
		return d.tier
	case "Application":
		return d.application
	}
	kinds := []string{"Site", "Vault", "Zone", "Tier", "Application"}
	remedy := "the kinds are " + strings.Join(kinds, ", ")
	if near := nearest(kind.value, kinds); near != "" {
		remedy = fmt.Sprintf("did you mean %s?", near)
	}
	d.add(kind.node, fmt.Sprintf("unknown kind %q", kind.value), remedy)
	return nil
}
