package procnode

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// TestNode runs workloads on agents of every kind of isolation under a real control plane.
func TestNode(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		// A client's idle connections close on their own.
		goleak.VerifyNone(t, leaks, goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"), goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"))
	})
	home := mountsOf(t)
	s := startSite(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]Program{
		"web": {Entrypoint: []string{self, "web"}},
		"sh":  {Entrypoint: []string{"/bin/sh"}, Env: []string{"FROM_IMAGE=$(POD_IP)"}},
	}
	stops := map[string]func(){}
	kinds := []Isolation{Shared, UserNamespace}
	if os.Geteuid() == 0 {
		kinds = append(kinds, Namespace)
	}
	best := kinds[len(kinds)-1]
	for i, iso := range kinds {
		stops[fmt.Sprint(i)] = s.node(t, fmt.Sprintf("node-%d", i), i, iso, programs)
	}
	eventually(t, 30*time.Second, "default service account", func(ctx context.Context) error {
		_, err := s.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	w := &world{site: s, on: int(best)}
	t.Run("workloads", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *world){
			"Deployment": testDeployment, "StatefulSet": testStatefulSet, "Job": testJob, "CronJob": testCronJob,
			"Liveness": testLiveness, "Readiness": testReadiness, "Logs": testLogs, "ExecBulk": testExecBulk, "ExecStatus": testExecStatus,
			"Termination": testTermination, "ConfigMapUpdate": testConfigMapUpdate, "Waiting": testWaiting, "Init": testInit, "PortForward": testPortForward,
		} {
			t.Run(name, func(t *testing.T) { t.Parallel(); f(t, w) })
		}
		for _, iso := range kinds {
			t.Run(fmt.Sprintf("View%d", iso), func(t *testing.T) {
				t.Parallel()
				testView(t, &world{site: s, on: int(iso)}, iso)
			})
		}
	})
	if here := mountsOf(t); here != home {
		t.Errorf("the agent itself moved to mount namespace %s from %s", here, home)
	}
	t.Run("AgentRestart", func(t *testing.T) { testAgentRestart(t, w, stops[fmt.Sprint(int(best))], best, programs) })
}

func mountsOf(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// world is where a test's pods go.
type world struct {
	*site
	on int // the isolation of its node
}

func (w *world) selector() map[string]string {
	return map[string]string{"isolation": fmt.Sprint(w.on)}
}

// namespace makes one for a test.
func (w *world) namespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	if _, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "service account of "+name, func(ctx context.Context) error {
		_, err := w.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return name
}

// script is a pod spec that runs a shell script.
func (w *world) script(text string) corev1.PodSpec {
	grace := int64(5)
	return corev1.PodSpec{
		NodeSelector: w.selector(), TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyAlways,
		Containers: []corev1.Container{{Name: "main", Image: "registry.test:5000/lab/sh:v1", Command: []string{"sh", "-c", text}}},
	}
}

func (w *world) pod(t *testing.T, ns, name string, spec corev1.PodSpec) *corev1.Pod {
	t.Helper()
	p, err := w.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, Labels: map[string]string{"app": name}}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits for a pod to be as ok says.
func (w *world) until(t *testing.T, ns, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	eventually(t, 40*time.Second, fmt.Sprintf("pod %s/%s %s", ns, name, what), func(ctx context.Context) (err error) {
		if p, err = w.client.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !ok(p) {
			return fmt.Errorf("phase %s, conditions %+v, containers %+v, init %+v", p.Status.Phase, p.Status.Conditions, p.Status.ContainerStatuses, p.Status.InitContainerStatuses)
		}
		return nil
	})
	return p
}

func ready(p *corev1.Pod) bool { return conditionTrue(p.Status.Conditions, corev1.PodReady) }

func (w *world) logs(t *testing.T, ns, name string, o corev1.PodLogOptions) string {
	t.Helper()
	raw, err := w.client.CoreV1().Pods(ns).GetLogs(name, &o).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// exec runs a command through the API server.
func (w *world) exec(t *testing.T, ns, name string, spdy bool, in io.Reader, out io.Writer, argv ...string) error {
	t.Helper()
	req := w.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: argv, Stdin: in != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	var e remotecommand.Executor
	var err error
	if spdy {
		e, err = remotecommand.NewSPDYExecutor(w.config, "POST", req.URL())
	} else {
		e, err = remotecommand.NewWebSocketExecutor(w.config, "GET", req.URL().String())
	}
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &stderr}); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	return nil
}

func (w *world) output(t *testing.T, ns, name string, argv ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := w.exec(t, ns, name, false, nil, &out, argv...)
	return out.String(), err
}

func testExecBulk(t *testing.T, w *world) {
	ns := w.namespace(t)
	w.pod(t, ns, "p", w.script("sleep 1000"))
	w.until(t, ns, "p", "ready", ready)
	data := make([]byte, 50<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	for _, spdy := range []bool{true, false} {
		began := time.Now()
		sum := sha256.New()
		if err := w.exec(t, ns, "p", spdy, bytes.NewReader(data), sum, "cat"); err != nil {
			t.Fatalf("spdy %v: %v", spdy, err)
		}
		if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Errorf("spdy %v: what came back is not what was sent", spdy)
		}
		t.Logf("spdy %v: 50 MiB there and back in %s", spdy, time.Since(began))
	}
}

func testExecStatus(t *testing.T, w *world) {
	ns := w.namespace(t)
	w.pod(t, ns, "p", w.script("sleep 1000"))
	w.until(t, ns, "p", "ready", ready)
	for _, spdy := range []bool{true, false} {
		var status utilexec.CodeExitError
		if err := w.exec(t, ns, "p", spdy, nil, io.Discard, "sh", "-c", "echo no >&2; exit 7"); !errors.As(err, &status) || status.Code != 7 || !strings.Contains(err.Error(), "no") {
			t.Errorf("spdy %v: exit 7 came back as %v", spdy, err)
		}
		if err := w.exec(t, ns, "p", spdy, nil, io.Discard, "no-such-program"); err == nil {
			t.Errorf("spdy %v: a missing program ran", spdy)
		}
		// A command that does not read its input must end all the same.
		if err := w.exec(t, ns, "p", spdy, bytes.NewReader(make([]byte, 8<<20)), io.Discard, "true"); err != nil {
			t.Errorf("spdy %v: a command that reads nothing: %v", spdy, err)
		}
	}
	req := w.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"sh", "-c", "test -t 0 && echo a terminal; read x; echo got $x"}, Stdin: true, Stdout: true, TTY: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(w.config, "GET", req.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("word\n"), Stdout: &out, Tty: true}); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "a terminal") || !strings.Contains(s, "got word") {
		t.Errorf("a terminal said %q", s)
	}
}

func testLogs(t *testing.T, w *world) {
	ns := w.namespace(t)
	spec := w.script(`for i in 1 2 3; do echo line $i; done; while [ ! -e "$GO" ]; do sleep 0.05; done; echo last >&2; printf part; exit 4`)
	spec.RestartPolicy = corev1.RestartPolicyNever
	mark := filepath.Join(w.dir, "logs-go")
	spec.Containers[0].Env = []corev1.EnvVar{{Name: "GO", Value: mark}}
	w.pod(t, ns, "p", spec)
	w.until(t, ns, "p", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	eventually(t, 10*time.Second, "the first lines", func(context.Context) error {
		if got := w.logs(t, ns, "p", corev1.PodLogOptions{}); got != "line 1\nline 2\nline 3\n" {
			return fmt.Errorf("log is %q", got)
		}
		return nil
	})
	two := int64(2)
	if got := w.logs(t, ns, "p", corev1.PodLogOptions{TailLines: &two}); got != "line 2\nline 3\n" {
		t.Errorf("tail of 2 is %q", got)
	}
	stream, err := w.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	r := bufio.NewReader(stream)
	for i := range 3 {
		line, err := r.ReadString('\n')
		stamp, text, _ := strings.Cut(line, " ")
		if _, perr := time.Parse(time.RFC3339Nano, stamp); err != nil || perr != nil || text != fmt.Sprintf("line %d\n", i+1) {
			t.Fatalf("followed line %d is %q: %v %v", i+1, line, err, perr)
		}
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The two streams are read apart: "part" on one may come before "last" on the other.
	rest, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(rest), " last\n") && !strings.Contains(string(rest), "partlast\n") || !strings.Contains(string(rest), "part") {
		t.Errorf("the rest of the followed log is %q: %v", rest, err)
	}
	p := w.until(t, ns, "p", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 4 || s.Reason != reasonError {
		t.Errorf("state is %+v", p.Status.ContainerStatuses[0].State)
	}
}

func testPortForward(t *testing.T, w *world) {
	ns := w.namespace(t)
	spec := w.script("")
	spec.Containers[0] = webContainer("one")
	w.pod(t, ns, "p", spec)
	p := w.until(t, ns, "p", "ready", ready)
	raw, err := forwardOnce(t, w, ns, "p", 8080)
	if err != nil || !strings.HasSuffix(raw, "one") {
		t.Errorf("through port-forward to %s: %q, %v", p.Status.PodIP, raw, err)
	}
}

func webContainer(version string) corev1.Container {
	return corev1.Container{
		Name: "main", Image: "web:v1", Env: []corev1.EnvVar{{Name: "VERSION", Value: version}},
		Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http")}}},
		Resources:      corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}},
	}
}
