package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/report"
	"lifeboat.dev/lifeboat/internal/wire"
)

func newReport(g *global) *cobra.Command {
	html := ""
	c := &cobra.Command{
		Use:     "report RUN",
		Short:   "Show what a run did, from its journal in the vault",
		Example: "  lifeboat report 20261122T231542Z-shop-9c1e\n  lifeboat report 20261122T231542Z-shop-9c1e --html run.html",
		Args:    args(cobra.ExactArgs(1)),
		RunE:    func(c *cobra.Command, a []string) error { return runReport(c.Context(), g, a[0], html) },
	}
	c.Flags().StringVar(&html, "html", "", "write a page with the timeline drawn to this file")
	return c
}

func runReport(ctx context.Context, g *global, id, html string) error {
	fleet, err := g.loadFleet()
	if err != nil {
		return err
	}
	op, err := wire.OpenRun(ctx, fleet, id, wire.Options{Say: g.say})
	if err != nil {
		return err
	}
	res, err := op.Result(ctx, id)
	if err != nil {
		return err
	}
	var point dr.RecoveryPoint
	if res.Point != nil {
		point = *res.Point
	}
	view := report.FromRun(res.Run, point)
	if html != "" {
		page, err := os.OpenFile(html, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		if err := errors.Join(report.HTML(page, view), page.Close()); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return g.print(res.Run, func(w io.Writer) error { return report.Text(w, view) })
}
