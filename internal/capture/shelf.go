package capture

import (
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// shelf is what is captured by one list and its watch: a kind in a namespace, a kind of the whole cluster, or
// a single object.
type shelf struct {
	resource
	namespace string
	only      string // name of the single object

	names map[string]uint32 // the captured objects, and in which list each was last seen; guarded by held
	lists uint32            // how many there were
	read  bool              // one of them was complete

	turn sync.Mutex // held while an object of the whole cluster is read or handled: the newest comes last
}

func (s *shelf) kind() string { return s.GroupResource().String() }

// what names it for people.
func (s *shelf) what() string {
	switch {
	case s.only != "":
		return s.kind() + " " + s.only
	case s.namespace != "":
		return s.kind() + " of namespace " + s.namespace
	}
	return s.kind()
}

// dir is where its documents are, with a slash at the end.
func (s *shelf) dir() string {
	group := s.Group
	if group == "" {
		group = "core"
	}
	if s.namespace == "" {
		return "cluster/" + group + "/" + s.Resource + "/"
	}
	return "namespaces/" + s.namespace + "/" + group + "/" + s.Resource + "/"
}

func (s *shelf) path(name string) string { return s.dir() + name + ".json" }

// query asks for its objects.
func (s *shelf) query(labels string) query {
	parts := []string{"/apis", s.Group, s.Version}
	if s.Group == "" {
		parts = []string{"/api", s.Version}
	}
	q := query{}
	if s.namespace != "" {
		parts = append(parts, "namespaces", s.namespace)
		q.labels = labels
	}
	if s.only != "" {
		q.fields = "metadata.name=" + s.only
	}
	q.path = strings.Join(append(parts, s.Resource), "/")
	return q
}

// namespaceShelves are the application's namespaces themselves.
func (e *engine) namespaceShelves() []*shelf {
	var out []*shelf
	for _, ns := range e.scope.Namespaces {
		out = append(out, &shelf{only: ns, resource: resource{
			GroupVersionResource: corev1.SchemeGroupVersion.WithResource("namespaces"), kindName: "Namespace", versions: []string{"v1"},
		}})
	}
	return e.held.place(out)
}

// namespacedShelves are the kinds that live in the application's namespaces.
func (e *engine) namespacedShelves(served []resource) []*shelf {
	var out []*shelf
	for _, r := range served {
		if !r.namespaced || skipKind(r.GroupResource()) {
			continue
		}
		for _, ns := range e.scope.Namespaces {
			out = append(out, &shelf{resource: r, namespace: ns})
		}
	}
	return e.held.place(out)
}

// clusterShelves are the kinds of the whole cluster of which an application may need some.
func (e *engine) clusterShelves(served []resource) []*shelf {
	var out []*shelf
	for _, r := range served {
		if !r.namespaced && selects(r.GroupResource().String()) {
			out = append(out, &shelf{resource: r})
		}
	}
	return e.held.place(out)
}
