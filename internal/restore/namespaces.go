package restore

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Elsewhere gives the documents of a checkpoint as if its namespaces had other names. Everything that names
// a namespace in a field made for it follows; a name inside of other text (a Service's address in a
// variable) is only pointed out, because nobody can know what it is for.
type Elsewhere struct {
	source     Source
	namespaces map[string]string
	addresses  *regexp.Regexp // of Services in the mapped namespaces

	mu    sync.Mutex
	notes map[key][]string
}

// InNamespaces maps the namespaces of a checkpoint.
func InNamespaces(source Source, namespaces map[string]string) *Elsewhere {
	var names []string
	for ns := range namespaces {
		names = append(names, regexp.QuoteMeta(ns))
	}
	slices.Sort(names)
	address := regexp.MustCompile(`[a-z0-9]([-a-z0-9]*[a-z0-9])?\.(` + strings.Join(names, "|") + `)\.svc\b`)
	return &Elsewhere{source: source, namespaces: namespaces, addresses: address, notes: map[key][]string{}}
}

// Walk implements Source.
func (e *Elsewhere) Walk(ctx context.Context, fn func(path string, doc []byte) error) error {
	return e.source.Walk(ctx, func(path string, doc []byte) error {
		mapped, err := e.document(path, doc)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return fn(path, mapped)
	})
}

// Source is what Load takes: a Reader where the source itself is one.
func (e *Elsewhere) Source() Source {
	if r, ok := e.source.(Reader); ok {
		return rereading{e, r}
	}
	return e
}

type rereading struct {
	*Elsewhere
	reader Reader
}

// Read implements Reader.
func (r rereading) Read(ctx context.Context, path string) ([]byte, error) {
	doc, err := r.reader.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	return r.document(path, doc)
}

func (e *Elsewhere) document(path string, doc []byte) ([]byte, error) {
	if path == metaPath {
		var m Meta
		if err := json.Unmarshal(doc, &m); err != nil {
			return nil, err
		}
		for i, ns := range m.Namespaces {
			m.Namespaces[i] = e.target(ns)
		}
		return json.Marshal(m)
	}
	o, err := decode(doc)
	if err != nil {
		return nil, err
	}
	notes := e.Map(o)
	if len(notes) > 0 {
		e.mu.Lock()
		e.notes[keyOf(o)] = notes
		e.mu.Unlock()
	}
	return json.Marshal(o.Object)
}

func (e *Elsewhere) target(ns string) string {
	if to, ok := e.namespaces[ns]; ok {
		return to
	}
	return ns
}

// notesOf are what there is to say of an object's move.
func (e *Elsewhere) notesOf(k key) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.notes[k]
}

// Map moves one object, and says what else of it a person has to know.
func (e *Elsewhere) Map(o *unstructured.Unstructured) (notes []string) {
	m := &mover{Elsewhere: e}
	kind := o.GroupVersionKind().GroupKind()
	switch {
	case o.GetNamespace() != "":
		o.SetNamespace(e.target(o.GetNamespace()))
	case kind == namespaceKind:
		m.namespace(o)
	}
	for _, field := range sortedKeys(o.Object) {
		switch field {
		case "apiVersion", "kind", "status":
		case "metadata":
			m.addressesIn("metadata.annotations", dig(o.Object, "metadata", "annotations"), false)
		case "data", "stringData", "binaryData":
			m.addressesIn(field, o.Object[field], kind == secretKind && field == "data")
		default:
			if kind != crdKind || field != "spec" {
				m.value(field, o.Object[field])
			}
		}
	}
	switch kind {
	case crdKind:
		m.value("spec.conversion", dig(o.Object, "spec", "conversion"))
	case constraintKind:
		m.accounts(o.Object, "users")
		m.accounts(o.Object, "groups")
	}
	if m.moved && kind == (gk{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}) {
		m.rename(o)
	}
	return m.notes
}

// mover moves one object.
type mover struct {
	*Elsewhere
	notes []string
	moved bool // a field other than the object's own namespace was changed
	to    string
}

func (m *mover) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

func (m *mover) namespace(o *unstructured.Unstructured) {
	to, ok := m.namespaces[o.GetName()]
	if !ok {
		return
	}
	labels := o.GetLabels()
	if labels["kubernetes.io/metadata.name"] != "" {
		labels["kubernetes.io/metadata.name"] = to
		o.SetLabels(labels)
	}
	m.note("it was %s", o.GetName())
	o.SetName(to)
}

// rename gives a binding for accounts of the copy a name beside that of the original.
func (m *mover) rename(o *unstructured.Unstructured) {
	name := o.GetName() + "-" + m.to
	m.note("it was %s, which stays as it is", o.GetName())
	o.SetName(name)
}

// value walks through fields. A "namespace" beside others is a reference, whatever kind it is in; so are
// lists of namespaces, and selectors by the label that every namespace has.
func (m *mover) value(path string, v any) {
	switch x := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(x) {
			p := path + field(k)
			switch inner := x[k].(type) {
			case string:
				m.text(p, k, x, inner)
			case []any:
				m.list(p, k, inner)
			default:
				m.value(p, x[k])
			}
		}
		m.expression(path, x)
	case []any:
		m.list(path, "", x)
	}
}

func (m *mover) text(path, key string, in map[string]any, s string) {
	switch {
	case key == "namespace", key == "kubernetes.io/metadata.name":
		if to := m.target(s); to != s {
			in[key] = to
			m.follow(path, s, to)
		}
	case key == "name" && (in["kind"] == "User" || in["kind"] == "Group"):
		if to := m.account(s); to != s {
			in[key] = to
			m.follow(path, s, to)
		}
	default:
		m.pointOut(path, s)
	}
}

func (m *mover) list(path, key string, list []any) {
	names := key == "namespaces" || key == "matchNames"
	for i, e := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		s, ok := e.(string)
		switch {
		case ok && names:
			if to := m.target(s); to != s {
				list[i] = to
				m.follow(p, s, to)
			}
		case ok:
			m.pointOut(p, s)
		default:
			m.value(p, e)
		}
	}
}

// expression is a selector of namespaces by name: {key: kubernetes.io/metadata.name, operator: In, values: […]}.
func (m *mover) expression(path string, e map[string]any) {
	values, ok := e["values"].([]any)
	if !ok || e["key"] != "kubernetes.io/metadata.name" {
		return
	}
	for i, v := range values {
		if s, ok := v.(string); ok && m.target(s) != s {
			values[i] = m.target(s)
			m.follow(path+".values", s, m.target(s))
		}
	}
}

func (m *mover) accounts(o map[string]any, field string) {
	list, _ := o[field].([]any)
	for i, v := range list {
		if s, ok := v.(string); ok && m.account(s) != s {
			list[i] = m.account(s)
			m.follow(field, s, m.account(s))
		}
	}
}

// account maps the user and group names under which the accounts of a namespace appear.
func (m *mover) account(name string) string {
	for _, prefix := range []string{"system:serviceaccount:", "system:serviceaccounts:"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		ns, account, more := strings.Cut(rest, ":")
		if more {
			return prefix + m.target(ns) + ":" + account
		}
		return prefix + m.target(ns)
	}
	return name
}

func (m *mover) follow(path, from, to string) {
	m.moved = true
	m.to = m.namespaceOf(to)
	m.note("%s: %s becomes %s", path, from, to)
}

// namespaceOf is that of an account, or the namespace itself.
func (m *mover) namespaceOf(s string) string {
	if _, rest, ok := strings.Cut(s, "system:serviceaccount"); ok {
		_, rest, _ = strings.Cut(rest, ":")
		ns, _, _ := strings.Cut(rest, ":")
		return ns
	}
	return s
}

// pointOut names an address of a Service in a namespace that is mapped.
func (m *mover) pointOut(path, s string) {
	if found := m.addresses.FindString(s); found != "" {
		m.note("%s names %s, which is the original's; it is left as it is: change it with a transform if the copy shall use its own", path, found)
	}
}

// addressesIn looks through text of which only a program knows the meaning. Values are not shown.
func (m *mover) addressesIn(path string, v any, encoded bool) {
	switch x := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(x) {
			m.addressesIn(path+field(k), x[k], encoded)
		}
	case string:
		if encoded {
			raw, err := base64.StdEncoding.DecodeString(x)
			if err != nil {
				return
			}
			x = string(raw)
		}
		m.pointOut(path, x)
	}
}
