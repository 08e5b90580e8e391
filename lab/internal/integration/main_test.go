// Package integration tries the site's services against one real API server.
package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lifeboat.dev/lifeboat/lab/internal/apiserver"
	"lifeboat.dev/lifeboat/lab/internal/openshift"
)

const serviceRange = "127.203.14.0/24"

// TestServices runs everything against one API server, because starting one takes longer than all of it.
func TestServices(t *testing.T) {
	cfg := startAPI(t)
	if err := openshift.Install(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := openshift.Install(t.Context(), cfg); err != nil {
		t.Fatalf("installed a second time: %v", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*testing.T, *env){
		"router": testRouter, "svcproxy": testProxy, "allocate only": testAllocateOnly, "provision": testProvision, "clusterdns": testClusterDNS,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			test(t, &env{cfg: cfg, Interface: client, ns: ns.Name})
		})
	}
}

func startAPI(t *testing.T) *rest.Config {
	t.Helper()
	bin, err := apiserver.Binary()
	if err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s, err := apiserver.Start(t.Context(), bin, t.TempDir(), "--service-cluster-ip-range="+serviceRange, "--disable-admission-plugins=ServiceAccount")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg
}

type env struct {
	kubernetes.Interface
	cfg *rest.Config
	ns  string
}

// run starts a service and ends it with the test.
func run(t *testing.T, what string, serve func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s does not end", what)
		}
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// pod makes a ready pod at a loopback address.
func (e *env) pod(t *testing.T, name, ip string, labels map[string]string, edit func(*corev1.Pod)) {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x",
			Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}},
	}
	if edit != nil {
		edit(p)
	}
	p, err := e.CoreV1().Pods(e.ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.status(t, p.Name, ip, corev1.ConditionTrue)
}

func (e *env) status(t *testing.T, name, ip string, ready corev1.ConditionStatus) {
	t.Helper()
	p, err := e.CoreV1().Pods(e.ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}
	if _, err := e.CoreV1().Pods(e.ns).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (e *env) service(t *testing.T, s *corev1.Service) *corev1.Service {
	t.Helper()
	s, err := e.CoreV1().Services(e.ns).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// webAt serves what a pod would.
func webAt(t *testing.T, address string, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s host=%s proto=%s for=%s", text, r.Host, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	})
}

func get(client *http.Client, url string) (int, string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), errors.Join(err)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
