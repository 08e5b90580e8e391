package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/plan"
	"lifeboat.dev/lifeboat/internal/report"
	"lifeboat.dev/lifeboat/internal/wire"
)

const pointArgument = `POINT is a time ("2026-11-25 10:30", "10m ago"), the id of a recovery point or its beginning, or latest.`

func newPoints(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "points",
		Short: "List an application's recovery points, look into them and compare them",
		Example: `  lifeboat points list shop
  lifeboat points show shop latest
  lifeboat points diff shop "1h ago" latest
  lifeboat points diff shop latest --live eastus
  lifeboat points browse shop latest state/namespaces/shop/core/configmaps/web.json`,
	}
	c.AddCommand(newPointsList(g), newPointsShow(g), newPointsDiff(g), newPointsBrowse(g))
	return c
}

func newPointsList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list APPLICATION",
		Short: "List the recovery points, newest first: age, what is in them, what is missing",
		Long: `List shows each recovery point with its age, whether it is complete, how large its data is, and how much it
added to the vault. Nothing that was acknowledged before a point's time is missing from it.`,
		Example:           "  lifeboat points list shop\n  lifeboat points list shop -o json",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeApplications,
		RunE: func(c *cobra.Command, a []string) error {
			op, err := g.open(c.Context(), a[0])
			if err != nil {
				return err
			}
			points, err := wire.Points{Operation: op}.List(c.Context())
			if err != nil {
				return err
			}
			return g.print(points, func(w io.Writer) error { return listPoints(w, a[0], points) })
		},
	}
}

func listPoints(w io.Writer, app string, points []wire.PointStatus) error {
	if len(points) == 0 {
		_, err := fmt.Fprintf(w, "%s has no recovery point yet: lifeboat backup %s\n", app, app)
		return err
	}
	table := report.Table{Head: []string{"recovery point", "age", "site", "objects", "data", "added", "complete"}}
	for _, p := range points {
		complete := "yes"
		if len(p.Lacks) > 0 {
			complete = "lacks " + strings.Join(p.Lacks, ", ")
		}
		table.Row(p.ID, age(p.Time), p.Site, fmt.Sprint(p.Objects), byteCount(p.DataBytes), byteCount(p.StoredBytes), complete)
	}
	return table.Write(w)
}

func age(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	d := time.Since(t)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", max(int(d.Seconds()), 0))
}

func newPointsShow(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "show APPLICATION [POINT]",
		Short: "Show what one recovery point holds: objects by namespace and kind, data with its beacons",
		Long: `Show says what is in a recovery point and what is missing from it. Without POINT it is the newest complete one.

` + pointArgument,
		Example:           "  lifeboat points show shop\n  lifeboat points show shop \"2026-11-25 10:30\"\n  lifeboat points show shop 20261125T1030 -o json",
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: g.completePointArguments(1),
		RunE: func(c *cobra.Command, a []string) error {
			op, p, err := g.openPoint(c.Context(), a[0], argument(a, 1))
			if err != nil {
				return err
			}
			objects, err := op.Objects(c.Context(), p.RecoveryPoint)
			if err != nil {
				return err
			}
			out := struct {
				wire.PointStatus
				Contents []wire.KindCount `json:"contents"`
			}{p, objects}
			return g.print(out, func(w io.Writer) error { return showPoint(w, p, objects) })
		},
	}
}

func showPoint(w io.Writer, p wire.PointStatus, objects []wire.KindCount) error {
	var b strings.Builder
	fmt.Fprintf(&b, "recovery point %s of %s at %s, epoch %d\n", p.ID, p.Application, p.Site, p.Epoch)
	fmt.Fprintf(&b, "  of %s (%s ago), written in %s\n", p.Time.UTC().Format(time.RFC3339), age(p.Time), p.Finished.Sub(p.Started).Round(time.Millisecond))
	if len(p.Lacks) == 0 {
		b.WriteString("  complete\n")
	}
	for _, m := range p.Lacks {
		fmt.Fprintf(&b, "  lacks %s\n", m)
	}
	fmt.Fprintf(&b, "state: %d objects, snapshot %s\n", p.Objects, p.Checkpoint)
	last := "\x00"
	for _, k := range objects {
		if k.Namespace != last {
			last = k.Namespace
			title := "namespace " + last
			if last == "" {
				title = "cluster"
			}
			fmt.Fprintf(&b, "  %s\n", title)
		}
		fmt.Fprintf(&b, "    %5d %s\n", len(k.Names), k.Kind)
	}
	if len(p.Data) > 0 {
		b.WriteString("data:\n")
	}
	for _, d := range p.Data {
		fmt.Fprintf(&b, "  %s: %s in %d files, %s added to the vault, %s copy, snapshot %s\n    beacon %d written at %s\n", d.Datastore, byteCount(d.Bytes), d.Files,
			byteCount(d.StoredBytes), d.Consistency, d.Snapshot, d.Beacon.Sequence, d.Beacon.Time.UTC().Format(time.RFC3339Nano))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newPointsDiff(g *global) *cobra.Command {
	var live string
	var only dr.Selector
	var status bool
	c := &cobra.Command{
		Use:   "diff APPLICATION POINT [POINT]",
		Short: "Compare two recovery points, or one with what is at a site now",
		Long: `Diff says which objects were added (+), removed (-) or changed (~), and of the latter which fields. Values of
Secrets are never shown. What a cluster writes by itself (uid, resourceVersion, timestamps) does not count, nor
what Lifeboat notes on what it restored, nor status unless --status is given.

` + pointArgument,
		Example: `  lifeboat points diff shop "1h ago" latest
  lifeboat points diff shop latest --live eastus --kind deployment
  lifeboat points diff shop 20261125T1030 20261125T1100 -o json`,
		Args:              args(cobra.RangeArgs(2, 3)),
		ValidArgsFunction: g.completePointArguments(2),
		RunE: func(c *cobra.Command, a []string) error {
			if (live == "") == (len(a) == 2) {
				return dr.Errorf(dr.ClassUsage, nil, "Name two recovery points, or one and --live SITE.", "it is not clear what to compare %s with", a[1])
			}
			d, err := differences(c.Context(), g, a, live, only, diff.Options{Status: status})
			if err != nil {
				return err
			}
			return g.print(d, func(w io.Writer) error { return writeDifferences(w, d) })
		},
	}
	f := c.Flags()
	f.StringVar(&live, "live", "", "compare with what is at this site now")
	f.BoolVar(&status, "status", false, "compare statuses too")
	f.StringSliceVarP(&only.Namespaces, "namespace", "n", nil, "only objects of this namespace (may be repeated)")
	f.StringSliceVar(&only.Kinds, "kind", nil, "only objects of this kind (may be repeated)")
	f.StringSliceVar(&only.Names, "name", nil, "only objects of this name, with * and ? (may be repeated)")
	f.StringVarP(&only.Labels, "selector", "l", "", "only objects with these labels")
	mustComplete(c.RegisterFlagCompletionFunc("live", g.completeSites))
	mustComplete(c.RegisterFlagCompletionFunc("namespace", g.completeNamespaces))
	return c
}

func differences(ctx context.Context, g *global, a []string, live string, only dr.Selector, opts diff.Options) (*wire.Differences, error) {
	op, before, err := g.openPoint(ctx, a[0], a[1])
	if err != nil {
		return nil, err
	}
	if live != "" {
		return op.DiffLive(ctx, before.RecoveryPoint, live, only, opts)
	}
	after, err := g.point(ctx, op, a[2])
	if err != nil {
		return nil, err
	}
	return op.Diff(ctx, before.RecoveryPoint, after.RecoveryPoint, only, opts)
}

func writeDifferences(w io.Writer, d *wire.Differences) error {
	if err := diff.Write(w, d.Objects); err != nil {
		return err
	}
	counts := map[diff.Op]int{}
	for _, o := range d.Objects {
		counts[o.Op]++
	}
	for _, m := range d.Missing {
		if _, err := fmt.Fprintf(w, "not compared, because %s\n", m); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "from %s to %s: %d added, %d removed, %d changed\n", d.Before, d.After, counts[diff.Added], counts[diff.Removed], counts[diff.Changed])
	return err
}

func newPointsBrowse(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "browse APPLICATION POINT [PATH]",
		Short: "List what is at a path of a recovery point, or write a document or file to standard output",
		Long: `Browse shows the tree of a recovery point: below state/ a JSON document for each object, Secrets included as
they were captured; below data/NAME/ the files of each datastore. Of a directory it lists the entries, of a
document or file it writes the content to standard output.

` + pointArgument,
		Example: `  lifeboat points browse shop latest
  lifeboat points browse shop latest state/namespaces/shop/apps/deployments
  lifeboat points browse shop latest state/namespaces/shop/apps/deployments/web.json
  lifeboat points browse shop "10m ago" data/orders/orders.log > orders.log`,
		Args:              args(cobra.RangeArgs(2, 3)),
		ValidArgsFunction: g.completePointArguments(1),
		RunE: func(c *cobra.Command, a []string) error {
			op, p, err := g.openPoint(c.Context(), a[0], a[1])
			if err != nil {
				return err
			}
			entries, read, err := op.Browse(c.Context(), p.RecoveryPoint, argument(a, 2))
			if err != nil {
				return err
			}
			if read != nil {
				return g.dump(c.Context(), entries[0], read)
			}
			return g.print(entries, func(w io.Writer) error { return listEntries(w, entries) })
		},
	}
}

func listEntries(w io.Writer, entries []wire.Entry) error {
	table := report.Table{}
	for _, e := range entries {
		size, at, name := "", "", e.Path
		switch {
		case e.Type == "dir":
			name += "/"
		case e.Target != "":
			name += " -> " + e.Target
		}
		if e.Type == "file" || e.Size > 0 {
			size = byteCount(int64(e.Size))
		}
		if !e.ModTime.IsZero() {
			at = e.ModTime.UTC().Format(time.RFC3339)
		}
		table.Row(e.Mode, size, at, name)
	}
	return table.Write(w)
}

// maxDumped bounds what is put into one JSON value.
const maxDumped = 1 << 20

// dump writes a file as it is; into JSON a document goes as itself, other files in base64.
func (g *global) dump(ctx context.Context, e wire.Entry, read func(context.Context, io.Writer) error) error {
	if g.format != formatJSON || strings.HasPrefix(e.Path, "state/") {
		return read(ctx, g.stdout)
	}
	if e.Size > maxDumped {
		return dr.Errorf(dr.ClassUsage, nil, "Leave out -o json: then it is written as it is.", "%s is larger than %s", e.Path, byteCount(maxDumped))
	}
	var content strings.Builder
	encoder := base64.NewEncoder(base64.StdEncoding, &content)
	if err := read(ctx, encoder); err != nil {
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	return g.print(struct {
		wire.Entry
		Content string `json:"content"` // base64
	}{e, content.String()}, nil)
}

// openPoint makes ready to work for an application and finds one of its recovery points.
func (g *global) openPoint(ctx context.Context, app, point string) (wire.Points, wire.PointStatus, error) {
	o, err := g.open(ctx, app)
	if err != nil {
		return wire.Points{}, wire.PointStatus{}, err
	}
	op := wire.Points{Operation: o}
	p, err := g.point(ctx, op, point)
	return op, p, err
}

func (g *global) point(ctx context.Context, op wire.Points, text string) (wire.PointStatus, error) {
	ref, err := plan.ParsePoint(text, time.Now())
	if err != nil {
		return wire.PointStatus{}, err
	}
	p, notes, err := op.Choose(ctx, ref)
	if err != nil {
		return wire.PointStatus{}, err
	}
	for _, n := range notes {
		g.say("%s", n)
	}
	return p, nil
}

func argument(a []string, i int) string {
	if i < len(a) {
		return a[i]
	}
	return ""
}

// completePoints offers an application's recovery points for a flag.
func (g *global) completePoints(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second) // nobody waits longer for a Tab
	defer cancel()
	g.quiet = true
	op, err := g.open(ctx, given[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	points, err := wire.Points{Operation: op}.List(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{plan.Latest + "\tthe newest complete one"}
	for _, p := range points {
		state := "complete"
		if len(p.Lacks) > 0 {
			state = "lacks " + strings.Join(p.Lacks, ", ")
		}
		if strings.HasPrefix(p.ID, typed) {
			names = append(names, fmt.Sprintf("%s\t%s ago, %s", p.ID, age(p.Time), state))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// completePointArguments offers applications first, then up to n recovery points.
func (g *global) completePointArguments(n int) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(given) == 0:
			return g.completeApplications(c, given, typed)
		case len(given) <= n:
			return g.completePoints(c, given, typed)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}
