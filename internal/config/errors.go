package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing wrong in a fleet file.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1
	Column int    `json:"column"` // from 1
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.What)
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	return s
}

// Errors is every problem found in one file, in the order of their lines.
type Errors struct {
	Problems []Problem
}

func newErrors(problems []Problem) *Errors {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Errors{Problems: problems}
}

// Error lists the problems, one to a line.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return "\n" + strings.Join(lines, "\n")
}

func (e *Errors) count() string {
	if len(e.Problems) == 1 {
		return "a problem"
	}
	return fmt.Sprintf("%d problems", len(e.Problems))
}

func (d *decoder) add(at *yaml.Node, what, remedy string) {
	d.addAt(at.Line, at.Column, what, remedy)
}

func (d *decoder) addAt(line, column int, what, remedy string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: line, Column: column, What: what, Remedy: remedy})
}

// nearest returns the known word that was probably meant, or "".
func nearest(word string, known []string) string {
	best, bestDistance := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if dist := distance(strings.ToLower(word), strings.ToLower(k)); dist < bestDistance {
			best, bestDistance = k, dist
		}
	}
	return best
}

// distance is the number of letters to add, drop, replace or swap with their neighbour to get from a
// to b (optimal string alignment). Words longer than any of ours are not worth comparing.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(next[j-1]+1, row[j]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// known lists what is declared, for the remedy of a reference that leads nowhere.
func known(kind, wrong string, names []string) string {
	if len(names) == 0 {
		return fmt.Sprintf("no %s is declared in this file", kind)
	}
	remedy := "declared: " + strings.Join(names, ", ")
	if near := nearest(wrong, names); near != "" {
		remedy += fmt.Sprintf(" (did you mean %s?)", near)
	}
	return remedy
}
