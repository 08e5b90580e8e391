package kube

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Exec runs argv in a container and joins its streams to those given; nil streams are not opened. It
// returns when the command has ended or ctx is done, whichever is first. A command that ends with
// another status than 0 is an error; ExitStatus tells it.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	req := c.Typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: container, Command: argv,
			Stdin: stdin != nil, Stdout: stdout != nil, Stderr: stderr != nil,
		}, scheme.ParameterCodec)
	// A websocket upgrade is a GET; SPDY, which API servers before 1.31 need, is a POST.
	ws, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", req.URL().String())
	if err != nil {
		return fmt.Errorf("preparing to run %q in pod %s/%s: %w", argv, namespace, pod, err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.Config, "POST", req.URL())
	if err != nil {
		return fmt.Errorf("preparing to run %q in pod %s/%s: %w", argv, namespace, pod, err)
	}
	exec, err := remotecommand.NewFallbackExecutor(ws, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return fmt.Errorf("preparing to run %q in pod %s/%s: %w", argv, namespace, pod, err)
	}
	err = exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: stderr})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("running %q in pod %s/%s: %w", argv, namespace, pod, err)
	}
	return nil
}

// ExitStatus returns the status that a command of Exec ended with, if it ended at all.
func ExitStatus(err error) (status int, ended bool) {
	if err == nil {
		return 0, true
	}
	var x utilexec.ExitError
	if errors.As(err, &x) && x.Exited() {
		return x.ExitStatus(), true
	}
	return 0, false
}
