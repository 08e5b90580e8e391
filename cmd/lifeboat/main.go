// Command lifeboat brings applications on Kubernetes clusters through the loss of a site.
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
	os.Exit(realMain(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// realMain runs one command and is the one place that turns an error into words and an exit code.
func realMain(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The first signal asks for an orderly stop that leaves a resumable run; the second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	g := &global{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(g)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && dr.ClassOf(err) == dr.ClassInternal {
		err = dr.Errorf(dr.ClassInterrupted, err, "", "interrupted")
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
	class := dr.ClassOf(err)
	next := ""
	var e *dr.Error
	if errors.As(err, &e) {
		next = e.Next
	}
	if g.format == formatJSON {
		var body errorBody
		body.Error.Class, body.Error.Message, body.Error.Next = class, err.Error(), next
		enc := json.NewEncoder(g.stderr)
		enc.SetIndent("", "  ")
		_ = enc.Encode(body) // standard error is the last resort: nowhere to report a failure to
		return class.ExitCode()
	}
	fmt.Fprintf(g.stderr, "lifeboat: %v\n", err)
	if next != "" {
		fmt.Fprintf(g.stderr, "  next: %s\n", next)
	}
	return class.ExitCode()
}
