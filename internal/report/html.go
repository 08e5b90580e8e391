package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

//go:embed page.html
var pageHTML string

// page is what the template is given: text and numbers alone, which it escapes.
type page struct {
	Headline, Verdict, Class, When, Run, Point string
	Epoch                                      uint64
	Objectives                                 []objective
	Parts                                      []pagePart
	Counts                                     []Count
	Problems, Notes                            []string
	Chart                                      *chart
	Steps                                      []pageStep
	Events                                     []pageEvent
}

type (
	pagePart struct{ Label, Took string }
	pageStep struct {
		Title, Started, Took, Outcome, Reason, Class string
		Attempts                                     int
	}
	pageEvent struct{ Label, At, Clock string }
)

// HTML writes a recovery as one page that needs nothing else: no script, no font, no network.
func HTML(w io.Writer, v Recovery) error {
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	p := page{
		Headline: v.headline(), Verdict: v.verdict(), Class: "bad", Run: v.Run, Point: v.RecoveryPoint, Epoch: v.Epoch,
		Objectives: v.objectives(), Counts: v.Counts, Problems: v.Problems, Notes: v.Notes, Chart: draw(v.moments()),
	}
	if v.Verified || p.Verdict == "done" {
		p.Class = "good"
	}
	if !v.Started.IsZero() {
		p.When = v.Started.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	for _, part := range v.parts() {
		p.Parts = append(p.Parts, pagePart{part.Label, human(part.Took)})
	}
	for _, s := range v.Steps {
		p.Steps = append(p.Steps, stepRow(s))
	}
	moments := v.moments()
	for _, m := range moments {
		if m.event {
			p.Events = append(p.Events, pageEvent{m.title, offset(m.at.Sub(moments[0].at)), clock(m.at)})
		}
	}
	if err := t.Execute(w, p); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func stepRow(s Step) pageStep {
	row := pageStep{Title: s.Title, Started: clock(s.Started), Outcome: string(s.Outcome), Reason: s.Reason, Class: string(s.Outcome), Attempts: s.Attempts}
	switch {
	case s.Started.IsZero():
		row.Outcome = "not begun"
	case s.Ended.IsZero():
		row.Outcome = "running"
	default:
		row.Took = human(s.Ended.Sub(s.Started))
	}
	return row
}

// chart is a Gantt chart without a fixed width: everything across is a percentage, everything down and
// every letter is in pixels. So it stays readable from a telephone to paper.
type chart struct {
	Height, AxisY, GridEnd int
	Summary                string
	Rows                   []chartRow
	Ticks                  []tick
}

type chartRow struct {
	Title, Text, Anchor, Class string
	Event                      bool
	LabelY, BarY, MidY, RuleY  int
	X, W, Mid, TextX           string // percent
	TextDX                     int
}

type tick struct{ X, Label, Anchor string }

const (
	rowHeight = 40
	thinnest  = 0.6 // percent: the shortest step can still be seen
)

// draw lays the moments out. No moments, or moments that all fall together, make no chart.
func draw(moments []moment) *chart {
	if len(moments) == 0 {
		return nil
	}
	from, to := moments[0].at, moments[0].at
	for _, m := range moments {
		for _, t := range []time.Time{m.at, m.until} {
			if t.After(to) {
				to = t
			}
		}
	}
	span := to.Sub(from)
	if span <= 0 {
		return nil
	}
	percent := func(t time.Time) float64 { return 100 * float64(t.Sub(from)) / float64(span) }
	c := &chart{AxisY: rowHeight*len(moments) + 22, Height: rowHeight*len(moments) + 30, GridEnd: rowHeight*len(moments) + 6}
	c.Summary = fmt.Sprintf("Timeline of %d steps and events over %s; the tables below say the same in words.", len(moments), human(span))
	for i, m := range moments {
		until := m.until
		if until.IsZero() && !m.event {
			until = to // still running, as far as is known
		}
		c.Rows = append(c.Rows, rowOf(i, m, percent(m.at), percent(until), from))
	}
	c.Ticks = ticks(span)
	return c
}

func rowOf(i int, m moment, start, end float64, from time.Time) chartRow {
	y := i * rowHeight
	r := chartRow{
		Title: pad2(m.title), Event: m.event, Class: string(m.outcome), LabelY: y + 16, BarY: y + 21, MidY: y + 28, RuleY: y + rowHeight - 1,
		Text: offset(m.at.Sub(from)),
	}
	switch {
	case m.event:
		end = start
		r.Class = "event"
	case m.until.IsZero():
		r.Text, r.Class = r.Text+" · running", "running"
	default:
		r.Text += " · " + human(m.until.Sub(m.at))
		if m.outcome != dr.OutcomeDone {
			r.Text += " · " + string(m.outcome)
		}
	}
	r.X, r.W, r.Mid = percentText(min(start, 100-thinnest)), percentText(max(end-start, thinnest)), percentText(start)
	// The text goes where there is more room beside the bar; only where there is none, onto it.
	before, after := start, 100-end
	switch {
	case max(before, after) < 2.1*float64(len(r.Text)): // of a telephone's width, a letter takes some 2 %
		r.TextX, r.Anchor = percentText((start+end)/2), "middle"
	case after >= before:
		r.TextX, r.Anchor, r.TextDX = percentText(end), "start", 9
	default:
		r.TextX, r.Anchor, r.TextDX = percentText(start), "end", -9
	}
	return r
}

func percentText(p float64) string { return fmt.Sprintf("%.3f%%", p) }

// pad2 cuts a title to what a narrow screen shows in one line; the table has the whole of it.
func pad2(title string) string { return strings.TrimRight(pad(title, 48), " ") }

// ticks returns three to six round instants on the axis.
func ticks(span time.Duration) []tick {
	step := time.Millisecond
	for _, factor := range []time.Duration{2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 15000, 30000, 60000, 120000, 300000, 600000, 900000, 1800000, 3600000, 7200000, 14400000, 28800000, 86400000} {
		if span/step < 6 {
			break
		}
		step = factor * time.Millisecond
	}
	var out []tick
	for at := time.Duration(0); at <= span && len(out) < 400; at += step {
		x := 100 * float64(at) / float64(span)
		t := tick{X: percentText(x), Label: "+" + plain(at), Anchor: "middle"}
		switch {
		case at == 0:
			t.Label, t.Anchor = "0", "start"
		case x > 94:
			t.Anchor = "end"
		}
		out = append(out, t)
	}
	return out
}
