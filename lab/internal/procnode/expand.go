package procnode

import "strings"

// expand replaces $(NAME) by lookup's value. $$ stands for one $, and a name that lookup does not
// know stays as it is written, as the kubelet does.
func expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		rest := s[i+1:]
		switch end := strings.IndexByte(rest, ')'); {
		case rest[0] == '$':
			b.WriteByte('$')
			s = rest[1:]
		case rest[0] == '(' && end > 0:
			if v, ok := lookup(rest[1:end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$" + rest[:end+1])
			}
			s = rest[end+1:]
		default:
			b.WriteByte('$')
			s = rest
		}
	}
}

// environment is an ordered set of variables; a later setting of a name wins.
type environment struct {
	names  []string
	values map[string]string
}

func newEnvironment() *environment { return &environment{values: map[string]string{}} }

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) lookup(name string) (string, bool) {
	v, ok := e.values[name]
	return v, ok
}

func (e *environment) expand(s string) string { return expand(s, e.lookup) }

func (e *environment) expandAll(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = e.expand(s)
	}
	return out
}

// list gives NAME=value pairs in the order names were first set.
func (e *environment) list() []string {
	out := make([]string, len(e.names))
	for i, n := range e.names {
		out[i] = n + "=" + e.values[n]
	}
	return out
}
