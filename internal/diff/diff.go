// Package diff says in what two states of an object differ, field by field and without showing secrets.
package diff

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Op is what became of a field or an object.
type Op string

// What can become of it.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
)

// Field is one difference.
type Field struct {
	Path   string `json:"path"` // spec.template.spec.containers[web].image
	Op     Op     `json:"op"`
	Before any    `json:"before,omitempty"` // masked where it may be secret
	After  any    `json:"after,omitempty"`
}

// Object is how one object differs.
type Object struct {
	Object string  `json:"object"` // "Deployment shop/web"
	Op     Op      `json:"op"`
	Fields []Field `json:"fields,omitempty"` // of one that changed
}

// Options say what does not count as a difference.
type Options struct {
	// Status compares statuses too; by default they are left out.
	Status bool
	// Without names annotations and labels that do not count.
	Without []string
}

// Fields compares two states of one object, in order of path. What a cluster writes by itself (uid,
// resourceVersion, generation, timestamps, managed fields) does not count.
func Fields(before, after map[string]any, opts Options) []Field {
	d := differ{secret: before["kind"] == "Secret" || after["kind"] == "Secret"}
	for _, k := range keysOf(before, after) {
		switch {
		case k == "status" && !opts.Status:
		case k == "metadata":
			d.value(k, written(before[k], opts.Without), written(after[k], opts.Without))
		default:
			d.value(k, before[k], after[k])
		}
	}
	return d.found
}

// written are the metadata that somebody wrote.
func written(v any, without []string) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := make(map[string]any, len(m))
	for k, v := range m {
		switch k {
		case "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink":
		case "ownerReferences":
			out[k] = withoutUIDs(v)
		case "annotations":
			out[k] = withoutOwn(v, without)
		case "labels":
			out[k] = leaving(v, without)
		default:
			out[k] = v
		}
	}
	return out
}

func withoutUIDs(v any) any {
	list, _ := v.([]any)
	out := make([]any, 0, len(list))
	for _, e := range list {
		ref, ok := e.(map[string]any)
		if !ok {
			return v
		}
		c := make(map[string]any, len(ref))
		for k, v := range ref {
			if k != "uid" {
				c[k] = v
			}
		}
		out = append(out, c)
	}
	return out
}

// withoutOwn leaves out what Kubernetes counts in annotations, and what kubectl keeps: the whole object once
// more, its secrets too.
func withoutOwn(v any, without []string) any {
	return leaving(v, append([]string{"kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"}, without...))
}

// leaving leaves keys out.
func leaving(v any, without []string) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := make(map[string]any, len(m))
	for k, v := range m {
		if !slices.Contains(without, k) {
			out[k] = v
		}
	}
	return out
}

type differ struct {
	secret bool
	found  []Field
}

func (d *differ) value(path string, before, after any) {
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			for _, k := range keysOf(b, a) {
				d.value(path+field(k), b[k], a[k])
			}
			return
		}
	case []any:
		if a, ok := after.([]any); ok {
			d.list(path, b, a)
			return
		}
	default:
		if equal(before, after) {
			return
		}
	}
	if void(before) && void(after) {
		return // {} or [] and nothing are the same to a reader
	}
	f := Field{Path: path, Op: Changed, Before: d.mask(path, before), After: d.mask(path, after)}
	switch {
	case before == nil:
		f.Op = Added
	case after == nil:
		f.Op = Removed
	case d.secret && text(f.Before) == text(f.After):
		f.After = text(f.After) + ", others"
	}
	d.found = append(d.found, f)
}

// list compares by name where the elements of both have names, else one by one.
func (d *differ) list(path string, before, after []any) {
	by := Identity(before, after)
	if by == nil {
		for i := range max(len(before), len(after)) {
			d.value(fmt.Sprintf("%s[%d]", path, i), at(before, i), at(after, i))
		}
		return
	}
	find := func(list []any, id string) any {
		return at(list, slices.IndexFunc(list, func(e any) bool { return by(e) == id }))
	}
	for _, b := range before {
		id := by(b)
		d.value(path+"["+id+"]", b, find(after, id))
	}
	for _, a := range after {
		if id := by(a); find(before, id) == nil {
			d.value(path+"["+id+"]", nil, a)
		}
	}
}

func at(list []any, i int) any {
	if i < 0 || i >= len(list) {
		return nil
	}
	return list[i]
}

// Identity finds the fields that name the elements of all the lists, as server-side apply does: nil where
// there are none, or they are not maps that are named apart.
func Identity(lists ...[]any) func(element any) string {
	for _, fields := range [][]string{{"name"}, {"uid"}, {"port", "protocol"}, {"containerPort", "protocol"}, {"mountPath"}, {"devicePath"}, {"key", "operator", "effect"}, {"type"}, {"host"}, {"ip"}} {
		by := func(e any) string {
			m, ok := e.(map[string]any)
			if !ok || m[fields[0]] == nil {
				return ""
			}
			parts := make([]string, 0, len(fields))
			for _, f := range fields {
				if v := m[f]; v != nil {
					parts = append(parts, fmt.Sprint(v))
				} else if f == "protocol" {
					parts = append(parts, "TCP")
				}
			}
			return strings.Join(parts, "/")
		}
		if !slices.ContainsFunc(lists, func(l []any) bool { return !apart(l, by) }) {
			return by
		}
	}
	return nil
}

func apart(list []any, by func(any) string) bool {
	seen := map[string]bool{}
	for _, e := range list {
		id := by(e)
		if id == "" || seen[id] {
			return false
		}
		seen[id] = true
	}
	return true
}

// mask hides what may be secret: a Secret's values, and environment variables that are named like one.
func (d *differ) mask(path string, v any) any {
	if v == nil || !d.secret || !strings.HasPrefix(path, "data") && !strings.HasPrefix(path, "stringData") {
		return hidden(path, v)
	}
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, inner := range x {
			out[k] = d.mask(path, inner)
		}
		return out
	case string:
		n := len(x)
		if raw, err := base64.StdEncoding.DecodeString(x); err == nil && strings.HasPrefix(path, "data") {
			n = len(raw)
		}
		return fmt.Sprintf("(secret, %d bytes)", n)
	}
	return "(secret)"
}

// hidden masks the values of variables whose names say that they are secret.
func hidden(path string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		name, _ := x["name"].(string)
		if _, plain := x["value"].(string); plain && secretName(name) {
			return map[string]any{"name": name, "value": "(secret)"}
		}
		out := make(map[string]any, len(x))
		for k, inner := range x {
			out[k] = hidden("", inner)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, inner := range x {
			out[i] = hidden("", inner)
		}
		return out
	case string:
		if Secret(path) {
			return "(secret)"
		}
	}
	return v
}

// Secret says whether a path leads to the value of a variable whose name says that it is secret.
func Secret(path string) bool {
	i := strings.LastIndex(path, ".env[")
	return i >= 0 && strings.HasSuffix(path, ".value") && secretName(path[i:])
}

func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"password", "passwd", "secret", "token", "apikey", "api_key", "credential", "private_key"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// equal: JSON has one kind of number.
func equal(a, b any) bool {
	switch a.(type) {
	case map[string]any, []any:
		return false
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	if a == b {
		return true
	}
	x, ok1 := number(a)
	y, ok2 := number(b)
	return ok1 && ok2 && x == y
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	case json.Number:
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}

func void(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case map[string]any:
		for _, inner := range x {
			if !void(inner) {
				return false
			}
		}
		return true
	case []any:
		return len(x) == 0
	}
	return false
}

func field(k string) string {
	if strings.ContainsAny(k, "./") {
		return "[" + k + "]"
	}
	return "." + k
}

func keysOf(a, b map[string]any) []string {
	keys := make([]string, 0, len(a)+len(b))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
