package rawjson

import "fmt"

type parser struct{ d *Doc }

func (p parser) fault(at int) error {
	if at >= len(p.d.raw) {
		return fmt.Errorf("%w: it ends too early", ErrSyntax)
	}
	return fmt.Errorf("%w: character %q at byte %d", ErrSyntax, p.d.raw[at], at)
}

func (p parser) space(at int) int {
	for at < len(p.d.raw) && isSpace(p.d.raw[at]) {
		at++
	}
	return at
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// value reads the value at a byte and returns where it ends.
func (p parser) value(at, depth int) (int, error) {
	raw := p.d.raw
	if at >= len(raw) || depth > maxDepth {
		return 0, p.fault(at)
	}
	mine := len(p.d.nodes)
	p.d.nodes = append(p.d.nodes, node{start: int32(at)})
	k := scalar
	var end int
	var err error
	switch c := raw[at]; {
	case c == '{':
		k = object
		end, err = p.object(at+1, depth+1)
	case c == '[':
		k = array
		end, err = p.array(at+1, depth+1)
	case c == '"':
		k, end, err = p.text(at)
	case c == '-' || c >= '0' && c <= '9':
		end, err = p.number(at)
	default:
		end, err = p.word(at)
	}
	if err != nil {
		return 0, err
	}
	n := &p.d.nodes[mine]
	n.kind, n.end, n.next = k, int32(end), int32(len(p.d.nodes))
	return end, nil
}

func (p parser) object(at, depth int) (int, error) {
	raw := p.d.raw
	if at = p.space(at); at < len(raw) && raw[at] == '}' {
		return at + 1, nil
	}
	for {
		if at >= len(raw) || raw[at] != '"' {
			return 0, p.fault(at)
		}
		k, end, err := p.text(at)
		if err != nil {
			return 0, err
		}
		p.d.nodes = append(p.d.nodes, node{start: int32(at), end: int32(end), next: int32(len(p.d.nodes) + 1), kind: k})
		if at = p.space(end); at >= len(raw) || raw[at] != ':' {
			return 0, p.fault(at)
		}
		if at, err = p.value(p.space(at+1), depth); err != nil {
			return 0, err
		}
		if at = p.space(at); at >= len(raw) {
			return 0, p.fault(at)
		}
		switch raw[at] {
		case '}':
			return at + 1, nil
		case ',':
			at = p.space(at + 1)
		default:
			return 0, p.fault(at)
		}
	}
}

func (p parser) array(at, depth int) (int, error) {
	raw := p.d.raw
	if at = p.space(at); at < len(raw) && raw[at] == ']' {
		return at + 1, nil
	}
	for {
		var err error
		if at, err = p.value(at, depth); err != nil {
			return 0, err
		}
		if at = p.space(at); at >= len(raw) {
			return 0, p.fault(at)
		}
		switch raw[at] {
		case ']':
			return at + 1, nil
		case ',':
			at = p.space(at + 1)
		default:
			return 0, p.fault(at)
		}
	}
}

// text reads a string and says whether its bytes stand for themselves.
func (p parser) text(at int) (kind, int, error) {
	raw, k := p.d.raw, plain
	for i := at + 1; i < len(raw); i++ {
		c := raw[i]
		if c >= 0x20 && c < 0x80 && c != '"' && c != '\\' {
			continue
		}
		switch {
		case c == '"':
			return k, i + 1, nil
		case c == '\\':
			k = escaped
			n, ok := escape(raw[i:])
			if !ok {
				return 0, 0, p.fault(min(i+1, len(raw)))
			}
			i += n - 1
		case c < 0x20:
			return 0, 0, p.fault(i)
		default:
			k = escaped // what is not ASCII may not be UTF-8 either
		}
	}
	return 0, 0, p.fault(len(raw))
}

// escape returns the length of an escape sequence.
func escape(s []byte) (int, bool) {
	if len(s) < 2 {
		return 0, false
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, true
	case 'u':
		if len(s) < 6 {
			return 0, false
		}
		for _, c := range s[2:6] {
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
				return 0, false
			}
		}
		return 6, true
	}
	return 0, false
}

func (p parser) number(at int) (int, error) {
	raw := p.d.raw
	digits := func() bool {
		from := at
		for at < len(raw) && raw[at] >= '0' && raw[at] <= '9' {
			at++
		}
		return at > from
	}
	if raw[at] == '-' {
		at++
	}
	if at < len(raw) && raw[at] == '0' {
		at++
	} else if !digits() {
		return 0, p.fault(at)
	}
	if at < len(raw) && raw[at] == '.' {
		if at++; !digits() {
			return 0, p.fault(at)
		}
	}
	if at < len(raw) && (raw[at] == 'e' || raw[at] == 'E') {
		if at++; at < len(raw) && (raw[at] == '+' || raw[at] == '-') {
			at++
		}
		if !digits() {
			return 0, p.fault(at)
		}
	}
	return at, nil
}

func (p parser) word(at int) (int, error) {
	for _, w := range [...]string{"null", "true", "false"} {
		if end := at + len(w); end <= len(p.d.raw) && string(p.d.raw[at:end]) == w {
			return end, nil
		}
	}
	return 0, p.fault(at)
}
