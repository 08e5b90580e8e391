package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/report"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/wire"
)

// Bounds of what a person is shown; -o json has all.
const (
	shownObjects = 40 // of an outcome
	shownFields  = 20 // of an object
)

// planned is what a dry run prints in JSON: the plan, and of a restore the objects.
type planned struct {
	dr.Plan
	DryRun *wire.DryRun `json:"dryRun,omitempty"`
}

// dryRun shows a plan, and of a restore what would become of each object. It fails where the restore would.
func (g *global) dryRun(ctx context.Context, op *wire.Operation, p dr.Plan) error {
	if p.Goal != dr.GoalRestore && p.Goal != dr.GoalClone {
		return g.print(p, func(w io.Writer) error { return report.Plan(w, p) })
	}
	if g.format == formatText { // what is known at once
		if err := report.Plan(g.stdout, p); err != nil {
			return err
		}
	}
	d, err := op.DryRun(ctx, p)
	if err != nil {
		return err
	}
	if err := g.print(planned{p, d}, func(w io.Writer) error { return writeDryRun(w, d) }); err != nil {
		return err
	}
	switch n := d.Counts[restore.Refused]; {
	case len(d.Obstacles) > 0:
		return dr.Errorf(dr.ClassBlocked, fmt.Errorf("%s", strings.Join(d.Obstacles, "; ")), "Remove the obstacle, then look again.",
			"this restore would stop before it changes anything")
	case n > 0:
		return dr.Errorf(dr.ClassIncomplete, nil, "Remove the cause, then look again; --existing replace makes anew what cannot be changed.",
			"%d objects would not be restored", n)
	}
	return nil
}

func writeDryRun(w io.Writer, d *wire.DryRun) error {
	var b strings.Builder
	var counts []string
	for _, o := range restore.Outcomes() {
		if n := d.Counts[o]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, o))
		}
	}
	if d.NotChosen > 0 {
		counts = append(counts, fmt.Sprintf("%d not chosen", d.NotChosen))
	}
	fmt.Fprintf(&b, "\nObjects: %s\n", strings.Join(counts, ", "))
	for _, line := range d.Obstacles {
		fmt.Fprintf(&b, "  would stop for: %s\n", line)
	}
	for _, line := range d.Waits {
		fmt.Fprintf(&b, "  would wait: %s\n", line)
	}
	shown := map[restore.Outcome]int{}
	for _, f := range d.Objects {
		if f.Outcome == restore.Unchanged {
			continue
		}
		if shown[f.Outcome]++; shown[f.Outcome] <= shownObjects {
			writeForeseen(&b, f)
		}
		if n := d.Counts[f.Outcome]; shown[f.Outcome] == n && n > shownObjects {
			fmt.Fprintf(&b, "  … %d more %s; -o json has them\n", n-shownObjects, f.Outcome)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeForeseen writes one object, and below it why, and what would be different.
func writeForeseen(b *strings.Builder, f restore.Foreseen) {
	fmt.Fprintf(b, "%-9s %s", f.Outcome, f.Object)
	if f.Reason != "" {
		fmt.Fprintf(b, ": %s", f.Reason)
	}
	if f.Untried != "" {
		fmt.Fprintf(b, " (the site was not asked: %s)", f.Untried)
	}
	b.WriteByte('\n')
	const indent = "    "
	for _, n := range f.Notes {
		fmt.Fprintf(b, "%s* %s\n", indent, n)
	}
	diff.Lines(b, indent, f.Fields[:min(len(f.Fields), shownFields)])
	if n := len(f.Fields); n > shownFields {
		fmt.Fprintf(b, "%s… %d more fields\n", indent, n-shownFields)
	}
	if f.Outcome == restore.Changed && f.Untried == "" && len(f.Fields) == 0 {
		fmt.Fprintf(b, "%sonly in who has set what, or in what owns it\n", indent)
	}
}
