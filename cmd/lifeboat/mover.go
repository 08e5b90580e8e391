package main

import (
	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/vault/mover"
)

// newMover is what runs in a mover pod. It is not for people, so it is hidden.
func newMover(g *global) *cobra.Command {
	c := &cobra.Command{Use: "mover", Short: "Move a volume's data (started by lifeboat in a pod of its own)", Hidden: true}
	c.AddCommand(
		&cobra.Command{
			Use:   "wait",
			Short: "Keep the pod until it is told to end",
			Args:  args(cobra.NoArgs),
			RunE: func(c *cobra.Command, _ []string) error {
				<-c.Context().Done()
				return nil
			},
		},
		&cobra.Command{
			Use:   "work",
			Short: "Take one order from standard input",
			Args:  args(cobra.NoArgs),
			RunE:  func(c *cobra.Command, _ []string) error { return mover.Work(c.Context(), g.stdin, g.stdout) },
		},
	)
	return c
}
