package rawjson

import (
	"errors"
	"fmt"
	"io"
)

// maxValue bounds one value of a stream; etcd holds nothing that is nearly as large.
const maxValue = 256 << 20

// Stream cuts values out of a stream, and holds one at a time. It looks at no more than where they end:
// what it returns has still to be parsed.
type Stream struct {
	in   io.Reader
	buf  []byte
	at   int // where the unread bytes begin
	end  int
	fail error
}

// NewStream reads from in, at first with a buffer of this size; it grows to hold the largest value.
func NewStream(in io.Reader, size int) *Stream {
	return &Stream{in: in, buf: make([]byte, max(size, 16))}
}

// Reset reads from another source and keeps the memory.
func (s *Stream) Reset(in io.Reader) { s.in, s.at, s.end, s.fail = in, 0, 0, nil }

// Next returns the next value, which is valid until the next call. Error: io.EOF when there is none,
// io.ErrUnexpectedEOF when it is cut off.
func (s *Stream) Next() ([]byte, error) {
	if _, err := s.peek(); err != nil {
		return nil, err
	}
	return s.value()
}

// List reads an object and hands out the elements of its member items one by one, and its other members
// whole, in the order in which they come.
func (s *Stream) List(item func(raw []byte) error, other func(name string, raw []byte) error) error {
	if err := s.expect('{'); err != nil {
		return cut(err)
	}
	for first := true; ; first = false {
		c, err := s.peek()
		if err != nil {
			return cut(err)
		}
		if c == '}' {
			s.at++
			return nil
		}
		if !first {
			if err := s.expect(','); err != nil {
				return cut(err)
			}
		}
		if err := s.member(item, other); err != nil {
			return err
		}
	}
}

func (s *Stream) member(item func([]byte) error, other func(string, []byte) error) error {
	key, err := s.Next()
	if err != nil {
		return cut(err)
	}
	if key[0] != '"' {
		return fmt.Errorf("%w: a member begins with %q", ErrSyntax, key[0])
	}
	name := string(unquote(key))
	if err := s.expect(':'); err != nil {
		return cut(err)
	}
	c, err := s.peek()
	if err != nil {
		return cut(err)
	}
	if name == "items" && c == '[' {
		return s.elements(item)
	}
	raw, err := s.value()
	if err != nil {
		return err
	}
	return other(name, raw)
}

func (s *Stream) elements(item func([]byte) error) error {
	s.at++ // the bracket
	for first := true; ; first = false {
		c, err := s.peek()
		if err != nil {
			return cut(err)
		}
		if c == ']' {
			s.at++
			return nil
		}
		if !first {
			if err := s.expect(','); err != nil {
				return cut(err)
			}
		}
		raw, err := s.Next()
		if err != nil {
			return cut(err)
		}
		if err := item(raw); err != nil {
			return err
		}
	}
}

// cut words the end of a stream in the middle of something.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *Stream) expect(c byte) error {
	is, err := s.peek()
	if err != nil {
		return err
	}
	if is != c {
		return fmt.Errorf("%w: character %q where %q belongs", ErrSyntax, is, c)
	}
	s.at++
	return nil
}

// peek returns the next byte that is not white space.
func (s *Stream) peek() (byte, error) {
	for {
		for ; s.at < s.end; s.at++ {
			if !isSpace(s.buf[s.at]) {
				return s.buf[s.at], nil
			}
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// value returns the value that begins at s.at and steps over it.
func (s *Stream) value() ([]byte, error) {
	e := ender{}
	n := 0
	for {
		for s.at+n < s.end {
			if e.text && !e.escaped {
				n += ordinary(s.buf[s.at+n : s.end])
				if s.at+n == s.end {
					break
				}
			}
			c := s.buf[s.at+n]
			over, includes := e.over(c, n == 0)
			if over && !includes {
				return s.take(n)
			}
			n++
			if over {
				return s.take(n)
			}
		}
		if err := s.fill(); err != nil {
			if errors.Is(err, io.EOF) && e.bare && n > 0 {
				return s.take(n) // a number at the very end
			}
			return nil, cut(err)
		}
	}
}

func (s *Stream) take(n int) ([]byte, error) {
	if n == 0 {
		return nil, fmt.Errorf("%w: character %q where a value belongs", ErrSyntax, s.buf[s.at])
	}
	raw := s.buf[s.at : s.at+n : s.at+n]
	s.at += n
	return raw, nil
}

// fill reads more behind what is not read yet.
func (s *Stream) fill() error {
	if s.fail != nil {
		return s.fail
	}
	if s.at > 0 {
		copy(s.buf, s.buf[s.at:s.end])
		s.at, s.end = 0, s.end-s.at
	}
	if s.end == len(s.buf) {
		if len(s.buf) >= maxValue {
			return fmt.Errorf("%w: a value of more than %d bytes", ErrSyntax, maxValue)
		}
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.in.Read(s.buf[s.end:])
	s.end += n
	s.fail = err
	if n > 0 {
		return nil
	}
	if err == nil {
		return s.fill() // a reader may return nothing
	}
	return err
}

// ordinary is how many bytes of a string come before one that means something.
func ordinary(b []byte) int {
	for i, c := range b {
		if c == '"' || c == '\\' {
			return i
		}
	}
	return len(b)
}

// ender finds where a value ends, byte by byte.
type ender struct {
	depth   int
	text    bool // inside a string
	escaped bool
	bare    bool // a number or a word
}

// over says whether the value is over, and whether this byte still belongs to it.
func (e *ender) over(c byte, first bool) (over, includes bool) {
	if e.text {
		switch {
		case e.escaped:
			e.escaped = false
		case c == '\\':
			e.escaped = true
		case c == '"':
			e.text = false
			return e.depth == 0, true
		}
		return false, false
	}
	switch c {
	case '"':
		e.text = true
	case '{', '[':
		e.depth++
	case '}', ']':
		if e.depth == 0 {
			return true, false
		}
		e.depth--
		return e.depth == 0, true
	case ',', ':', ' ', '\n', '\t', '\r':
		return e.depth == 0, false
	default:
		if first {
			e.bare = true
		}
	}
	return false, false
}
