package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/drivertest"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault/archive"
	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/mover"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

const (
	namespace     = "shop"
	key           = "bGlmZWJvYXQncyB0ZXN0cyBuZWVkIGEga2V5IG9mIDMyIGJ5dGVz"
	nobody        = 65534                 // PostgreSQL refuses root
	childVariable = "LIFEBOAT_TEST_MOVER" // makes the test binary a mover
	roomVariable  = "LIFEBOAT_TEST_ROOM"  // and lets no file of it grow beyond so many bytes
	patience      = time.Minute
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	if room := os.Getenv(roomVariable); room != "" {
		var limit syscall.Rlimit
		_, err := fmt.Sscan(room, &limit.Cur)
		limit.Max = limit.Cur
		signal.Ignore(syscall.SIGXFSZ) // a write then fails, as it does on a disk that is full
		if err = errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)); err != nil {
			panic(err)
		}
	}
	if err := mover.Work(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// parts is a store of logs in memory.
type parts struct {
	mu  sync.Mutex
	all map[string][]byte
}

func (p *parts) Put(_ context.Context, name string, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.all[name]; !there {
		p.all[name] = slices.Clone(data)
	}
	return nil
}

func (p *parts) Get(_ context.Context, name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, there := p.all[name]
	if !there {
		return nil, dr.ErrNotFound
	}
	return data, nil
}

func (p *parts) List(_ context.Context, prefix string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.all)), func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}

// cluster is an API without nodes. A pod's server is a process that is started when somebody connects to
// it, and a claim is a directory.
type cluster struct {
	t     *testing.T
	api   *fake.Clientset
	store blob.Store
	repo  *repo.Repo
	logs  archive.Logs
	base  string
	bin   string
	count atomic.Int32

	mu      sync.Mutex
	servers map[string]*process // by name
	marks   map[string]*marks   // by claim
}

// marks are what the annotations of a claim say.
type marks struct {
	restoring string
	restored  string
	out       dr.DataOutput
}

// process is the server of a pod.
type process struct {
	mu   sync.Mutex
	port int
	cmd  *exec.Cmd
	conn *pgx.Conn // the application's
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("PostgreSQL is missing: run scripts/setup.sh")
		}
		t.Skip("PostgreSQL is missing: run scripts/setup.sh")
	}
	base, err := os.MkdirTemp("", "lifeboat-pg-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, api: fake.NewClientset(), base: base, bin: filepath.Dir(found[len(found)-1]), servers: map[string]*process{}, marks: map[string]*marks{},
		logs: archive.Logs{Store: &parts{all: map[string][]byte{}}}}
	t.Cleanup(func() {
		c.stop()
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	if c.store, err = blob.Create(t.Context(), "file://"+filepath.Join(base, "vault"), blob.Options{}); err == nil {
		c.repo, err = repo.Init(t.Context(), c.store, []byte(key))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.postgres("initdb", "-D", filepath.Join(base, "template"), "-U", "admin", "--auth=trust", "-E", "UTF8", "--locale=C", "-N")
	return c
}

func (c *cluster) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return attr
}

// postgres runs a program of PostgreSQL's; the directory it is given as -D is made first.
func (c *cluster) postgres(name string, args ...string) {
	c.t.Helper()
	dir := args[1]
	err := os.MkdirAll(dir, 0o700)
	if os.Getuid() == 0 {
		err = errors.Join(err, os.Chown(dir, nobody, nobody))
	}
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.SysProcAttr, cmd.Dir = c.attributes(), "/"
	if out, runErr := cmd.CombinedOutput(); errors.Join(err, runErr) != nil {
		c.t.Fatalf("%s: %v\n%s", name, errors.Join(err, runErr), out)
	}
}

func (c *cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		if s.cmd != nil {
			_ = s.cmd.Process.Signal(syscall.SIGQUIT)
			_ = s.cmd.Wait()
		}
	}
}

func (c *cluster) server(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[name]
}

// start does what a pod's container does: it makes a database in an empty directory, and starts on what is
// there otherwise.
func (c *cluster) start(ctx context.Context, name string) (*process, error) {
	s := c.server(name)
	if s == nil {
		return nil, syscall.ECONNREFUSED
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return s, nil
	}
	claim := filepath.Join(c.base, name)
	data := filepath.Join(claim, "pgdata")
	if entries, _ := os.ReadDir(claim); len(entries) == 0 {
		if out, err := exec.Command("cp", "-a", filepath.Join(c.base, "template"), data).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("copy the template: %s", out)
		}
	}
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		return nil, syscall.ECONNREFUSED // no server starts on this
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	log, err := os.Create(filepath.Join(c.base, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "postgres"), "-D", data, "-p", fmt.Sprint(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "shared_buffers=4MB", "-c", "fsync=off", "-c", "max_wal_size=64MB")
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout, cmd.Stderr = c.attributes(), "/", log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.cmd = cmd
	return s, c.ready(ctx, s, log.Name())
}

func (c *cluster) ready(ctx context.Context, s *process, log string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=admin dbname=postgres sslmode=disable", s.port))
		recovering := false
		if err == nil {
			if err = conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering); err == nil && !recovering {
				_, err = conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS kv (key text PRIMARY KEY, value bytea NOT NULL)")
				s.conn = conn
				return err
			}
			_ = conn.Close(ctx)
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(log)
			return fmt.Errorf("the server does not come up: %v\n%s", err, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) dial(ctx context.Context, ns, pod string, port int) (net.Conn, error) {
	if ns != namespace || port != 5432 {
		return nil, fmt.Errorf("pod %s/%s has no port %d", ns, pod, port)
	}
	s, err := c.start(ctx, strings.TrimSuffix(pod, "-0"))
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
}

func (c *cluster) driver(v *claims) *Driver {
	d := New(&kube.Client{Site: "east", Typed: c.api}, archive.Trees{Repo: c.repo}, c.logs, v)
	d.dial = c.dial
	return d
}

func (c *cluster) Driver(*testing.T) driver.Datastore {
	return c.driver(&claims{cluster: c, store: c.store})
}

func (c *cluster) Broken(*testing.T) driver.Datastore {
	return c.driver(&claims{cluster: c, store: &failing{Store: c.store}})
}

func (c *cluster) New(t *testing.T) dr.Datastore {
	t.Helper()
	name := fmt.Sprintf("db-%d", c.count.Add(1))
	labels := map[string]string{"app": name}
	mount := filepath.Join(c.base, name)
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-0", Labels: labels},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}},
			Containers: []corev1.Container{{Name: "postgres", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: mount}},
				Ports: []corev1.ContainerPort{{Name: "sql", ContainerPort: 5432}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	service := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 15432}}}}
	service.Spec.Ports[0].TargetPort.Type, service.Spec.Ports[0].TargetPort.StrVal = 1, "sql"
	secret := &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"username": []byte("admin"), "password": []byte("none is asked for")}}
	tracker := c.api.Tracker()
	if err := errors.Join(tracker.Add(pod), tracker.Add(service), tracker.Add(secret), os.Mkdir(mount, 0o755)); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[name], c.marks[name] = &process{}, &marks{}
	return dr.Datastore{Name: name, Postgres: &dr.PostgresRef{Namespace: namespace, Service: name, Secret: name, Claim: name, Directory: "pgdata"}}
}

func (c *cluster) Missing(*testing.T) dr.Datastore {
	return dr.Datastore{Name: "orders", Postgres: &dr.PostgresRef{Namespace: namespace, Service: "none", Secret: "none"}}
}

func (c *cluster) Write(t *testing.T, ds dr.Datastore, key string, value []byte) {
	s, err := c.start(context.Background(), ds.Name)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, err = s.conn.Exec(context.Background(), "INSERT INTO kv VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	}
	if err != nil {
		t.Error(err)
	}
}

func (c *cluster) Read(t *testing.T, ds dr.Datastore) map[string][]byte {
	t.Helper()
	s, err := c.start(t.Context(), ds.Name)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.conn.Query(t.Context(), "SELECT key, value FROM kv")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	var k string
	var v []byte
	if _, err := pgx.ForEachRow(rows, []any{&k, &v}, func() error { found[k] = slices.Clone(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return found
}

// claims brings files back into the directories of claims, through a mover that is a process of its own.
type claims struct {
	*cluster
	store blob.Store
	room  string // the mover's files may not grow beyond so many bytes
}

func (v *claims) of(ds dr.Datastore) (*marks, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.marks[ds.Volume.Claim]
	if m == nil {
		return nil, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "", "there is no claim %s", ds.Volume.Claim)
	}
	return m, nil
}

func (v *claims) Inspect(_ context.Context, ds dr.Datastore) (driver.DataState, error) {
	m, err := v.of(ds)
	if err != nil {
		return driver.DataState{}, err
	}
	return driver.DataState{Description: "claim " + ds.Volume.Claim, Restoring: m.restoring}, nil
}

func (v *claims) Protect(context.Context, driver.ProtectRequest) (dr.DataPoint, error) {
	return dr.DataPoint{}, errors.New("a database's files are not copied while its server runs")
}

func (v *claims) Restored(_ context.Context, req driver.RestoreRequest) (*dr.DataOutput, error) {
	m, err := v.of(req.Datastore)
	if err != nil || m.restoring != "" || m.restored != req.Point {
		return nil, err
	}
	return &m.out, nil
}

func (v *claims) Restore(ctx context.Context, req driver.RestoreRequest) (dr.DataOutput, error) {
	m, err := v.of(req.Datastore)
	if err != nil {
		return dr.DataOutput{}, err
	}
	before := *m
	m.restoring, m.restored = req.Point, ""
	report, err := v.move(ctx, req)
	if err != nil {
		if errors.Is(err, driver.ErrUntouched) {
			*m = before
		}
		return dr.DataOutput{}, err
	}
	m.restoring, m.restored = "", req.Point
	m.out = dr.DataOutput{Bytes: report.Bytes, Files: report.Files, Beacon: report.Beacon, Warnings: report.Warnings}
	return m.out, nil
}

func (v *claims) move(ctx context.Context, req driver.RestoreRequest) (driver.MoverReport, error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", roomVariable+"="+v.room, mover.MountVariable+"="+filepath.Join(v.base, req.Datastore.Volume.Claim))
	in, err := cmd.StdinPipe()
	if err != nil {
		return driver.MoverReport{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return driver.MoverReport{}, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return driver.MoverReport{}, err
	}
	runner := &mover.Runner{Store: v.store, Password: func(context.Context) ([]byte, error) { return []byte(key), nil }}
	report, err := runner.Run(ctx, both{out, in}, driver.MoverOrder{Verb: driver.MoverRestore, Host: "east", Snapshot: req.Data.Snapshot, Point: req.Point, Last: req.Last}, func(driver.Progress) {})
	_ = in.Close()
	_ = cmd.Wait()
	return report, err
}

// both is a mover's two streams as one.
type both struct {
	io.Reader
	io.WriteCloser
}

// failing is a store that stops giving out data in the middle.
type failing struct {
	blob.Store
	reads atomic.Int32
}

func (s *failing) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if strings.HasPrefix(name, "data/") && s.reads.Add(1) > 4 {
		return blob.Object{}, io.ErrUnexpectedEOF
	}
	return s.Store.Get(ctx, name, r)
}

func TestContract(t *testing.T) {
	t.Parallel()
	drivertest.Datastore(t, newCluster(t))
}

// TestFullDisk: what a restore leaves that ran out of room is nothing that a server starts on, and the
// next try goes on from it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	source, target := c.New(t), c.New(t)
	c.Write(t, source, "a", []byte("1"))
	p, err := c.Driver(t).Protect(t.Context(), driver.ProtectRequest{Application: "shop", Point: "p1", Datastore: source, Beacon: dr.Beacon{Application: "shop", Datastore: source.Name, Site: "east", Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	req := driver.RestoreRequest{Application: "shop", Point: "p1", Datastore: target, Data: p}
	full := c.driver(&claims{cluster: c, store: c.store, room: fmt.Sprint(1 << 20)})
	if _, err := full.Restore(t.Context(), req); err == nil || !strings.Contains(err.Error(), "file too large") {
		t.Fatalf("the restore on a full disk: got error %v", err)
	}
	data := filepath.Join(c.base, target.Name, "pgdata")
	if entries, err := os.ReadDir(data); err != nil || len(entries) == 0 {
		t.Errorf("the restore left %v, %v: nothing to try", entries, err)
	}
	c.wantNoServer(t, data)
	d := c.Driver(t)
	if _, err := d.Protect(t.Context(), driver.ProtectRequest{Application: "shop", Point: "p2", Datastore: target}); dr.ClassOf(err) != dr.ClassBlocked {
		t.Errorf("protect of half a restore: got error %v", err)
	}
	if _, err := d.Restore(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := c.Read(t, target); string(got["a"]) != "1" {
		t.Errorf("got %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if b, err := c.driver(&claims{cluster: c}).Recovered(ctx, target); err != nil || b != p.Beacon {
		t.Errorf("the recovered database holds beacon %+v (%v), want %+v", b, err, p.Beacon)
	}
}

// wantNoServer tries to start a server on what a restore has left, with a configuration and an owner that it
// would accept.
func (c *cluster) wantNoServer(t *testing.T, data string) {
	t.Helper()
	conf := filepath.Join(data, "postgresql.conf")
	if _, err := os.Stat(conf); err != nil {
		if err := os.WriteFile(conf, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		if err := filepath.WalkDir(filepath.Dir(data), func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody, nobody))
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "postgres"), "-D", data, "-c", "unix_socket_directories=", "-c", "listen_addresses=")
	cmd.SysProcAttr, cmd.Dir = c.attributes(), "/"
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "is not a valid data directory") {
		t.Errorf("a server was started on half a restore: %v\n%s", err, out)
	}
}
