// Package apiserver runs one etcd and one kube-apiserver, without nodes and, unless asked for, without
// controllers, for tests that need a real Kubernetes API and nothing behind it.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/pki"
)

// startTimeout is how long etcd and the API server may take on a busy machine.
const startTimeout = 90 * time.Second

// stopTimeout bounds the wait for processes that were killed.
const stopTimeout = 10 * time.Second

// ErrNoBinary says that the lab's Kubernetes has not been built.
var ErrNoBinary = errors.New("the lab's Kubernetes (bin/lab-kube) is not built: run `make build`")

// Binary finds the multi-call binary: LIFEBOAT_LAB_KUBE, else bin/lab-kube of the repository that the
// working directory is in.
func Binary() (string, error) {
	if path := os.Getenv("LIFEBOAT_LAB_KUBE"); path != "" {
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for bin/lab-kube: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "bin", "lab-kube")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", ErrNoBinary
}

// Server is a running pair of etcd and API server.
type Server struct {
	Kubeconfig string // of a cluster administrator; context "admin"
	URL        string
	CA         *pki.CA // signs users: IssueClient, then a kubeconfig of one's own

	binary string
	dir    string
	procs  []*proc
}

type proc struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process was reaped
	err   error         // set before ended is closed
}

// Start runs the pair on free loopback ports with its files in dir, and returns once the API server says
// that it is ready. The processes die with this one; Stop ends them earlier. Flags are added to those of
// the API server.
func Start(ctx context.Context, binary, dir string, flags ...string) (*Server, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready within %s", startTimeout))
	defer cancel()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s := &Server{binary: binary, dir: dir, URL: fmt.Sprintf("https://127.0.0.1:%d", ports[2])}
	if err := s.certificates(); err != nil {
		return nil, err
	}
	etcd := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	err = s.run("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+etcd,
		"--advertise-client-urls="+etcd, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=default="+peer, "--unsafe-no-fsync", "--log-level=error")
	if err == nil {
		err = s.run("kube-apiserver", append([]string{
			"--etcd-servers=" + etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", ports[2]), "--tls-cert-file=" + s.file("server.crt"),
			"--tls-private-key-file=" + s.file("server.key"), "--client-ca-file=" + s.file("ca.crt"),
			"--cert-dir=" + dir, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + s.file("sa.pub"),
			"--service-account-signing-key-file=" + s.file("sa.key"), "--endpoint-reconciler-type=none",
			"--requestheader-client-ca-file=" + s.file("ca.crt"), "--requestheader-allowed-names=front-proxy",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + s.file("front-proxy.crt"), "--proxy-client-key-file=" + s.file("front-proxy.key"),
		}, flags...)...)
	}
	if err == nil {
		err = s.ready(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// StartControllers runs the controllers of kube-controller-manager that work without nodes: garbage
// collection, namespaces, accounts and their tokens, workloads, endpoints, quotas, volumes.
func (s *Server) StartControllers() error {
	return s.run("kube-controller-manager", "--kubeconfig="+s.Kubeconfig, "--leader-elect=false", "--secure-port=0",
		"--root-ca-file="+s.file("ca.crt"), "--service-account-private-key-file="+s.file("sa.key"),
		"--pvclaimbinder-sync-period=1s", "--kube-api-qps=200", "--kube-api-burst=400", "--controllers="+strings.Join([]string{
			"garbage-collector-controller", "namespace-controller", "serviceaccount-controller", "serviceaccount-token-controller",
			"root-ca-certificate-publisher-controller", "deployment-controller", "replicaset-controller", "statefulset-controller",
			"job-controller", "cronjob-controller", "endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller",
			"resourcequota-controller", "persistentvolume-binder-controller", "persistentvolumeclaim-protection-controller",
			"persistentvolume-protection-controller", "disruption-controller",
		}, ","))
}

func (s *Server) run(name string, args ...string) error {
	log, err := os.Create(s.file(name + ".log"))
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	cmd := exec.Command(s.binary, append([]string{name}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p := &proc{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	s.procs = append(s.procs, p)
	return nil
}

// Stop kills all processes and waits until they are gone.
func (s *Server) Stop() error {
	var errs []error
	for _, p := range s.procs {
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("killing %s: %w", p.name, err))
		}
		select {
		case <-p.ended:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("%s (process %d) did not end within %s", p.name, p.cmd.Process.Pid, stopTimeout))
		}
	}
	return errors.Join(errs...)
}

// alive returns an error that shows the log of a process that ended by itself.
func (s *Server) alive() error {
	for _, p := range s.procs {
		select {
		case <-p.ended:
			log, _ := os.ReadFile(s.file(p.name + ".log")) // without it the status must do
			return fmt.Errorf("%s ended (%w):\n%s", p.name, p.err, log[max(0, len(log)-2000):])
		default:
		}
	}
	return nil
}

func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // all stay open until the last is found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
