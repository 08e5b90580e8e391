package rawjson

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// Rewrite says how a document is changed on its way.
type Rewrite struct {
	// Set are members of the document, ordered by name, that are added or take another's place.
	Set []Member
	// In and Drop name a member of the document, and members of it that are left out.
	In   string
	Drop []string
}

// Member is a member of an object; its value is JSON in canonical form.
type Member struct {
	Name  string
	Value []byte
}

// Append adds the document's canonical form to dst: no white space, members ordered by name, each string
// written in one way (as encoding/json does without escaping HTML), numbers as they are. The same content is
// always the same bytes, whoever encoded it.
func (d *Doc) Append(dst []byte, r Rewrite) []byte {
	if len(d.nodes) == 0 {
		return dst
	}
	if d.nodes[0].kind != object {
		return d.append(dst, 0, nil)
	}
	dst = append(dst, '{')
	set := r.Set
	first := true
	comma := func() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
	}
	put := func(m Member) {
		comma()
		dst = append(appendText(dst, m.Name), ':')
		dst = append(dst, m.Value...)
	}
	from := d.sorted(0)
	for i := from; i < len(d.order); i++ {
		key := d.order[i]
		name := d.text(d.nodes[key])
		if d.repeated(i) {
			continue
		}
		for len(set) > 0 && set[0].Name < string(name) {
			put(set[0])
			set = set[1:]
		}
		if len(set) > 0 && set[0].Name == string(name) {
			continue // written when its turn is over
		}
		comma()
		dst = append(d.appendString(dst, d.nodes[key]), ':')
		var drop []string
		if string(name) == r.In {
			drop = r.Drop
		}
		dst = d.append(dst, key+1, drop)
	}
	d.order = d.order[:from]
	for _, m := range set {
		put(m)
	}
	return append(dst, '}')
}

// append writes a value; members of it, when it is an object, whose names are in drop are left out.
func (d *Doc) append(dst []byte, at int32, drop []string) []byte {
	n := d.nodes[at]
	switch n.kind {
	case plain, escaped:
		return d.appendString(dst, n)
	case array:
		dst = append(dst, '[')
		for i := at + 1; i < n.next; i = d.nodes[i].next {
			if i > at+1 {
				dst = append(dst, ',')
			}
			dst = d.append(dst, i, nil)
		}
		return append(dst, ']')
	case object:
		dst = append(dst, '{')
		from := d.sorted(at)
		first := true
		for i := from; i < len(d.order); i++ {
			key := d.order[i]
			if d.repeated(i) || drop != nil && slices.Contains(drop, string(d.text(d.nodes[key]))) {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(d.appendString(dst, d.nodes[key]), ':')
			dst = d.append(dst, key+1, nil)
		}
		d.order = d.order[:from]
		return append(dst, '}')
	}
	return append(dst, d.raw[n.start:n.end]...)
}

// sorted appends the keys of an object, in order, to d.order, and returns where they begin there. Few
// objects have many members, and most are in order already: insertion is the fastest way.
func (d *Doc) sorted(at int32) int {
	from := len(d.order)
	end := d.nodes[at].next
	for key := at + 1; key < end; key = d.nodes[key+1].next {
		d.order = append(d.order, key)
		i := len(d.order) - 1
		if i-from > 64 { // a large one that is not in order: insertion would take its square
			continue
		}
		for ; i > from && d.compare(d.order[i-1], key) > 0; i-- {
			d.order[i] = d.order[i-1]
		}
		d.order[i] = key
	}
	if keys := d.order[from:]; len(keys) > 64 && !slices.IsSortedFunc(keys, d.compare) {
		slices.SortStableFunc(keys, d.compare)
	}
	return from
}

// compare keeps keys of the same name in the document's order.
func (d *Doc) compare(a, b int32) int {
	return bytes.Compare(d.text(d.nodes[a]), d.text(d.nodes[b]))
}

// repeated says whether a later member in d.order has the same name, which then counts.
func (d *Doc) repeated(i int) bool {
	return i+1 < len(d.order) && d.compare(d.order[i], d.order[i+1]) == 0
}

func (d *Doc) appendString(dst []byte, n node) []byte {
	raw := d.raw[n.start:n.end]
	if n.kind == plain {
		return append(dst, raw...)
	}
	if out, ok := appendTidy(dst, raw); ok {
		return out
	}
	return appendText(dst, string(unquote(raw)))
}

// appendTidy writes a string of which at most the escapes of <, > and & have to be undone, which is nearly
// every one. What it wrote before it gave up lies behind dst's end.
func appendTidy(dst, raw []byte) ([]byte, bool) {
	if !utf8.Valid(raw) || bytes.ContainsRune(raw, '\u2028') || bytes.ContainsRune(raw, '\u2029') {
		return nil, false
	}
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...), true
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		switch raw[1] {
		case '"', '\\', 'b', 'f', 'n', 'r', 't':
			dst, raw = append(dst, raw[:2]...), raw[2:]
			continue
		case 'u':
			switch string(raw[2:6]) {
			case "003c":
				dst = append(dst, '<')
			case "003e":
				dst = append(dst, '>')
			case "0026":
				dst = append(dst, '&')
			default:
				return nil, false
			}
			raw = raw[6:]
		default:
			return nil, false
		}
	}
}

// unquote reads a string that was parsed.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return raw // it was parsed: encoding/json takes it as well
	}
	return []byte(s)
}

func appendText(dst []byte, s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return dst // a string can always be encoded
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
