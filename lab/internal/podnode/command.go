package podnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// commandLimit bounds one ip or nft command, all of which answer within milliseconds.
const commandLimit = 20 * time.Second

// run executes a program with the given standard input; its error carries the command and what it said.
func run(ctx context.Context, stdin string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errOut.String())
		if stdin != "" {
			said += "\ninput was:\n" + strings.TrimSpace(stdin)
		}
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, said)
	}
	return out.String(), nil
}

// inside is the argv that runs argv in a named network namespace. It is nsenter and not `ip netns exec`,
// because the latter mounts /sys anew, which hides the control groups.
func inside(namespace string, argv ...string) []string {
	if namespace == "" {
		return argv
	}
	return append([]string{"nsenter", "--net=" + namespacePath(namespace), "--"}, argv...)
}

// ip runs lines of iproute2's batch language in a namespace ("" is the one we are in).
func ip(ctx context.Context, namespace string, lines ...string) error {
	_, err := run(ctx, strings.Join(lines, "\n")+"\n", inside(namespace, "ip", "-batch", "-")...)
	return err
}

// nft applies a script as one transaction in a namespace.
func nft(ctx context.Context, namespace, script string) error {
	_, err := run(ctx, script, inside(namespace, "nft", "-f", "-")...)
	return err
}
