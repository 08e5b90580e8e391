package diff

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

const (
	shownValue = 120 // characters of a value on one line
	shownLines = 12  // lines of a text that changed
)

// Write writes objects for people: a line each, with its fields below.
func Write(w io.Writer, objects []Object) error {
	var b strings.Builder
	for _, o := range objects {
		b.WriteString(Sign(o.Op) + " " + o.Object + "\n")
		Lines(&b, "    ", o.Fields)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Sign marks a line: + added, - removed, ~ changed.
func Sign(op Op) string {
	switch op {
	case Added:
		return "+"
	case Removed:
		return "-"
	case Changed:
		return "~"
	}
	return string(op)
}

// Lines writes fields, a line each; of a text of several lines, those that differ.
func Lines(b *strings.Builder, indent string, fields []Field) {
	for _, f := range fields {
		before, after := text(f.Before), text(f.After)
		switch f.Op {
		case Added:
			fmt.Fprintf(b, "%s+ %s: %s\n", indent, f.Path, short(after))
		case Removed:
			fmt.Fprintf(b, "%s- %s: %s\n", indent, f.Path, short(before))
		case Changed:
			if strings.Contains(before, "\n") || strings.Contains(after, "\n") {
				fmt.Fprintf(b, "%s~ %s:\n", indent, f.Path)
				textLines(b, indent+"    ", before, after)
				continue
			}
			fmt.Fprintf(b, "%s~ %s: %s → %s\n", indent, f.Path, short(before), short(after))
		}
	}
}

// String writes one difference in a line.
func (f Field) String() string {
	switch f.Op {
	case Added:
		return fmt.Sprintf("%s becomes %s", f.Path, short(text(f.After)))
	case Removed:
		return f.Path + " is removed"
	case Changed:
	}
	return fmt.Sprintf("%s: %s becomes %s", f.Path, short(text(f.Before)), short(text(f.After)))
}

// textLines shows what is between the first and the last line that differ.
func textLines(b *strings.Builder, indent, before, after string) {
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	start := 0
	for start < len(old) && start < len(now) && old[start] == now[start] {
		start++
	}
	for len(old) > start && len(now) > start && old[len(old)-1] == now[len(now)-1] {
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	for i, part := range [][]string{old[start:], now[start:]} {
		for n, line := range part {
			if n == shownLines {
				fmt.Fprintf(b, "%s… %d more lines\n", indent, len(part)-n)
				break
			}
			fmt.Fprintf(b, "%s%s %s\n", indent, []string{"-", "+"}[i], short(line))
		}
	}
}

func text(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case nil:
		return "nothing"
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

// short keeps a value on one line, and free of what would move a terminal's cursor.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return '⏎'
		case r < ' ' || r == 0x7f:
			return '·'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > shownValue {
		return string(r[:shownValue-1]) + "…"
	}
	return s
}
