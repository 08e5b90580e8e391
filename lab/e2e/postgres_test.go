package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

const dbPassword = "only for this test"

// dbScript does what the usual image does: it makes a database where there is none, and starts the server.
const dbScript = `set -e
umask 077
data=/var/lib/postgresql/data/pgdata
if [ ! -s $data/PG_VERSION ]; then
  printf %s "$PASSWORD" > /var/lib/postgresql/data/.pw
  initdb -D $data -U admin --auth=scram-sha-256 --pwfile=/var/lib/postgresql/data/.pw -E UTF8 --locale=C -N
  rm /var/lib/postgresql/data/.pw
  echo "host all all all scram-sha-256" >> $data/pg_hba.conf
fi
chmod 700 $data # a volume's fsGroup may have opened it
exec postgres -D $data -c listen_addresses=$POD_IP -c unix_socket_directories= -c shared_buffers=16MB -c max_slot_wal_keep_size=1GB`

// database is a PostgreSQL in a site's cluster, reached as a person reaches it: by port-forward.
type database struct {
	t      *testing.T
	client *kube.Client
	ns     string
}

func (s *scene) site(t *testing.T, i int, ns string) *database {
	t.Helper()
	x := s.lab.Sites[i]
	c, err := kube.Connect(t.Context(), dr.Site{Name: x.Name, Cluster: dr.Cluster{Kubeconfig: x.Kubeconfig}})
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, client: c, ns: ns}
	t.Cleanup(d.tell)
	return d
}

// make creates the server and waits until it answers.
func (d *database) make(registry, class string) {
	d.t.Helper()
	ctx, api := d.t.Context(), d.client.Typed
	labels, one := map[string]string{"app": "orders-db"}, int32(1)
	meta := metav1.ObjectMeta{Name: "orders-db", Namespace: d.ns, Labels: labels}
	var user *corev1.PodSecurityContext
	if os.Getuid() == 0 {
		id := int64(postgresUser(d.t))
		user = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &id}
	}
	set := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
		Replicas: &one, ServiceName: "orders-db", Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			SecurityContext: user,
			Containers: []corev1.Container{{
				Name: "postgres", Image: registry + "/postgres:15", Command: []string{"/bin/sh", "-c", dbScript},
				Env: []corev1.EnvVar{
					{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "orders-db"}, Key: "password"}}},
				},
				Ports:          []corev1.ContainerPort{{Name: "sql", ContainerPort: 5432}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("sql")}}},
				VolumeMounts:   []corev1.VolumeMount{{Name: "data", MountPath: "/var/lib/postgresql/data"}},
			}},
		}},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}},
	}}
	_, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: d.ns}}, metav1.CreateOptions{})
	if err == nil {
		_, err = api.CoreV1().Secrets(d.ns).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"username": "admin", "password": dbPassword}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = api.CoreV1().Services(d.ns).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: labels,
			Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, TargetPort: intstr.FromString("sql")}}}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = api.AppsV1().StatefulSets(d.ns).Create(ctx, set, metav1.CreateOptions{})
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func postgresUser(t *testing.T) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "id", "-u", "postgres").Output()
	var id int
	if err == nil {
		_, err = fmt.Sscan(string(out), &id)
	}
	if err != nil {
		t.Fatalf("there is no user postgres: %v", err)
	}
	return id
}

// do runs statements, as soon as the server takes them.
func (d *database) do(use func(ctx context.Context, c *pgx.Conn) error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig("host=db user=admin password='" + dbPassword + "' dbname=postgres sslmode=disable")
	if err != nil {
		d.t.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.client.Forward(ctx, d.ns, "orders-db-0", 5432)
	}
	err = kube.WaitFor(ctx, "the database in "+d.ns+" at "+d.client.Site, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		c, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return false, err.Error(), nil
		}
		defer c.Close(ctx)
		if err := use(ctx, c); err != nil {
			return false, err.Error(), nil
		}
		return true, "", nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// tell says what the server's pod has to say, when the test has failed.
func (d *database) tell() {
	if !d.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the test's has ended
	defer cancel()
	pods := d.client.Typed.CoreV1().Pods(d.ns)
	log, logErr := pods.GetLogs("orders-db-0", &corev1.PodLogOptions{}).DoRaw(ctx)
	pod, podErr := pods.Get(ctx, "orders-db-0", metav1.GetOptions{})
	d.t.Logf("at %s in %s: %+v %v\nits log: %s %v", d.client.Site, d.ns, pod.Status.ContainerStatuses, podErr, log, logErr)
}

// insert commits a row and returns the server's time after that.
func (d *database) insert(id int) (at time.Time) {
	d.t.Helper()
	d.do(func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "CREATE TABLE IF NOT EXISTS orders (id int PRIMARY KEY)"); err != nil {
			return err
		}
		if _, err := c.Exec(ctx, "INSERT INTO orders VALUES ($1) ON CONFLICT DO NOTHING", id); err != nil {
			return err
		}
		return c.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at)
	})
	return at
}

func (d *database) want(want ...int) {
	d.t.Helper()
	d.do(func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT id FROM orders ORDER BY id")
		if err != nil {
			return err
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err == nil && !slices.Equal(got, want) {
			d.t.Errorf("orders %v are at %s in %s, want %v", got, d.client.Site, d.ns, want)
		}
		return err
	})
}

// protecting runs `lifeboat protect` until stop; said returns what it has told.
func (s *scene) protecting(t *testing.T, app string) (said func() string, stop func()) {
	t.Helper()
	cmd := exec.Command(bin(t, "lifeboat"), "--fleet", s.fleet, "protect", app, "-o", "json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = os.Stderr
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var text strings.Builder
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			mu.Lock()
			text.WriteString(in.Text() + "\n")
			mu.Unlock()
		}
	}()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait() // it was asked to end
	})
	t.Cleanup(stop)
	return func() string { mu.Lock(); defer mu.Unlock(); return text.String() }, stop
}

// await waits until a command ends well.
func await(t *testing.T, what string, c command) {
	t.Helper()
	var last result
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		if last = run(t, 30*time.Second, c); last.code == 0 {
			return
		}
	}
	t.Fatalf("waiting for %s: %s %s", what, last.stdout, last.stderr)
}

// TestPostgres brings a database to another site, to an instant that lies between two transactions, and
// there makes a copy of it to the end of its log.
func TestPostgres(t *testing.T) {
	needE2E(t)
	t.Parallel()
	s := raise(t, "processes")
	// PostgreSQL's processes, which are not root's, have to get through to their files.
	through := []string{filepath.Dir(s.dir), s.labDir, filepath.Join(s.labDir, "site")}
	for _, x := range s.lab.Sites {
		at := filepath.Join(s.labDir, "site", x.Name)
		through = append(through, at, filepath.Join(at, "node"), filepath.Join(at, "volumes"))
	}
	for _, dir := range through {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	fleet, err := os.OpenFile(s.fleet, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(fleet, `---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: db}
spec:
  namespaces: [db]
  objectives: {rto: 2m, rpo: 10s}
  sites: {preferred: %s, recovery: [%s]}
  backup: {every: 1h}
  data:
  - {name: orders, postgres: {service: orders-db, secret: orders-db}}
`, s.lab.Sites[0].Name, s.lab.Sites[1].Name)
	if err := fleet.Close(); err != nil {
		t.Fatal(err)
	}
	east, west := s.site(t, 0, "db"), s.site(t, 1, "db")
	east.make(s.lab.Sites[0].Registry, s.lab.Sites[0].StorageClass)
	east.insert(1)
	said, stop := s.protecting(t, "db")
	await(t, "a recovery point", s.lifeboat("plan", "failover", "db", "--to", west.client.Site))
	at := east.insert(2)
	east.insert(3)
	instant := at.UTC().Format(time.RFC3339Nano)
	await(t, "the log", s.lifeboat("plan", "failover", "db", "--to", west.client.Site, "--at", instant))
	status := ok(t, 30*time.Second, s.lifeboat("status", "db", "-o", "json"))
	stop()
	if told := said(); strings.Contains(told+status.stdout, dbPassword) || !strings.Contains(told, `"type":"log"`) {
		t.Errorf("protect told %s", told)
	}
	// The instant is not the newest, and the run ends without being verified: nobody probes the database.
	moved := run(t, 90*time.Second, s.lifeboat("failover", "db", "--to", west.client.Site, "--at", instant, "--yes", "-o", "json"))
	const recovered = "orders has recovered: its newest beacon is"
	if moved.code != 0 && moved.code != 6 || !strings.Contains(moved.stdout, recovered) || strings.Contains(moved.stdout+moved.stderr, dbPassword) {
		t.Fatalf("failover ended %d\n%s%s", moved.code, moved.stdout, moved.stderr)
	}
	west.want(1, 2)
	west.insert(4)
	said, stop = s.protecting(t, "db")
	for deadline := time.Now().Add(90 * time.Second); !strings.Contains(said(), "backed up the data of db"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is no base backup under the new epoch; protect told %s", said())
		}
	}
	last := west.insert(5)
	await(t, "the log of the new epoch", s.lifeboat("plan", "restore", "db", "--namespace-map", "db=db-copy", "--at", last.UTC().Format(time.RFC3339Nano)))
	copied := run(t, 90*time.Second, s.lifeboat("restore", "db", "--namespace-map", "db=db-copy", "--yes", "-o", "json"))
	if copied.code != 0 && copied.code != 6 || !strings.Contains(copied.stdout, recovered) {
		t.Fatalf("restore ended %d\n%s%s\nprotect told %s", copied.code, copied.stdout, copied.stderr, said())
	}
	stop()
	s.site(t, 1, "db-copy").want(1, 2, 4, 5)
	west.want(1, 2, 4, 5)
	secrets(t, filepath.Join(s.dir, "vault"))
}

// secrets makes sure that the password lies open nowhere in the vault.
func secrets(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && bytes.Contains(raw, []byte(dbPassword)) {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
