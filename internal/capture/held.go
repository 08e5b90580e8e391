package capture

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
)

// held is what has been captured: the names of the objects, and what of the cluster they need. Their contents
// are the sink's.
type held struct {
	namespaces []string

	mu      sync.Mutex
	shelves map[string]*shelf // by what they hold
	refs    map[reference]int
	naming  map[string][]reference // the objects that name others, by path
	facts   map[string]map[string]fact
	wanted  map[string]set     // what of the cluster was needed when that was last worked out, by kind
	absent  map[reference]bool // what of it the site said it does not have
}

func newHeld(namespaces []string) *held {
	return &held{namespaces: namespaces, shelves: map[string]*shelf{}, refs: map[reference]int{}, naming: map[string][]reference{},
		facts: map[string]map[string]fact{}, absent: map[reference]bool{}}
}

// place takes shelves in. One that is there already is the one that counts.
func (h *held) place(shelves []*shelf) []*shelf {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, s := range shelves {
		if is := h.shelves[s.what()]; is != nil {
			shelves[i] = is
			continue
		}
		s.names = map[string]uint32{}
		h.shelves[s.what()] = s
	}
	return shelves
}

// discard takes a shelf out whose kind is served no longer.
func (h *held) discard(s *shelf) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.shelves, s.what())
	delete(h.facts, s.kind())
}

// namesOf are the objects of a shelf that are captured.
func (h *held) namesOf(s *shelf) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(s.names))
}

// recall puts documents that are there from before on their shelves, and returns those that have none.
func (h *held) recall(paths iter.Seq[string]) (others []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	byDir := map[string]*shelf{}
	for _, s := range h.shelves {
		byDir[s.dir()+s.only] = s
	}
	for p := range paths {
		dir := p[:strings.LastIndexByte(p, '/')+1]
		name := strings.TrimSuffix(p[len(dir):], ".json")
		s := byDir[dir]
		if s == nil {
			s = byDir[dir+name]
		}
		if s == nil {
			if p != MetaPath {
				others = append(others, p)
			}
			continue
		}
		s.names[strings.Clone(name)] = 0
	}
	return others
}

// begin opens a round in which every object of a shelf that is seen is noted.
func (h *held) begin(s *shelf) uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.lists++
	return s.lists
}

// add notes an object and what it names.
func (h *held) add(s *shelf, name string, refs []reference) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.names[name] = s.lists
	path := ""
	if len(refs) > 0 || len(h.naming) > 0 {
		path = s.path(name)
	}
	for _, r := range refs {
		h.refs[r]++
	}
	h.release(path)
	if len(refs) > 0 {
		h.naming[path] = append([]reference(nil), refs...)
	}
}

// release forgets what an object named; the caller holds mu.
func (h *held) release(path string) {
	for _, r := range h.naming[path] {
		if h.refs[r]--; h.refs[r] == 0 {
			delete(h.refs, r)
		}
	}
	delete(h.naming, path)
}

func (h *held) remove(s *shelf, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(s.names, name)
	h.release(s.path(name))
}

// forget drops what is known of an object of the whole cluster.
func (h *held) forget(s *shelf, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.facts[s.kind()], name)
}

func (h *held) has(s *shelf, name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := s.names[name]
	return ok
}

// end closes a round, after a complete list, and returns the objects of the shelf that were not seen in it.
func (h *held) end(s *shelf, round uint32) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.read = true
	var out []string
	for name, seen := range s.names {
		if seen != round {
			out = append(out, name)
		}
	}
	return out
}

// compare says which needed objects of a shelf are not captured, and which captured ones are not needed. None
// is called not needed before everything that may need it has been read.
func (h *held) compare(s *shelf) (fetch, drop []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	needed := h.wanted[s.kind()]
	for _, name := range needed.sorted() {
		if _, captured := s.names[name]; !captured && !h.absent[reference{s.kind(), name}] {
			fetch = append(fetch, name)
		}
	}
	for _, other := range h.shelves {
		if !other.read {
			return fetch, nil
		}
	}
	for name := range s.names {
		if !needed[name] {
			drop = append(drop, name)
		}
	}
	return fetch, drop
}

// isAbsent notes that the site does not have an object that is needed.
func (h *held) isAbsent(s *shelf, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.absent[reference{s.kind(), name}] = true
}

// definitions are the CRDs of the captured objects, as far as their kinds may be custom: built-in groups have
// no dot or end in .k8s.io, and the latter may be custom too. The caller holds mu.
func (h *held) definitions() set {
	out := set{}
	for _, s := range h.shelves {
		if len(s.names) > 0 && strings.Contains(s.Group, ".") && s.Group != "apiextensions.k8s.io" {
			out[s.kind()] = true
		}
	}
	return out
}

// custom says whether a CRD is needed; the caller holds mu.
func (h *held) custom(name string) bool {
	_, group, _ := strings.Cut(name, ".")
	if !strings.Contains(group, ".") || group == "apiextensions.k8s.io" {
		return false
	}
	for _, ns := range h.namespaces {
		if s := h.shelves[name+" of namespace "+ns]; s != nil && len(s.names) > 0 {
			return true
		}
	}
	return false
}

// describe fills in what was captured.
func (h *held) describe(r *Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.shelves {
		if n := len(s.names); n > 0 {
			r.Objects += n
			r.Counts[s.kind()] += n
			r.APIVersions[s.kind()] = s.versions
		}
	}
	for name, f := range h.facts[kindStorageClass] {
		if f.byDefault && (r.DefaultStorageClass == "" || name < r.DefaultStorageClass) {
			r.DefaultStorageClass = name
		}
	}
}
