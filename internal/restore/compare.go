package restore

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/kube"
)

// compare says in what an object at the target differs from what is wanted, a path and the two values
// each. Whatever only the target has (defaults, other people's labels, an injected sidecar) is no
// difference, and neither is a status.
func compare(want, live *unstructured.Unstructured) []string {
	var d differ
	for _, field := range sortedKeys(want.Object) {
		if field == "status" || field == "apiVersion" {
			continue
		}
		d.value(field, want.Object[field], live.Object[field])
	}
	return d.found
}

// lasting leaves out the differences in Lifeboat's own marks.
func lasting(diffs []string) []string {
	return slices.DeleteFunc(slices.Clone(diffs), func(d string) bool { return strings.Contains(d, "["+kube.AnnotationPrefix) })
}

func join(diffs []string) string {
	if len(diffs) > 3 {
		return fmt.Sprintf("%s; and %d more", strings.Join(diffs[:3], "; "), len(diffs)-3)
	}
	return strings.Join(diffs, "; ")
}

type differ struct{ found []string }

func (d *differ) value(path string, want, live any) {
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok && live != nil && !empty(want) {
			d.differs(path, want, live)
			return
		}
		for _, k := range sortedKeys(w) {
			d.value(path+field(k), w[k], l[k])
		}
	case []any:
		l, ok := live.([]any)
		if !ok && !empty(want) {
			d.differs(path, want, live)
			return
		}
		d.list(path, w, l)
	default:
		if !equalScalar(want, live) && !(live == nil && empty(want)) {
			d.differs(path, want, live)
		}
	}
}

// list compares by name where the elements have names, else one by one.
func (d *differ) list(path string, want, live []any) {
	if by := diff.Identity(want, live); by != nil && len(want) > 0 {
		for _, w := range want {
			id := by(w)
			i := slices.IndexFunc(live, func(l any) bool { return by(l) == id })
			if i < 0 {
				d.found = append(d.found, fmt.Sprintf("%s has no %s", path, id))
				continue
			}
			d.value(path+"["+id+"]", w, live[i])
		}
		return
	}
	if len(want) != len(live) {
		d.found = append(d.found, fmt.Sprintf("%s has %d entries, should have %d", path, len(live), len(want)))
		return
	}
	for i := range want {
		d.value(fmt.Sprintf("%s[%d]", path, i), want[i], live[i])
	}
}

func (d *differ) differs(path string, want, live any) {
	if strings.HasPrefix(path, "data") || strings.HasPrefix(path, "stringData") || strings.HasPrefix(path, "binaryData") || diff.Secret(path) {
		d.found = append(d.found, path+" differs") // it may be a secret
		return
	}
	d.found = append(d.found, fmt.Sprintf("%s is %s, should be %s", path, show(live), show(want)))
}

func show(v any) string {
	if v == nil {
		return "not set"
	}
	s := fmt.Sprint(v)
	switch x := v.(type) {
	case map[string]any:
		s = fmt.Sprintf("{%s}", strings.Join(sortedKeys(x), ", "))
	case []any: // whatever is in it
		s = fmt.Sprintf("a list of %d", len(x))
	}
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}

func same(a, b any) bool {
	var d differ
	d.value("", a, b)
	d.value("", b, a)
	return len(d.found) == 0
}

// equalScalar: JSON has one kind of number.
func equalScalar(a, b any) bool {
	if a == b {
		return true
	}
	x, ok1 := float(a)
	y, ok2 := float(b)
	return ok1 && ok2 && x == y
}

func float(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// empty: a server leaves out what has no value.
func empty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case string:
		return x == ""
	case bool:
		return !x
	case int64:
		return x == 0
	case float64:
		return x == 0
	case []any:
		return len(x) == 0
	case map[string]any:
		for _, inner := range x {
			if !empty(inner) {
				return false
			}
		}
		return true
	}
	return false
}

func field(k string) string {
	if strings.ContainsAny(k, "./") {
		return "[" + k + "]"
	}
	return "." + k
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
