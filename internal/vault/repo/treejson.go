package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unicode/utf8"
)

// Trees are written and read node by node and not through encoding/json: a volume has as many nodes as
// files, and a directory of a million of them must not be in memory as nodes and as JSON at once. The
// bytes are those that encoding/json would write.

// nodeWriter puts a tree's JSON together.
type nodeWriter struct {
	raw  []byte
	last string
	n    int
}

// add appends a node; names must come in order.
func (w *nodeWriter) add(n *Node) error {
	if err := n.checkName(); err != nil {
		return err
	}
	if w.n > 0 && n.Name <= w.last {
		if n.Name == w.last {
			return fmt.Errorf("two nodes of a tree are named %q", n.Name)
		}
		return fmt.Errorf("node %q comes after %q", n.Name, w.last)
	}
	if w.n == 0 {
		w.raw = append(w.raw, treeStart...)
	} else {
		w.raw = append(w.raw, ',')
	}
	w.raw, w.last = appendNode(w.raw, n), n.Name
	w.n++
	return nil
}

// finish returns the whole.
func (w *nodeWriter) finish() []byte {
	if w.n == 0 {
		w.raw = append(w.raw, treeStart...)
	}
	return append(w.raw, treeEnd...)
}

const (
	treeStart = `{"nodes":[`
	treeEnd   = "]}\n"
)

func appendNode(b []byte, n *Node) []byte {
	b = append(b, `{"name":`...)
	if plainText(n.Name) {
		b = append(append(append(b, '"'), n.Name...), '"')
	} else {
		// Escaped like Go strings, because JSON cannot hold bytes that are no UTF-8.
		quoted := strconv.Quote(n.Name)
		b = appendText(b, quoted[1:len(quoted)-1])
	}
	b = appendText(append(b, `,"type":`...), string(n.Type))
	b = appendNumber(b, `,"mode":`, uint64(n.Mode))
	b = appendTime(b, `,"mtime":"`, n.ModTime)
	b = appendTime(b, `,"atime":"`, n.AccessTime)
	b = appendTime(b, `,"ctime":"`, n.ChangeTime)
	b = strconv.AppendUint(append(b, `,"uid":`...), uint64(n.UID), 10)
	b = strconv.AppendUint(append(b, `,"gid":`...), uint64(n.GID), 10)
	if n.User != "" {
		b = appendText(append(b, `,"user":`...), n.User)
	}
	if n.Group != "" {
		b = appendText(append(b, `,"group":`...), n.Group)
	}
	b = appendNumber(b, `,"inode":`, n.Inode)
	b = appendNumber(b, `,"device_id":`, n.DeviceID)
	b = appendNumber(b, `,"size":`, n.Size)
	b = appendNumber(b, `,"links":`, n.Links)
	b = appendLinkTarget(b, n.LinkTarget)
	if len(n.Xattrs) > 0 {
		raw, err := json.Marshal(n.Xattrs)
		if err == nil { // names and bytes always can be
			b = append(append(b, `,"extended_attributes":`...), raw...)
		}
	}
	b = appendNumber(b, `,"device":`, n.Device)
	b = appendContent(b, n)
	if !n.Subtree.IsZero() {
		b = append(hex.AppendEncode(append(b, `,"subtree":"`...), n.Subtree[:]), '"')
	}
	return append(b, '}')
}

func appendLinkTarget(b []byte, target string) []byte {
	if target == "" {
		return b
	}
	b = appendText(append(b, `,"linktarget":`...), target)
	if utf8.ValidString(target) {
		return b
	}
	raw, err := json.Marshal([]byte(target))
	if err != nil {
		return b // bytes always can be
	}
	return append(append(b, `,"linktarget_raw":`...), raw...)
}

func appendContent(b []byte, n *Node) []byte {
	if n.Content == nil && n.Type != FileNode {
		return append(b, `,"content":null`...)
	}
	b = append(b, `,"content":[`...)
	for i, id := range n.Content {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(hex.AppendEncode(append(b, '"'), id[:]), '"')
	}
	return append(b, ']')
}

func appendNumber(b []byte, key string, v uint64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), v, 10)
}

func appendTime(b []byte, key string, t time.Time) []byte {
	return append(jsonTime(t).AppendFormat(append(b, key...), time.RFC3339Nano), '"')
}

// plainText says whether a string stands for itself, within quotes, in Go and in JSON.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

func appendText(b []byte, s string) []byte {
	if plainText(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // a string always can be
	}
	return append(b, raw...)
}

// jsonTime keeps within the years that JSON times can say.
func jsonTime(t time.Time) time.Time {
	if y := t.Year(); y < 0 || y > 9999 {
		return time.Date(min(max(y, 0), 9999), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	}
	return t
}

// treeReader gives out a tree's nodes one after the other.
type treeReader struct {
	id   ID
	raw  []byte
	pos  int
	slow *Tree // of a tree that is not written as restic and we do, decoded as a whole
	done bool
}

func newTreeReader(id ID, raw []byte) (*treeReader, error) {
	r := &treeReader{id: id, raw: raw}
	if len(raw) >= len(treeStart) && string(raw[:len(treeStart)]) == treeStart && json.Valid(raw) {
		r.pos = len(treeStart)
		return r, nil
	}
	r.slow = &Tree{}
	if err := json.Unmarshal(raw, r.slow); err != nil {
		return nil, r.damaged(err)
	}
	return r, nil
}

func (r *treeReader) damaged(err error) error {
	return fmt.Errorf("tree %s: %w: %w", r.id.short(), ErrDamaged, err)
}

// next returns nil after the last node. Error: ErrDamaged.
func (r *treeReader) next() (*Node, error) {
	n, err := r.decode()
	if err != nil {
		return nil, r.damaged(err)
	}
	if n == nil {
		return nil, nil
	}
	if err := n.checkName(); err != nil {
		return nil, fmt.Errorf("tree %s: %w", r.id.short(), err)
	}
	return n, nil
}

func (r *treeReader) decode() (*Node, error) {
	if r.slow != nil {
		if r.pos == len(r.slow.Nodes) {
			return nil, nil
		}
		n := r.slow.Nodes[r.pos]
		r.pos++
		if n == nil {
			return nil, errors.New("null node")
		}
		return n, nil
	}
	for r.pos < len(r.raw) && (isSpace(r.raw[r.pos]) || r.raw[r.pos] == ',') {
		r.pos++
	}
	if r.done || r.pos == len(r.raw) || r.raw[r.pos] == ']' {
		r.done = true
		return nil, nil
	}
	n := &Node{}
	// The quick way is for what restic and we write; what it does not know is left to encoding/json.
	s := nodeScanner{raw: r.raw, pos: r.pos}
	if s.node(n) {
		r.pos = s.pos
		return n, nil
	}
	end := skipValue(r.raw, r.pos)
	text := r.raw[r.pos:end]
	r.pos = end
	if string(text) == "null" {
		return nil, errors.New("null node")
	}
	*n = Node{}
	return n, json.Unmarshal(text, n)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// skipValue returns where a value of valid JSON ends.
func skipValue(raw []byte, pos int) int {
	depth := 0
	for ; pos < len(raw); pos++ {
		switch c := raw[pos]; c {
		case '"':
			for pos++; pos < len(raw) && raw[pos] != '"'; pos++ {
				if raw[pos] == '\\' {
					pos++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']', ',':
			if depth == 0 {
				return pos
			}
			if c != ',' {
				depth--
			}
		default:
			continue
		}
		if depth == 0 {
			return min(pos+1, len(raw))
		}
	}
	return len(raw)
}

// nodeScanner reads a node in the form in which it is written by default. Each method says whether it
// could; where not, the node is read anew by encoding/json.
type nodeScanner struct {
	raw []byte
	pos int
}

func (s *nodeScanner) take(c byte) bool {
	if s.pos < len(s.raw) && s.raw[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *nodeScanner) node(n *Node) bool {
	if !s.take('{') {
		return false
	}
	for {
		key, ok := s.text()
		if !ok || !s.take(':') || !s.field(n, string(key)) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// text reads a string in which nothing is escaped.
func (s *nodeScanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	start := s.pos
	for s.pos < len(s.raw) {
		switch c := s.raw[s.pos]; {
		case c == '"':
			s.pos++
			return s.raw[start : s.pos-1], true
		case c == '\\' || c >= utf8.RuneSelf:
			return nil, false
		}
		s.pos++
	}
	return nil, false
}

func (s *nodeScanner) field(n *Node, key string) bool {
	var ok bool
	var v uint64
	switch key {
	case "name":
		ok = s.string(&n.Name)
	case "type":
		ok = s.string((*string)(&n.Type))
	case "mode":
		v, ok = s.number(32)
		n.Mode = os.FileMode(v)
	case "mtime":
		ok = s.time(&n.ModTime)
	case "atime":
		ok = s.time(&n.AccessTime)
	case "ctime":
		ok = s.time(&n.ChangeTime)
	case "uid":
		v, ok = s.number(32)
		n.UID = uint32(v)
	case "gid":
		v, ok = s.number(32)
		n.GID = uint32(v)
	case "inode":
		n.Inode, ok = s.number(64)
	case "device_id":
		n.DeviceID, ok = s.number(64)
	case "device":
		n.Device, ok = s.number(64)
	case "size":
		n.Size, ok = s.number(64)
	case "links":
		n.Links, ok = s.number(64)
	case "user":
		ok = s.string(&n.User)
	case "group":
		ok = s.string(&n.Group)
	case "linktarget":
		ok = s.string(&n.LinkTarget)
	case "content":
		ok = s.content(n)
	case "subtree":
		ok = s.id(&n.Subtree)
	}
	return ok // what is not known here, attributes among it, is left to encoding/json
}

func (s *nodeScanner) string(to *string) bool {
	b, ok := s.text()
	*to = string(b)
	return ok
}

func (s *nodeScanner) number(bits int) (uint64, bool) {
	start := s.pos
	for s.pos < len(s.raw) && s.raw[s.pos] >= '0' && s.raw[s.pos] <= '9' {
		s.pos++
	}
	v, err := strconv.ParseUint(string(s.raw[start:s.pos]), 10, bits)
	return v, err == nil
}

func (s *nodeScanner) time(to *time.Time) bool {
	b, ok := s.text()
	return ok && to.UnmarshalText(b) == nil
}

func (s *nodeScanner) id(to *ID) bool {
	b, ok := s.text()
	if !ok || len(b) != 2*len(to) {
		return false
	}
	_, err := hex.Decode(to[:], b)
	return err == nil
}

func (s *nodeScanner) content(n *Node) bool {
	if len(s.raw)-s.pos >= 4 && string(s.raw[s.pos:s.pos+4]) == "null" {
		s.pos += 4
		return true
	}
	if !s.take('[') {
		return false
	}
	n.Content = []ID{}
	if s.take(']') {
		return true
	}
	for {
		var id ID
		if !s.id(&id) {
			return false
		}
		n.Content = append(n.Content, id)
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}
