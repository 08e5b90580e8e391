package procnode

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// check asks a probe's question once.
func (c *container) check(ctx context.Context, proc *process, p *corev1.Probe) error {
	switch {
	case p.Exec != nil:
		return c.runCommand(ctx, proc, p.Exec.Command)
	case p.HTTPGet != nil:
		return c.httpGet(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		return c.dial(ctx, p.TCPSocket.Host, p.TCPSocket.Port)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return grpcHealth(ctx, net.JoinHostPort(c.pod.ip(), strconv.Itoa(int(p.GRPC.Port))), service)
	}
	return errors.New("the probe asks nothing")
}

// hook runs a lifecycle handler.
func (c *container) hook(ctx context.Context, proc *process, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return c.runCommand(ctx, proc, h.Exec.Command)
	case h.HTTPGet != nil:
		return c.httpGet(ctx, h.HTTPGet)
	case h.TCPSocket != nil:
		return c.dial(ctx, h.TCPSocket.Host, h.TCPSocket.Port)
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-proc.exited:
			return nil
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return nil
}

// runCommand runs a command beside the container's program; when ctx ends, the command and what it
// started are killed.
func (c *container) runCommand(ctx context.Context, proc *process, argv []string) error {
	var out cappedBuffer
	cmd := &exec.Cmd{Stdout: &out, Stderr: &out, SysProcAttr: &syscall.SysProcAttr{Setsid: true}, WaitDelay: time.Second}
	if err := c.a.startIn(proc, cmd, argv); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	unwatch := context.AfterFunc(ctx, func() { _ = unix.Kill(-pid, unix.SIGKILL) })
	defer unwatch()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("command %q was not done in time", strings.Join(argv, " "))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well and left something running
	}
	if err != nil {
		return describe(out.buf.Bytes(), err)
	}
	return nil
}

// cappedBuffer keeps the beginning of what is written to it.
type cappedBuffer struct{ buf bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if room := 4096 - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// containerPort resolves a port by number or by the container's name for it.
func containerPort(ctr *corev1.Container, p intstr.IntOrString) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(p.IntValue()), nil
	}
	for _, cp := range ctr.Ports {
		if cp.Name == p.StrVal {
			return strconv.Itoa(int(cp.ContainerPort)), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return strconv.Itoa(n), nil
	}
	return "", fmt.Errorf("container %s has no port named %q", ctr.Name, p.StrVal)
}

func (c *container) dial(ctx context.Context, host string, p intstr.IntOrString) error {
	port, err := containerPort(&c.spec, p)
	if err != nil {
		return err
	}
	if host == "" {
		host = c.pod.ip()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *container) httpGet(ctx context.Context, h *corev1.HTTPGetAction) error {
	port, err := containerPort(&c.spec, h.Port)
	if err != nil {
		return err
	}
	host := h.Host
	if host == "" {
		host = c.pod.ip()
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/"+strings.TrimPrefix(h.Path, "/"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-probe/1.36")
	for _, kv := range h.HTTPHeaders {
		if http.CanonicalHeaderKey(kv.Name) == "Host" {
			req.Host = kv.Value
		} else {
			req.Header.Add(kv.Name, kv.Value)
		}
	}
	t := &http.Transport{DisableKeepAlives: true, Proxy: nil, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a probe asks whether it answers, not who it is
	defer t.CloseIdleConnections()
	client := &http.Client{Transport: t, CheckRedirect: sameHost}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return describe(body, fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode))
	}
	return err
}

// sameHost follows redirects that stay with the pod; one that leads elsewhere counts as an answer.
func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
		return http.ErrUseLastResponse
	}
	return nil
}

// grpcHealth asks the standard health service over plain HTTP/2. The two messages are small enough
// to write by hand: a request is the service's name in field 1, an answer a status in field 1.
func grpcHealth(ctx context.Context, addr, service string) error {
	var msg []byte
	if service != "" {
		msg = append(binary.AppendUvarint([]byte{0x0a}, uint64(len(service))), service...)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &protocols}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = resp.Header.Get("Grpc-Status") // an answer without a body
	}
	if code != "0" {
		return fmt.Errorf("gRPC health check of %q failed with status %q", service, code)
	}
	const serving = 1
	if len(body) < 7 || body[5] != 0x08 || body[6] != serving {
		return fmt.Errorf("gRPC health check of %q: not serving", service)
	}
	return nil
}
