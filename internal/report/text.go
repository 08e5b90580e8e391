package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"lifeboat.dev/lifeboat/internal/dr"
)

// width is what every line of text fits into.
const width = 80

// Text writes a recovery for a terminal of 80 columns.
func Text(w io.Writer, v Recovery) error {
	p := &printer{}
	p.line("%s: %s", v.headline(), strings.ToUpper(v.verdict()))
	p.wrapped("", pair("run", v.Run))
	p.wrapped("", pair("recovery point", v.RecoveryPoint), fmt.Sprintf("epoch %d", v.Epoch))
	if rows := v.objectives(); rows != nil {
		p.line("")
		p.line("  %-10s %12s   %-14s", "", "objective", "achieved")
		for _, o := range rows {
			p.line("  %-10s %12s   %-14s %s", o.Name, o.Objective, o.Achieved, o.Met)
		}
	}
	p.figures(v)
	p.timeline(v)
	p.list("Not verified:", v.Problems)
	p.list("Notes:", v.Notes)
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct{ b strings.Builder }

func (p *printer) line(format string, args ...any) {
	p.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	p.b.WriteByte('\n')
}

// wrapped writes parts with commas between them, over as many lines as they need.
func (p *printer) wrapped(indent string, parts ...string) {
	var kept []string
	for _, s := range parts {
		if s != "" {
			kept = append(kept, s)
		}
	}
	for _, l := range wrap(strings.Join(kept, ", "), width-utf8.RuneCountInString(indent)) {
		p.line("%s%s", indent, l)
	}
}

func (p *printer) figures(v Recovery) {
	row := func(label, value string) { p.line("  %s %10s", pad(label, 36), value) }
	if parts := v.parts(); len(parts) > 0 {
		p.line("")
		p.line("  Of the RTO")
		for _, part := range parts {
			row("- "+part.Label, human(part.Took))
		}
	}
	if len(v.Counts) > 0 {
		p.line("")
		for _, c := range v.Counts {
			row(c.Label, fmt.Sprint(c.Value))
		}
	}
	if v.RTO == nil && !v.Started.IsZero() && !v.Ended.IsZero() {
		p.line("")
		row("the run took", human(v.Ended.Sub(v.Started)))
		if !v.PointTime.IsZero() && v.Goal != dr.GoalBackup {
			row("age of the recovery point then", human(v.Started.Sub(v.PointTime)))
		}
	}
}

func (p *printer) timeline(v Recovery) {
	moments := v.moments()
	if len(moments) == 0 {
		return
	}
	const titles = 46
	p.line("")
	p.line("  %9s   %s %8s  %s", "at", pad("", titles), "took", "outcome")
	for _, m := range moments {
		at := offset(m.at.Sub(moments[0].at))
		if m.event {
			p.line("  %9s * %s", at, pad(m.title, titles))
			continue
		}
		took, outcome := "", "running"
		if !m.until.IsZero() {
			took, outcome = human(m.until.Sub(m.at)), string(m.outcome)
		}
		p.line("  %9s   %s %8s  %s", at, pad(m.title, titles), took, outcome)
		if m.note != "" {
			p.wrapped(strings.Repeat(" ", 16), m.note)
		}
	}
	for _, title := range v.pending() {
		p.line("  %9s   %s %8s  %s", "", pad(title, titles), "", "not begun")
	}
}

func (p *printer) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	p.line("")
	p.line("%s", title)
	for _, item := range items {
		for i, l := range wrap(item, width-4) {
			if i == 0 {
				p.line("  - %s", l)
			} else {
				p.line("    %s", l)
			}
		}
	}
}

// Plan writes a plan as numbered steps, each with the numbers of those it waits for.
func Plan(w io.Writer, plan dr.Plan) error {
	steps, err := plan.Order()
	if err != nil {
		return fmt.Errorf("show the plan for %s: %w", plan.Application, err)
	}
	p := &printer{}
	p.line("%s", headline(plan.Goal, plan.Application, plan.From, plan.To))
	p.wrapped("", pair("recovery point", plan.RecoveryPoint), fmt.Sprintf("epoch %d", plan.Epoch), pair("plan", plan.Hash[:min(12, len(plan.Hash))]))
	p.list("What is brought back:", plan.Notes)
	p.list("Warnings:", plan.Warnings)
	number := map[string]int{}
	p.line("")
	const titles = 52
	p.line("  %3s  %s %-10s %8s", "", pad("", titles), "after", "at most")
	for i, s := range steps {
		number[s.ID] = i + 1
		var after []int
		for _, need := range s.Needs {
			after = append(after, number[need])
		}
		slices.Sort(after)
		p.line("  %3d  %s %s %8s", i+1, pad(s.Title, titles), pad(strings.Trim(strings.ReplaceAll(fmt.Sprint(after), " ", ","), "[]"), 10), plain(s.Deadline))
	}
	_, err = io.WriteString(w, p.b.String())
	return err
}

// Mermaid writes a plan as a Mermaid flowchart.
func Mermaid(w io.Writer, plan dr.Plan) error {
	steps, err := plan.Order()
	if err != nil {
		return fmt.Errorf("draw the plan for %s: %w", plan.Application, err)
	}
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	node := map[string]string{}
	// Mermaid reads entity codes in quoted labels, so that no title can end its label.
	escape := strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "\n", " ", "\r", " ")
	for i, s := range steps {
		node[s.ID] = fmt.Sprintf("s%d", i+1)
		fmt.Fprintf(&b, "  %s[\"%s\"]\n", node[s.ID], escape.Replace(s.Title))
	}
	for _, s := range steps {
		for _, need := range s.Needs {
			fmt.Fprintf(&b, "  %s --> %s\n", node[need], node[s.ID])
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func pair(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

// pad makes s exactly n characters wide, and shows where something was cut off.
func pad(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if have := utf8.RuneCountInString(s); have <= n {
		return s + strings.Repeat(" ", n-have)
	}
	return string([]rune(s)[:n-1]) + "…"
}

// wrap breaks s between words into lines of at most n characters; a word that is longer is broken too.
func wrap(s string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		for utf8.RuneCountInString(word) > n {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			r := []rune(word)
			lines, word = append(lines, string(r[:n])), string(r[n:])
		}
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= n:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// clock writes an instant for the page.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("15:04:05.000")
}
