package procnode

import (
	"cmp"
	"slices"
	"strings"
)

// rewrite says that a path a container knows lies elsewhere on this machine.
type rewrite struct{ from, to string }

// rewriter replaces mount paths in commands and settings by the directories that back them, for
// pods that run without a mount namespace.
type rewriter []rewrite

// newRewriter sorts the longest path first, so that a mount inside another is seen before it.
func newRewriter(rules []rewrite) rewriter {
	r := slices.Clone(rules)
	slices.SortStableFunc(r, func(a, b rewrite) int { return cmp.Compare(len(b.from), len(a.from)) })
	return r
}

// apply replaces each occurrence that is a path by itself or the beginning of one; what it put in is
// not looked at again.
func (r rewriter) apply(s string) string {
	if len(r) == 0 || !strings.Contains(s, "/") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		rule, ok := r.at(s, i)
		if !ok {
			b.WriteByte(s[i])
			i++
			continue
		}
		b.WriteString(rule.to)
		i += len(rule.from)
	}
	return b.String()
}

func (r rewriter) applyAll(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = r.apply(s)
	}
	return out
}

func (r rewriter) at(s string, i int) (rewrite, bool) {
	if s[i] != '/' || i > 0 && (pathByte(s[i-1]) || s[i-1] == '/') {
		return rewrite{}, false
	}
	for _, rule := range r {
		if !strings.HasPrefix(s[i:], rule.from) {
			continue
		}
		if end := i + len(rule.from); end == len(s) || !pathByte(s[end]) {
			return rule, true
		}
	}
	return rewrite{}, false
}

// pathByte reports whether c continues a path element.
func pathByte(c byte) bool {
	return c == '.' || c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
