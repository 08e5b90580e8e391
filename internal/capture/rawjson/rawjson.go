// Package rawjson looks into JSON documents and rewrites them in a canonical form without decoding them: a
// cluster's objects pass through by the ten thousand, and hardly anything in them is asked for.
package rawjson

import (
	"errors"
	"fmt"
	"iter"
	"math"
)

// ErrSyntax: the bytes are not a JSON document.
var ErrSyntax = errors.New("not valid JSON")

// maxDepth is how deeply values may be nested; API servers refuse what is far less deep.
const maxDepth = 1000

type kind uint8

const (
	scalar  kind = iota // null, true, false or a number
	plain               // a string whose bytes stand for themselves and are ASCII
	escaped             // any other string
	array
	object
)

// node is a value: its bytes, and where the one after it, or after what is inside it, is. The members of an
// object are a key and a value, one after the other.
type node struct {
	start, end int32
	next       int32
	kind       kind
}

// Doc is a parsed document. It can be used again and again, and keeps its memory; the values of an earlier
// document are then void.
type Doc struct {
	raw   []byte
	nodes []node
	order []int32 // members being sorted
}

// Parse reads one document. raw must not be changed while the Doc or its values are used. Error: ErrSyntax.
func (d *Doc) Parse(raw []byte) error {
	d.raw, d.nodes = raw, d.nodes[:0]
	if len(raw) > math.MaxInt32 {
		return fmt.Errorf("%w: %d bytes are too many", ErrSyntax, len(raw))
	}
	p := parser{d: d}
	at, err := p.value(p.space(0), 0)
	if err == nil {
		if at = p.space(at); at != len(raw) {
			err = p.fault(at)
		}
	}
	if err != nil {
		d.nodes = d.nodes[:0]
	}
	return err
}

// Root is the document itself.
func (d *Doc) Root() Value {
	if len(d.nodes) == 0 {
		return Value{}
	}
	return Value{d: d}
}

// Value is a value within a document. The zero Value stands for one that is not there, and can be asked like
// any other.
type Value struct {
	d  *Doc
	at int32
}

// Exists says whether the value is there.
func (v Value) Exists() bool { return v.d != nil }

func (v Value) node() node { return v.d.nodes[v.at] }

// Raw is the value as it stands in the document.
func (v Value) Raw() []byte {
	if v.d == nil {
		return nil
	}
	n := v.node()
	return v.d.raw[n.start:n.end]
}

// Text is the value of a string; anything else is "".
func (v Value) Text() string {
	if v.d == nil {
		return ""
	}
	n := v.node()
	if n.kind != plain && n.kind != escaped {
		return ""
	}
	return string(v.d.text(n))
}

// IsText says whether the value is this string.
func (v Value) IsText(s string) bool {
	if v.d == nil {
		return false
	}
	n := v.node()
	return (n.kind == plain || n.kind == escaped) && string(v.d.text(n)) == s
}

// Get follows the members of objects; what is no object has none.
func (v Value) Get(path ...string) Value {
	for _, name := range path {
		v = v.member(name)
	}
	return v
}

func (v Value) member(name string) Value {
	var found Value
	for key, value := range v.pairs() {
		if string(v.d.text(v.d.nodes[key])) == name {
			found = Value{d: v.d, at: value} // of several the last one counts, as encoding/json has it
		}
	}
	return found
}

// pairs yields the nodes of an object's keys and values.
func (v Value) pairs() iter.Seq2[int32, int32] {
	return func(yield func(key, value int32) bool) {
		if v.d == nil || v.node().kind != object {
			return
		}
		end := v.node().next
		for key := v.at + 1; key < end; key = v.d.nodes[key+1].next {
			if !yield(key, key+1) {
				return
			}
		}
	}
}

// Members yields the members of an object, in the document's order.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for key, value := range v.pairs() {
			if !yield(string(v.d.text(v.d.nodes[key])), Value{d: v.d, at: value}) {
				return
			}
		}
	}
}

// Items yields the elements of an array.
func (v Value) Items() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.d == nil || v.node().kind != array {
			return
		}
		end := v.node().next
		for at := v.at + 1; at < end; at = v.d.nodes[at].next {
			if !yield(Value{d: v.d, at: at}) {
				return
			}
		}
	}
}

// text is the value of a string node.
func (d *Doc) text(n node) []byte {
	inside := d.raw[n.start+1 : n.end-1]
	if n.kind == plain {
		return inside
	}
	return unquote(d.raw[n.start:n.end])
}
