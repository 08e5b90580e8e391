package archive_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/postgres"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/archive"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

const (
	nobody   = 65534 // PostgreSQL refuses root
	patience = 60 * time.Second
)

// server is a PostgreSQL of the test's own.
type server struct {
	bin, dir, data string
	port           int
	password       string
	follows        bool // it is a standby: it stays in recovery
	cmd            *exec.Cmd
	exited         chan struct{}
	moved          atomic.Int32
}

func attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return attr
}

func give(t *testing.T, root string) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func binaries(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("PostgreSQL is missing: run scripts/setup.sh")
		}
		t.Skip("PostgreSQL is missing: run scripts/setup.sh")
	}
	return filepath.Dir(found[len(found)-1])
}

// place is a directory that PostgreSQL's user may enter.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lifeboat-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s *server) run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.SysProcAttr, cmd.Dir = attributes(), s.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+s.password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newServer makes a database and starts it. settings are lines of its configuration.
func newServer(t *testing.T, settings ...string) *server {
	t.Helper()
	s := &server{bin: binaries(t), dir: place(t), port: freePort(t), password: "it's secret"}
	s.data = filepath.Join(s.dir, "data")
	if err := os.WriteFile(filepath.Join(s.dir, "pw"), []byte(s.password+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	give(t, s.dir)
	s.run(t, "initdb", "-D", s.data, "-U", "admin", "--auth=scram-sha-256", "--pwfile="+filepath.Join(s.dir, "pw"), "-E", "UTF8", "--locale=C", "-N")
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, strings.Join(append([]string{"fsync = off", "shared_buffers = 16MB", "max_wal_size = 64MB", "wal_keep_size = 0", "max_slot_wal_keep_size = 1GB", "listen_addresses = '127.0.0.1'"}, settings...), "\n"))
	s.start(t)
	s.exec(t, "CREATE TABLE acks (id bigint PRIMARY KEY)")
	return s
}

// start starts the server and waits until it takes connections; a recovery has ended then.
func (s *server) start(t *testing.T) {
	t.Helper()
	if err := s.tryStart(t); err != nil {
		t.Fatal(err)
	}
}

func (s *server) tryStart(t *testing.T) error {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data, "-p", fmt.Sprint(s.port), "-c", "unix_socket_directories="+s.dir)
	s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = attributes(), s.dir, log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited, cmd := make(chan struct{}), s.cmd
	s.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGQUIT); <-exited })
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		recovering, err := s.recovering(ctx)
		cancel()
		if err == nil && (!recovering || s.follows) {
			return nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("the server ended:\n%s", text[max(0, len(text)-3000):])
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not come up: %v, recovering %v", err, recovering)
		}
	}
}

func (s *server) recovering(ctx context.Context) (is bool, err error) {
	c, err := pgx.Connect(ctx, s.url())
	if err != nil {
		return false, err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&is)
	return is, err
}

func (s *server) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Error(err)
	}
	select {
	case <-s.exited:
	case <-time.After(patience):
		t.Fatal("the server does not end")
	}
}

func (s *server) url() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=admin password='%s' dbname=postgres connect_timeout=5", s.port, strings.ReplaceAll(s.password, "'", `\'`))
}

func (s *server) exec(t *testing.T, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url())
	if err == nil {
		_, err = c.Exec(ctx, sql)
		c.Close(ctx)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *server) scan(t *testing.T, sql string, to any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url())
	if err == nil {
		err = c.QueryRow(ctx, sql).Scan(to)
		c.Close(ctx)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// standby makes a server that follows this one.
func (s *server) standby(t *testing.T) *server {
	t.Helper()
	n := &server{bin: s.bin, dir: place(t), port: freePort(t), password: s.password, follows: true}
	n.data = filepath.Join(n.dir, "data")
	give(t, n.dir)
	n.run(t, "pg_basebackup", "-D", n.data, "-R", "-c", "fast", "-X", "stream", "-d", s.url())
	n.start(t)
	return n
}

// ids are the rows that writers have acknowledged.
func (s *server) ids(t *testing.T) map[int64]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, "SELECT id FROM acks")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	out := map[int64]bool{}
	for _, id := range all {
		out[id] = true
	}
	return out
}

// redirect makes those who reach this server reach another.
func (s *server) redirect(to *server) { s.moved.Store(int32(to.port)) }

func (s *server) reach() *postgres.Server {
	return &postgres.Server{
		Name: "the test's server", Host: "127.0.0.1", Credentials: postgres.Credentials{User: "admin", Password: s.password, Database: "postgres", TLS: "prefer"},
		Dial: func(ctx context.Context) (net.Conn, error) {
			port := s.port
			if to := s.moved.Load(); to != 0 {
				port = int(to)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		},
	}
}

// commit is a transaction as its client knows it.
type commit struct {
	id         int64
	sent, acks time.Time // acks is zero when no answer came
}

// load commits one transaction after the other, in several connections, until stop is called.
type load struct {
	t    *testing.T
	mu   sync.Mutex
	all  []commit
	next int64
	stop func() []commit
}

func newLoad(t *testing.T, s *server) *load {
	t.Helper()
	l := &load{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for range 3 {
		done.Go(func() {
			for ctx.Err() == nil {
				l.write(ctx, s)
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond): // the server is away
				}
			}
		})
	}
	l.stop = sync.OnceValue(func() []commit {
		cancel()
		done.Wait()
		return l.all
	})
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) write(ctx context.Context, s *server) {
	connecting, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(connecting, s.url())
	if err != nil {
		return
	}
	defer c.Close(connecting)
	for ctx.Err() == nil {
		l.mu.Lock()
		l.next++
		id := l.next
		l.mu.Unlock()
		one := commit{id: id, sent: time.Now()}
		if _, err = c.Exec(connecting, "INSERT INTO acks VALUES ($1)", id); err == nil {
			one.acks = time.Now()
		}
		l.mu.Lock()
		l.all = append(l.all, one)
		l.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// wantAt holds what a recovered database has against what its clients know: all that was acknowledged by
// the instant, and nothing that was sent after it.
func wantAt(t *testing.T, got map[int64]bool, all []commit, at time.Time) {
	t.Helper()
	at = at.Truncate(time.Microsecond) // PostgreSQL's clock
	wanted := 0
	for _, c := range all {
		switch {
		case !c.acks.IsZero() && !c.acks.After(at):
			wanted++
			if !got[c.id] {
				t.Errorf("transaction %d was acknowledged %s before %s, and is lost", c.id, at.Sub(c.acks), at)
			}
		case c.sent.After(at.Add(time.Microsecond)) && got[c.id]:
			t.Errorf("transaction %d was sent %s after %s, and is there", c.id, c.sent.Sub(at), at)
		}
	}
	if wanted == 0 || len(got) < wanted || len(got) > wanted+3 {
		t.Errorf("%d transactions are there, %d were acknowledged by %s, and 3 clients wrote", len(got), wanted, at)
	}
}

// world is a vault and what is kept in it.
type world struct {
	vault dr.Vault
	v     *vault.Vault
	trees archive.Trees
	logs  archive.Logs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := place(t)
	w := &world{vault: dr.Vault{Name: "main", Location: "file://" + filepath.Join(dir, "vault"), EncryptionKey: dr.KeySource{File: filepath.Join(dir, "key")}}}
	key := "bGlmZWJvYXQncyB0ZXN0cyBuZWVkIGEga2V5IG9mIDMyIGJ5dGVz"
	if err := os.WriteFile(w.vault.EncryptionKey.File, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := vault.ReadKeyFile(w.vault.EncryptionKey.File)
	if err == nil {
		err = vault.Init(t.Context(), w.vault, read, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.open(t)
	return w
}

func (w *world) open(t *testing.T) {
	t.Helper()
	var err error
	if w.v, err = vault.Open(t.Context(), w.vault); err != nil {
		t.Fatal(err)
	}
	w.trees, w.logs = archive.Trees{Repo: w.v.Repo()}, archive.Logs{Store: vault.Logs{Vault: w.v}}
}

func (w *world) log() driver.Log { return w.logs.Open("shop", "orders", 1) }

func beacon() dr.Beacon {
	return dr.Beacon{Application: "shop", Datastore: "orders", Site: "east", Epoch: 1}
}

func (w *world) backup(t *testing.T, s *server, point string) dr.DataPoint {
	t.Helper()
	p, err := s.reach().Backup(t.Context(), w.trees, driver.ProtectRequest{Application: "shop", Point: point, Datastore: dr.Datastore{Name: "orders"}, Beacon: beacon()}, "east")
	if err != nil {
		t.Fatalf("base backup %s: %v", point, err)
	}
	return p
}

func (w *world) archiver(s *server) *postgres.Archiver {
	return &postgres.Archiver{Server: s.reach(), Log: w.log(), Slot: postgres.SlotName("shop", "orders"), Beacon: beacon(), Every: 300 * time.Millisecond}
}

// archiving runs an archiver, again and again as its caller does, until stop is called.
func (w *world) archiving(t *testing.T, s *server) (said func() string, stop func()) {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf(format, args...))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	a := w.archiver(s)
	a.Say = note
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := a.Run(ctx); err != nil && ctx.Err() == nil {
				note("%v", err)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, "\n")
	}, stop
}

// proven waits until the log is known to hold what was acknowledged by an instant.
func (w *world) proven(t *testing.T, at time.Time) {
	t.Helper()
	w.provenOn(t, 1, at)
}

func (w *world) provenOn(t *testing.T, timeline uint32, at time.Time) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		pieces, err := w.log().Pieces(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(pieces); n > 0 && pieces[n-1].Timeline == timeline && pieces[n-1].Beacon.Time.After(at) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for the log to reach %s: it has %d pieces", at, len(pieces))
		}
	}
}

func request(p dr.DataPoint, target driver.RecoveryTarget, copies ...dr.DataPoint) driver.RestoreRequest {
	return driver.RestoreRequest{Application: "shop", Point: "p", Datastore: dr.Datastore{Name: "orders"}, Data: p, Target: target, Copies: copies}
}

// recover brings a database back into an empty directory, and starts a stock server on it.
func (w *world) recover(t *testing.T, p dr.DataPoint, target driver.RecoveryTarget, copies ...dr.DataPoint) *server {
	t.Helper()
	files, err := postgres.Compose(t.Context(), w.trees, w.logs, request(p, target, copies...), "west")
	if err != nil {
		t.Fatalf("recovery to %+v: %v", target, err)
	}
	s := &server{bin: binaries(t), dir: place(t), port: freePort(t), password: "it's secret"}
	s.data = filepath.Join(s.dir, "data")
	snap, err := w.v.Repo().LoadSnapshot(t.Context(), files.Snapshot)
	if err == nil {
		_, err = w.v.Repo().RestoreDir(t.Context(), snap.Tree, s.data, repo.RestoreDirOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	give(t, s.dir)
	s.start(t)
	return s
}

// childVariable makes the test binary an archiver; it holds the server's port, its password and the vault.
const childVariable = "LIFEBOAT_TEST_ARCHIVER"

type orders struct {
	Port     int
	Password string
	Vault    dr.Vault
}

// child is an archiver in a process of its own; kill ends it in the hard way.
func (w *world) child(t *testing.T, s *server) (kill func()) {
	t.Helper()
	raw, err := json.Marshal(orders{s.port, s.password, w.vault})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(raw))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(kill)
	return kill
}

func child() error {
	var o orders
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &o); err != nil {
		return err
	}
	ctx := context.Background()
	v, err := vault.Open(ctx, o.Vault)
	if err != nil {
		return err
	}
	w := &world{v: v, logs: archive.Logs{Store: vault.Logs{Vault: v}}}
	for a := w.archiver(&server{port: o.Port, password: o.Password}); ; time.Sleep(50 * time.Millisecond) {
		if err := a.Run(ctx); err != nil && !strings.Contains(err.Error(), "is active for PID") { // its killed predecessor's
			return err
		}
	}
}
