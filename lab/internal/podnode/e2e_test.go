package podnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"archive/tar"
	"io"
	"net/http"

	"lifeboat.dev/lifeboat/lab/internal/cluster"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/site"
)

// initArg makes the test's own binary the first process of a site.
const initArg = "podnode-test-init"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == initArg {
		if err := siteInit(os.Args[2]); err != nil {
			slog.Error("the site's first process", "err", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// spec is what the test tells the site's first process.
type spec struct {
	Node    Node
	Cluster cluster.Config
}

// siteInit runs a whole site: control plane and node.
func siteInit(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if err := Prepare(s.Node); err != nil {
		return err
	}
	if err := s.Cluster.Prepare(); err != nil {
		return err
	}
	daemons, err := s.Cluster.Daemons()
	if err != nil {
		return err
	}
	own, err := Daemons(s.Node)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: s.Node.Registry, Handler: registry.New()}
	go func() { slog.Error("the registry", "err", server.ListenAndServe()) }()
	sup := site.Supervisor{LogDir: s.Cluster.Site.Logs(), Log: slog.Default()}
	// The node starts beside the control plane, as it will wait for it.
	return sup.Run(ctx, append(own[:1:1], append(daemons, own[1:]...)...))
}

// needE2E skips a test of a whole site unless it is asked for.
func needE2E(t *testing.T) (kube string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_E2E") != "1" {
		t.Skip("starts a whole site: set LIFEBOAT_E2E=1 to run it")
	}
	needRoot(t)
	kube = os.Getenv("LIFEBOAT_LAB_KUBE")
	if kube == "" {
		var err error
		if kube, err = filepath.Abs("../../../bin/lab-kube"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(kube); err != nil {
		t.Fatalf("the multi-call Kubernetes binary: %v (build it with `make build`, or set LIFEBOAT_LAB_KUBE)", err)
	}
	return kube
}

// testSite is one site under test.
type testSite struct {
	t      *testing.T
	plan   Plan
	net    SiteNet
	spec   spec
	file   string
	init   *exec.Cmd
	ref    site.Ref
	began  time.Time
	kubeAt string
	had    map[string]bool // those of nodeDirs that were there before
}

func newTestSite(t *testing.T, kube string) *testSite {
	t.Helper()
	p := testPlan(t, "east")
	if err := NetUp(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	net, err := p.Site("east")
	if err != nil {
		t.Fatal(err)
	}
	dir := layout.Dir(p.Dir).Site("east")
	ts := &testSite{t: t, plan: p, net: net, kubeAt: kube, had: map[string]bool{}}
	for _, dir := range nodeDirs {
		_, err := os.Stat(dir)
		ts.had[dir] = err == nil
	}
	api := netip.AddrPortFrom(net.Address, layout.APIPort).String()
	ts.spec.Cluster = cluster.Config{
		Site: dir, Context: "east", Kube: kube, Bind: net.Address, Public: api,
		Services: net.Services, Node: net.Address, Endpoints: true,
	}
	serving, clientCA := cluster.KubeletTLS(dir)
	ts.spec.Node = Node{
		Plan: p, Site: "east", Region: "here", Dir: filepath.Join(string(dir), "node"), Kube: kube,
		KubeletKubeconfig: dir.InnerKubeconfig(), ProxyKubeconfig: dir.InnerKubeconfig(), ClientCA: clientCA,
		ServingCert: serving + ".crt", ServingKey: serving + ".key",
		Registry:   netip.AddrPortFrom(net.Address, layout.RegistryPort).String(),
		PauseImage: "pause:1",
	}
	b, err := json.Marshal(ts.spec)
	if err != nil {
		t.Fatal(err)
	}
	ts.file = filepath.Join(p.Dir, "spec.json")
	if err := os.WriteFile(ts.file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return ts
}

// start starts the site, whose log is printed when the test fails.
func (s *testSite) start() {
	s.t.Helper()
	if err := Connect(s.t.Context(), s.plan, "east"); err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd, err := Command(s.plan, "east", self, initArg, s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(s.plan.Dir, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	s.began = time.Now()
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		s.t.Fatal(err)
	}
	s.init = cmd
	if s.ref, err = site.RefOf(cmd.Process.Pid); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.kill() })
}

// kill ends the site as the death of a machine does, and returns how long it took until nothing was left.
func (s *testSite) kill() (dead, clean time.Duration) {
	s.t.Helper()
	if s.init == nil {
		return 0, 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test's own context has ended
	defer cancel()
	if s.t.Failed() {
		s.showLogs()
	}
	began := time.Now()
	if err := errors.Join(Disconnect(ctx, s.plan, "east"), s.init.Process.Kill()); err != nil {
		s.t.Error(err)
	}
	_ = s.init.Wait() // "signal: killed"
	s.init = nil
	dead = time.Since(began)
	if err := Clean(ctx, s.plan, "east"); err != nil {
		s.t.Error(err)
	}
	return dead, time.Since(began)
}

func (s *testSite) showLogs() {
	logs, _ := filepath.Glob(s.spec.Cluster.Site.Logs() + "/*.log")
	for _, f := range append([]string{filepath.Join(s.plan.Dir, "init.log")}, logs...) {
		b, _ := os.ReadFile(f)
		s.t.Logf("end of %s:\n%s", f, b[max(0, len(b)-3000):])
	}
}

// kubectl runs kubectl from the root namespace, over the bridge.
func (s *testSite) kubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.kubeAt, append([]string{"kubectl", "--kubeconfig", s.spec.Cluster.Site.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// await tries until f gives what is wanted, and says how long after the site's start that was.
func (s *testSite) await(what, want string, f func() (string, error)) time.Duration {
	s.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		got, err := f()
		if err == nil && strings.Contains(got, want) {
			took := time.Since(s.began)
			s.t.Logf("%6.1f s  %s", took.Seconds(), what)
			return took
		}
		if time.Now().After(deadline) || !s.ref.Alive() {
			s.t.Fatalf("%s (the site is alive: %v): got %q, %v; want %q", what, s.ref.Alive(), got, err, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *testSite) pushImages() {
	s.t.Helper()
	program := filepath.Join(s.t.TempDir(), "pod")
	build := exec.CommandContext(s.t.Context(), "go", "build", "-o", program, "./testdata/pod")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("build the program of the images: %v: %s", err, out)
	}
	for repo, command := range map[string]string{"pause:1": "pause", "web:1": "serve"} {
		image, err := programImage(program, command)
		if err != nil {
			s.t.Fatal(err)
		}
		s.await("pushed "+repo, "", func() (string, error) {
			ref, err := name.ParseReference(s.spec.Node.Registry+"/"+repo, name.Insecure)
			if err != nil {
				return "", err
			}
			return "", remote.Write(ref, image, remote.WithContext(s.t.Context()))
		})
	}
}

func programImage(program, command string) (v1.Image, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = w.WriteHeader(&tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config := v1.ConfigFile{Architecture: "amd64", OS: "linux"}
	config.Config.Entrypoint = []string{"/pod"}
	config.Config.Cmd = []string{command}
	base, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.RootFS = base.RootFS
	config.History = base.History
	return mutate.ConfigFile(image, &config)
}

func (s *testSite) manifest() string {
	data := filepath.Join(string(s.spec.Cluster.Site), "volumes", "web")
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: web}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: dir
  hostPath: {path: %s, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: default}
spec: {accessModes: [ReadWriteOnce], storageClassName: dir, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: %s/web:1
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        resources: {limits: {memory: 64Mi, cpu: 500m}}
        volumeMounts: [{name: d, mountPath: /data}]
      volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, type: LoadBalancer, clusterIP: 10.96.7.7, ports: [{port: 80, targetPort: 8080}]}
`, data, s.spec.Node.Registry)
}

func TestSiteOfRealPods(t *testing.T) {
	kube := needE2E(t)
	s := newTestSite(t, kube)
	given := filepath.Join(string(s.spec.Cluster.Site), "volumes", "web", "given")
	if err := os.MkdirAll(filepath.Dir(given), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(given, []byte("from the machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, round := range []string{"from nothing", "after the kill"} {
		t.Log(round)
		s.start()
		s.pushImages()
		s.await("API answers", "ok", func() (string, error) { return s.kubectl("", "get", "--raw", "/readyz") })
		s.await("node ready", "True", func() (string, error) {
			return s.kubectl("", "get", "node", "east", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		})
		s.await("node's zone", "here-1", func() (string, error) {
			return s.kubectl("", "get", "node", "east", "-o", `jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}`)
		})
		s.tryPod()
		dead, clean := s.kill()
		t.Logf("site dead %.2f s, nothing left %.2f s after SIGKILL", dead.Seconds(), clean.Seconds())
		if clean > time.Second {
			t.Errorf("the killed site was gone only after %s", clean)
		}
		s.assertGone()
	}
	if err := NetDown(t.Context(), s.plan); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, s.plan)
}

// tryPod has a pod of the site do all that a pod of the shop will.
func (s *testSite) tryPod() {
	t := s.t
	t.Helper()
	s.await("manifest applied", "web", func() (string, error) { return s.kubectl(s.manifest(), "apply", "-f", "-") })
	s.await("pod ready", "True", func() (string, error) {
		return s.kubectl("", "get", "pods", "-l", "app=web", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	})
	s.await("exec", "from the machine", func() (string, error) { return s.kubectl("", "exec", "deploy/web", "--", "/pod", "cat", "/data/given") })
	s.await("logs", "serving", func() (string, error) { return s.kubectl("", "logs", "deploy/web") })
	s.await("ClusterIP from the node", "from the machine", func() (string, error) { return s.get("10.96.7.7:80") })
	s.await("ClusterIP from a pod", "200 OK", func() (string, error) {
		return s.kubectl("", "exec", "deploy/web", "--", "/pod", "get", "http://10.96.7.7/")
	})
	s.await("a pod reaches the API", "401", func() (string, error) {
		// Plain HTTP to a TLS port is answered with a 400; that is an answer of the API server.
		out, err := s.kubectl("", "exec", "deploy/web", "--", "/pod", "get", "http://10.96.0.1:443/")
		return strings.ReplaceAll(out, "400", "401"), err
	})
	lb := s.net.LB.Addr().Next().Next().String()
	s.await("load balancer's address given", "patched", func() (string, error) {
		return s.kubectl("", "patch", "service", "web", "--subresource=status", "--type=merge", "-p",
			fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, lb))
	})
	s.await("load balancer's address from the client", "from the machine", func() (string, error) {
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + lb + "/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	})
	written, err := os.ReadFile(filepath.Join(string(s.spec.Cluster.Site), "volumes", "web", "written"))
	if err != nil || string(written) != "by the pod\n" {
		t.Errorf("the pod's volume is not the machine's directory: %q, %v", written, err)
	}
}

// get asks the Service from the site's own network.
func (s *testSite) get(address string) (string, error) {
	c, err := dial(s.t, s.plan, "east", address, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// nodeDirs are where a node's programs put things on a machine that is theirs alone.
var nodeDirs = []string{"/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/var/log/pods", "/var/log/containers", "/opt/containerd", "/etc/cni/net.d", "/run/containerd", "/usr/libexec/kubernetes"}

// assertGone looks for what a killed site could have left.
func (s *testSite) assertGone() {
	t := s.t
	t.Helper()
	for _, dir := range nodeDirs {
		if _, err := os.Stat(dir); err == nil && !s.had[dir] {
			t.Errorf("left of the killed site: %s, which the machine had not before", dir)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range processes {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(s.plan.Dir)) {
			t.Errorf("left of the killed site, a process: %q", b)
		}
	}
	for _, probe := range []struct{ what, script string }{
		{"mounts", "grep " + s.plan.Dir + " /proc/self/mounts || true"},
		{"groups", "find " + cgroupRoot + " -name '*" + s.plan.ID() + "*'"},
		{"interfaces of pods", "nsenter --net=" + namespacePath(s.net.Namespace) + " ip -o link | grep -v -e ' lo:' -e ' eth0@' || true"},
		{"tables of kube-proxy", "nsenter --net=" + namespacePath(s.net.Namespace) + " nft list tables | grep kube || true"},
	} {
		out, err := exec.Command("sh", "-c", probe.script).CombinedOutput()
		if err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("left of the killed site, %s: %s %v", probe.what, out, err)
		}
	}
}
