package report

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table writes rows with their columns under each other. The last column is as wide as it needs to be.
type Table struct {
	Head []string // empty: none
	rows [][]string
}

// Row adds a row. What would move a terminal's cursor, as a file's name may, is shown as a dot.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '·'
			}
			return r
		}, cell)
	}
	t.rows = append(t.rows, row)
}

// Write writes the table as text.
func (t *Table) Write(w io.Writer) error {
	rows := t.rows
	if len(t.Head) > 0 {
		rows = append([][]string{t.Head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell
			if i < len(row)-1 && widths[i] > 0 {
				line += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
