package procnode

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/lab/internal/pki"
)

// The test's own program is also the launcher, and the web server that some pods run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "proc-exec":
			os.Exit(ExecMain(os.Args[2:]))
		case "web":
			if err := web(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// web answers on the pod's address: its version, and not ready while the file UNREADY names exists.
func web() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getenv("VERSION")) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(os.Getenv("UNREADY")); err == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	s := &http.Server{Addr: os.Getenv(envAddress) + ":8080", Handler: mux}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// site is a control plane without nodes.
type site struct {
	dir    string
	octet  int
	ca     *pki.CA
	config *rest.Config
	client kubernetes.Interface
}

func (s *site) ip(rest string) string { return fmt.Sprintf("127.%d.%s", s.octet, rest) }

// kubeBinary finds the program that holds the control plane.
func kubeBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("LIFEBOAT_LAB_KUBE")
	if path == "" {
		path = filepath.Join("..", "..", "..", "bin", "lab-kube")
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatalf("no control plane to test against: %v; run make build, or set LIFEBOAT_LAB_KUBE", err)
		}
		t.Skipf("no control plane to test against: %v; run make build, or set LIFEBOAT_LAB_KUBE", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func startSite(t *testing.T) *site {
	t.Helper()
	kube := kubeBinary(t)
	s := &site{dir: openDir(t), octet: 130 + os.Getpid()%100}
	var err error
	if s.ca, err = pki.NewCA("procnode test", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.ca.Save(filepath.Join(s.dir, "ca")); err != nil {
		t.Fatal(err)
	}
	s.write(t, "ca.pem", s.ca.PEM())
	s.saveServer(t, "api", "10.1", "14.1")
	s.saveClient(t, "to-kubelet", "api", nil)
	s.saveKey(t)
	kc := s.kubeconfig(t)
	in := func(name string) string { return filepath.Join(s.dir, name) }
	client, peer := "http://"+s.ip("10.1:2379"), "http://"+s.ip("10.1:2380")
	s.daemon(t, kube, "etcd", "--data-dir", in("etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "error")
	s.daemon(t, kube, "kube-apiserver", "--etcd-servers="+client, "--bind-address="+s.ip("10.1"), "--advertise-address="+s.ip("10.1"),
		"--secure-port=6443", "--tls-cert-file="+in("api.crt"), "--tls-private-key-file="+in("api.key"), "--client-ca-file="+in("ca.pem"),
		"--kubelet-client-certificate="+in("to-kubelet.crt"), "--kubelet-client-key="+in("to-kubelet.key"), "--kubelet-certificate-authority="+in("ca.pem"),
		"--kubelet-preferred-address-types=InternalIP", "--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+in("sa.key"), "--service-account-signing-key-file="+in("sa.key"), "--service-cluster-ip-range="+s.ip("14.0/24"),
		"--endpoint-reconciler-type=none", "--cert-dir="+s.dir)
	s.connect(t)
	s.daemon(t, kube, "kube-controller-manager", "--kubeconfig="+kc, "--root-ca-file="+in("ca.pem"), "--service-account-private-key-file="+in("sa.key"),
		"--use-service-account-credentials=true", "--leader-elect=false", "--secure-port=0", "--pvclaimbinder-sync-period=1s",
		"--flex-volume-plugin-dir="+in("flex"), // else it makes /usr/libexec/kubernetes
		"--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller")
	s.daemon(t, kube, "kube-scheduler", "--kubeconfig="+kc, "--leader-elect=false", "--secure-port=0")
	return s
}

// openDir is a directory that other users may enter too, for pods that do not run as root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "procnode-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (s *site) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) saveServer(t *testing.T, name string, ips ...string) pki.Pair {
	t.Helper()
	var list []net.IP
	for _, ip := range ips {
		list = append(list, net.ParseIP(s.ip(ip)))
	}
	p, err := s.ca.IssueServer([]string{name}, list, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name+".crt", p.Cert)
	s.write(t, name+".key", p.Key)
	return p
}

func (s *site) saveClient(t *testing.T, name, cn string, orgs []string) pki.Pair {
	t.Helper()
	p, err := s.ca.IssueClient(cn, orgs)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name+".crt", p.Cert)
	s.write(t, name+".key", p.Key)
	return p
}

func (s *site) saveKey(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "sa.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func (s *site) kubeconfig(t *testing.T) string {
	t.Helper()
	admin := s.saveClient(t, "admin", "admin", []string{"system:masters"})
	s.config = &rest.Config{Host: "https://" + s.ip("10.1:6443"), QPS: 200, Burst: 400,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.ca.PEM(), CertData: admin.Cert, KeyData: admin.Key}}
	c := clientcmdapi.NewConfig()
	c.Clusters["t"] = &clientcmdapi.Cluster{Server: s.config.Host, CertificateAuthorityData: s.ca.PEM()}
	c.AuthInfos["t"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.Cert, ClientKeyData: admin.Key}
	c.Contexts["t"] = &clientcmdapi.Context{Cluster: "t", AuthInfo: "t"}
	c.CurrentContext = "t"
	path := filepath.Join(s.dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *site) daemon(t *testing.T, kube string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.dir, args[0]+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kube, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			raw, _ := os.ReadFile(log.Name())
			t.Logf("the end of %s's log:\n%s", args[0], raw[max(0, len(raw)-1500):])
		}
	})
}

func (s *site) connect(t *testing.T) {
	t.Helper()
	var err error
	if s.client, err = kubernetes.NewForConfig(s.config); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "API server ready", func(ctx context.Context) error {
		return s.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// node starts an agent and returns what stops it and waits for its end.
func (s *site) node(t *testing.T, name string, n int, iso Isolation, programs map[string]Program) (stop func()) {
	t.Helper()
	ip := s.ip(fmt.Sprintf("10.%d", 10+n))
	cert, err := s.saveServer(t, name, fmt.Sprintf("10.%d", 10+n)).TLS()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca.PEM())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Config: s.config, NodeName: name, NodeIP: ip, PodCIDR: netip.MustParsePrefix(s.ip(fmt.Sprintf("%d.0/24", 20+n))),
		Dir: filepath.Join(s.dir, name), Programs: programs, ServerTLS: cert, ClientCA: pool, Region: "r1", Zone: "z1",
		Labels: map[string]string{"isolation": fmt.Sprint(int(iso))}, Launcher: []string{self, "proc-exec"},
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, o, func(ctx context.Context, launcher []string, dir string) Isolation {
			if iso != Shared {
				if err := tryIsolation(ctx, iso, launcher, dir); err != nil {
					t.Errorf("isolation %d is not permitted: %v", iso, err)
				}
			}
			return iso
		})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("agent %s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("agent %s did not stop", name)
		}
		left, err := (family{env: []string{envNode + "=" + o.Dir}}).members()
		if err != nil || len(left) > 0 {
			t.Errorf("agent %s left processes behind: %v %v", name, left, err)
		}
	}
	t.Cleanup(stop)
	eventually(t, 30*time.Second, "node "+name+" ready", func(ctx context.Context) error {
		n, err := s.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && len(n.Spec.Taints) == 0 {
				return nil
			}
		}
		return fmt.Errorf("conditions %v, taints %v", n.Status.Conditions, n.Spec.Taints)
	})
	return stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil { // the test may be over while the last watchers end
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// eventually calls f until it returns nil.
func eventually(t *testing.T, limit time.Duration, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
