// Command lifeboat-lab runs real Kubernetes sites on one machine, and lets them be killed and cut off.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"lifeboat.dev/lifeboat/internal/dr"
)

func main() {
	os.Exit(realMain(os.Args[1:], os.Stdout, os.Stderr))
}

// realMain runs one command and is the one place that turns an error into words and an exit code.
func realMain(args []string, stdout, stderr io.Writer) int {
	// The first signal asks for an orderly end; the second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	g := &global{stdout: stdout, stderr: stderr}
	root := newRoot(g)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		err = dr.Errorf(dr.ClassInterrupted, err, "Run the command again, or remove what is left: lifeboat-lab down", "interrupted")
	}
	return g.fail(err)
}

// errorBody is what `-o json` prints for an error, on standard error.
type errorBody struct {
	Error struct {
		Class   dr.Class `json:"class"`
		Message string   `json:"message"`
		Next    string   `json:"next,omitempty"`
	} `json:"error"`
}

func (g *global) fail(err error) int {
	class, next := dr.ClassOf(err), ""
	var e *dr.Error
	if errors.As(err, &e) {
		next = e.Next
	}
	if g.json() {
		var body errorBody
		body.Error.Class, body.Error.Message, body.Error.Next = class, err.Error(), next
		enc := json.NewEncoder(g.stderr)
		enc.SetIndent("", "  ")
		_ = enc.Encode(body) // standard error is the last resort: nowhere to report a failure to
		return class.ExitCode()
	}
	fmt.Fprintf(g.stderr, "lifeboat-lab: %v\n", err)
	if next != "" {
		fmt.Fprintf(g.stderr, "  next: %s\n", next)
	}
	return class.ExitCode()
}
