package procnode

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// newTestCluster is a cluster that holds the given objects.
func newTestCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	c := newCluster(fake.NewClientset(objects...))
	core := c.factory.Core().V1()
	core.Services().Informer() // asking for an informer makes it one of those that start
	core.ConfigMaps().Informer()
	core.Secrets().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); c.factory.Shutdown() })
	if err := c.start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExpand(t *testing.T) {
	t.Parallel()
	env := newEnvironment()
	env.set("A", "1")
	env.set("EMPTY", "")
	for in, want := range map[string]string{
		"": "", "$": "$", "a$": "a$", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$$(A)": "$(A)", "$$$(A)": "$1", "$(B)": "$(B)",
		"$(EMPTY)": "", "$A": "$A", "$(A": "$(A", "$()": "$()", "$(A)$": "1$",
	} {
		if got := env.expand(in); got != want {
			t.Errorf("expand(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	r := newRewriter([]rewrite{{"/data", "/v/d"}, {"/data/sub", "/v/s"}, {"/etc/app", "/v/data"}})
	for in, want := range map[string]string{
		"/data": "/v/d", "/data/": "/v/d/", "/data/x": "/v/d/x", "/data/sub/x": "/v/s/x", "/data/subx": "/v/d/subx", "/database": "/database",
		"/data.txt": "/data.txt", "/x/data": "/x/data", "--dir=/data": "--dir=/v/d", "a:/data:/etc/app": "a:/v/d:/v/data", "http://h/data": "http://h/data",
		"//data": "//data", "cat '/data/a' > /data/b": "cat '/v/d/a' > /v/d/b", "data": "data", "": "",
	} {
		if got := r.apply(in); got != want {
			t.Errorf("apply(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestContainerEnv(t *testing.T) {
	t.Parallel()
	yes := true
	c := newTestCluster(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "m"}, Data: map[string]string{"k": "from-map", "not a name": "x"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Data: map[string][]byte{"k": []byte("from-secret")}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.9", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "far"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.8", Ports: []corev1.ServicePort{{Port: 1}}}},
	)
	f := podFacts{podIP: "127.1.1.1", hostIP: "127.0.0.9", apiServer: "127.9.9.9:6443", allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u", Labels: map[string]string{"app": "x", "a/b": "y"}}}}
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	ctr := &corev1.Container{
		Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}},
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("m")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("gone"), Optional: &yes}}},
		Env: []corev1.EnvVar{
			{Name: "FIRST", Value: "$(P_k)!"}, {Name: "IMAGE", Value: "pod wins"},
			{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "k"}}},
			{Name: "ABSENT", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "none", Optional: &yes}}},
			{Name: "LABEL", ValueFrom: field("metadata.labels['a/b']")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "HOST", ValueFrom: field("status.hostIP")},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MILLI", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: envPod, Value: "hidden"},
		},
	}
	env, err := c.containerEnv(f, ctr, Program{Env: []string{"IMAGE=image", "LISTEN=$(POD_IP):1"}}, "/dir")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"FIRST": "from-map!", "IMAGE": "pod wins", "LISTEN": "127.1.1.1:1", "SECRET": "from-secret", "LABEL": "y", "IP": "127.1.1.1", "HOST": "127.0.0.9",
		"CPU": "2", "MILLI": "1500", "MEM": "1024", envPod: "u", envNode: "/dir", "MY_DB_SERVICE_HOST": "10.0.0.9", "MY_DB_SERVICE_PORT_SQL": "5432",
		"MY_DB_PORT_5432_TCP": "tcp://10.0.0.9:5432", "KUBERNETES_SERVICE_HOST": "127.9.9.9", "KUBERNETES_SERVICE_PORT": "6443",
	} {
		if got, _ := env.lookup(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"ABSENT", "P_not a name", "FAR_SERVICE_HOST"} {
		if got, ok := env.lookup(name); ok {
			t.Errorf("%s is set, to %q", name, got)
		}
	}
	ctr.EnvFrom[1].SecretRef.Optional = nil
	if _, err = c.containerEnv(f, ctr, Program{}, "/dir"); err == nil || !strings.HasPrefix(err.Error(), reasonConfig) || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a missing secret gives %v", err)
	}
}

func TestVolumePayload(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "m"}, Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0, 1}}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
	now := time.Unix(1000, 0)
	asked := 0
	tokens := &tokenSource{held: map[string]heldToken{}, now: func() time.Time { return now }, request: func(_ context.Context, _, _ string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
		asked++
		r.Status = authv1.TokenRequestStatus{Token: fmt.Sprintf("t%d", asked), ExpirationTimestamp: metav1.NewTime(now.Add(1000 * time.Second))}
		return r, nil
	}}
	mode := int32(0o400)
	ref := corev1.LocalObjectReference{Name: "m"}
	v := &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "a", Path: "deep/a", Mode: &mode}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}}}
	f := podFacts{pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", Labels: map[string]string{"b": "2", "a": "1"}}}}
	p, err := c.volumePayload(t.Context(), f, v, tokens)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "v")
	if changed, err := writeAtomicDir(dir, p.files, -1); err != nil || !changed {
		t.Fatalf("changed %v: %v", changed, err)
	}
	for name, want := range map[string]string{"deep/a": "1", "k": "v", "labels": "a=\"1\"\nb=\"2\"", "token": "t1"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, want %q: %v", name, got, want, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "deep/a")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("deep/a has mode %v: %v", info.Mode(), err)
	}
	if !p.renew.Equal(now.Add(800 * time.Second)) {
		t.Errorf("the token is to be renewed at %v", p.renew)
	}
	if p, err = c.volumePayload(t.Context(), f, v, tokens); err != nil || asked != 1 {
		t.Errorf("%d tokens asked for: %v", asked, err)
	}
	if changed, err := writeAtomicDir(dir, p.files, -1); err != nil || changed {
		t.Errorf("the same content written again: %v", err)
	}
	now = now.Add(801 * time.Second)
	v.Projected.Sources = v.Projected.Sources[1:]
	if p, err = c.volumePayload(t.Context(), f, v, tokens); err != nil {
		t.Fatal(err)
	}
	if changed, err := writeAtomicDir(dir, p.files, -1); err != nil || !changed {
		t.Errorf("new content was not written: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "token")); err != nil || string(got) != "t2" {
		t.Errorf("the renewed token is %q: %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..2") && len(e.Name()) < 8 {
			names = append(names, e.Name())
		}
	}
	if want := []string{"..data", "k", "labels", "token"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the volume shows %v, want %v: %v", names, want, err)
	}
	if _, err := writeAtomicDir(dir, map[string]payloadFile{"../x": {}}, -1); err == nil {
		t.Error("a file was written outside the volume")
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	tl := newTally(&corev1.Probe{SuccessThreshold: 2, FailureThreshold: 3})
	answers := []bool{true, true, false, false, true, false, false, false, true, true}
	want := []verdict{undecided, passed, undecided, undecided, undecided, undecided, undecided, failed, undecided, passed}
	for i, ok := range answers {
		if got := tl.add(ok); got != want[i] {
			t.Errorf("after answer %d the verdict is %d, want %d", i, got, want[i])
		}
	}
}

func TestPhase(t *testing.T) {
	t.Parallel()
	waits := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
	runs := corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	ended := func(code int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
	}
	again := waits
	again.LastTerminationState = ended(1).State
	for _, c := range []struct {
		name   string
		policy corev1.RestartPolicy
		init   *corev1.ContainerStatus
		main   []corev1.ContainerStatus
		want   corev1.PodPhase
		ready  bool
	}{
		{"new", corev1.RestartPolicyAlways, nil, []corev1.ContainerStatus{waits, runs}, corev1.PodPending, false},
		{"up", corev1.RestartPolicyAlways, nil, []corev1.ContainerStatus{runs, runs}, corev1.PodRunning, true},
		{"crashing", corev1.RestartPolicyAlways, nil, []corev1.ContainerStatus{again}, corev1.PodRunning, false},
		{"ended but always", corev1.RestartPolicyAlways, nil, []corev1.ContainerStatus{ended(0)}, corev1.PodRunning, false},
		{"done", corev1.RestartPolicyOnFailure, nil, []corev1.ContainerStatus{ended(0), ended(0)}, corev1.PodSucceeded, false},
		{"one still runs", corev1.RestartPolicyNever, nil, []corev1.ContainerStatus{ended(1), runs}, corev1.PodRunning, false},
		{"failed", corev1.RestartPolicyNever, nil, []corev1.ContainerStatus{ended(0), ended(2)}, corev1.PodFailed, false},
		{"fails, to be tried again", corev1.RestartPolicyOnFailure, nil, []corev1.ContainerStatus{ended(2)}, corev1.PodRunning, false},
		{"init failed for good", corev1.RestartPolicyNever, ptr(ended(1)), []corev1.ContainerStatus{waits}, corev1.PodFailed, false},
		{"init failed", corev1.RestartPolicyAlways, ptr(ended(1)), []corev1.ContainerStatus{waits}, corev1.PodPending, false},
	} {
		v := podView{pod: &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.policy}}}
		if c.init != nil {
			v.containers = append(v.containers, containerView{roleInit, *c.init})
		}
		for _, s := range c.main {
			v.containers = append(v.containers, containerView{roleMain, s})
		}
		first := time.Unix(100, 0)
		s := podStatus(v, corev1.PodStatus{}, first)
		if s.Phase != c.want || readiness(&s) != c.ready {
			t.Errorf("%s: phase %s, ready %v; want %s, %v", c.name, s.Phase, readiness(&s), c.want, c.ready)
		}
		for _, cond := range podStatus(v, s, first.Add(time.Hour)).Conditions {
			if !cond.LastTransitionTime.Time.Equal(first) {
				t.Errorf("%s: condition %s changed its time without changing", c.name, cond.Type)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestHostsText(t *testing.T) {
	t.Parallel()
	svc := func(ns, name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Selector: map[string]string{"a": "b"}}}
	}
	up := corev1.PodStatus{PodIP: "127.1.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	pods := []*corev1.Pod{
		{Spec: corev1.PodSpec{Hostname: "db-0", Subdomain: "db"}, Status: up},
		{Spec: corev1.PodSpec{Hostname: "db-1", Subdomain: "db"}, Status: corev1.PodStatus{PodIP: "127.1.0.2"}},
	}
	got, err := hostsText("n", []*corev1.Service{svc("n", "web", "10.0.0.1"), svc("far", "web", "10.0.0.2"), svc("n", "db", "None"), svc("n", "outside", "")},
		func(*corev1.Service) ([]*corev1.Pod, error) { return pods, nil })
	want := "127.0.0.1\tlocalhost\n::1\tlocalhost\n" +
		"10.0.0.1\tweb.n.svc.cluster.local web.n.svc web.n web\n10.0.0.2\tweb.far.svc.cluster.local web.far.svc web.far\n" +
		"127.1.0.1\tdb-0.db.n.svc.cluster.local db-0.db.n.svc db-0.db.n db-0.db\n127.1.0.1\tdb.n.svc.cluster.local db.n.svc db.n db\n"
	if err != nil || got != want {
		t.Errorf("got\n%s\nwant\n%s\n%v", got, want, err)
	}
}

func TestLogRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c", "0.log")
	l, err := createLog(path)
	if err != nil {
		t.Fatal(err)
	}
	l.max = 30_000 // passed within the long line, once
	var all strings.Builder
	long := strings.Repeat("x", 3*logMaxLine+5)
	for i := range 30 {
		text := fmt.Sprintf("line %d\n", i)
		if i == 20 {
			text = long + "\n"
		}
		all.WriteString(text)
		if err := l.copyFrom("stdout", strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q    logQuery
		want string
	}{
		{logQuery{tail: 3, limit: -1}, "line 27\nline 28\nline 29\n"},
		{logQuery{tail: 0, limit: -1}, ""},
		{logQuery{tail: 2, limit: 9}, "line 28\nl"},
		{logQuery{tail: 1, limit: -1, since: time.Now().Add(time.Hour)}, ""},
	} {
		var out bytes.Buffer
		if err := readLog(t.Context(), &out, path, nil, c.q); err != nil || out.String() != c.want {
			t.Errorf("%+v gives %q, want %q: %v", c.q, out.String(), c.want, err)
		}
	}
	var out bytes.Buffer
	if err := readLog(t.Context(), &out, path, nil, logQuery{tail: -1, limit: -1}); err != nil || out.String() != all.String() {
		t.Errorf("%d bytes after rotation are not the %d that were written: %v", out.Len(), all.Len(), err)
	}
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Errorf("the log was not rotated: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	a := newAddresses(netip.MustParsePrefix("127.1.2.0/29"))
	seen := map[netip.Addr]bool{}
	for range 7 { // .0 is left out
		addr, err := a.take("")
		if err != nil || seen[addr] {
			t.Fatalf("%s: %v", addr, err)
		}
		seen[addr] = true
	}
	if addr, err := a.take(""); err == nil {
		t.Errorf("an eighth address: %s", addr)
	}
	a.free(netip.MustParseAddr("127.1.2.3"))
	if addr, err := a.take("127.1.2.3"); err != nil || addr.String() != "127.1.2.3" {
		t.Errorf("asked for 127.1.2.3, got %s: %v", addr, err)
	}
}

func TestProgramKey(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{"shop": "shop", "shop:v1": "shop", "127.66.10.3:5000/shop": "shop", "r:5000/a/b/shop:v1@sha256:abc": "shop", "a/shop@sha256:abc": "shop"} {
		if got := programKey(image); got != want {
			t.Errorf("%s is %q, want %q", image, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if got := backoff(i); got != want*time.Second {
			t.Errorf("restart %d waits %s", i, got)
		}
	}
	if got := backoff(1000); got != backoffMost {
		t.Errorf("restart 1000 waits %s", got)
	}
}
