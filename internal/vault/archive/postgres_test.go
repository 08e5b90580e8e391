package archive_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/driver/postgres"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

func instants(fast int) int {
	if os.Getenv("LIFEBOAT_E2E") != "" {
		return 20
	}
	return fast
}

func TestPointInTime(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	said, stop := w.archiving(t, s)
	writers := newLoad(t, s)
	p := w.backup(t, s, "p1")
	time.Sleep(4 * time.Second)
	end := time.Now()
	w.proven(t, end)
	commits := writers.stop()
	stop()
	span := end.Sub(p.Postgres.Ended)
	for range instants(2) {
		at := p.Postgres.Ended.Add(rand.N(span))
		got := w.recover(t, p, driver.RecoveryTarget{Time: at})
		wantAt(t, got.ids(t), commits, at)
		got.end(t, syscall.SIGQUIT)
	}
	t.Logf("%d commits in %s; the archiver said: %s", len(commits), span, said())
}

// wantRefused makes sure that a recovery is refused, with these words.
func (w *world) wantRefused(t *testing.T, class dr.Class, p dr.DataPoint, target driver.RecoveryTarget, words ...string) {
	t.Helper()
	_, err := postgres.Compose(t.Context(), w.trees, w.logs, request(p, target), "west")
	if dr.ClassOf(err) != class || err == nil {
		t.Errorf("recovery to %+v: got error %v, want one of class %s", target, err, class)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("recovery to %+v: got error %q, want one with %q", target, err, word)
		}
	}
}

func wantWords(t *testing.T, got string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(got, word) {
			t.Errorf("got %q, want something with %q", got, word)
		}
	}
}

// sealed is the newest position up to which the log is in the vault.
func (w *world) sealed(t *testing.T) postgres.LSN {
	t.Helper()
	pieces, err := w.log().Pieces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pieces) == 0 {
		return 0
	}
	return postgres.LSN(pieces[len(pieces)-1].To)
}

func TestPositionLatestAndPoint(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	s.exec(t, "INSERT INTO acks VALUES (1)")
	alone := w.backup(t, s, "p0")
	_, stop := w.archiving(t, s)
	w.proven(t, time.Now())
	p := w.backup(t, s, "p1")
	s.exec(t, "INSERT INTO acks VALUES (2)")
	var at string
	s.scan(t, "SELECT pg_current_wal_lsn()", &at)
	s.exec(t, "INSERT INTO acks VALUES (3)")
	w.proven(t, time.Now())
	stop()
	later := p
	until := *p.Postgres
	later.Postgres = &until
	until.Until, until.UntilTimeline = at, 1
	for _, c := range []struct {
		name   string
		point  dr.DataPoint
		target driver.RecoveryTarget
		want   int
	}{
		{"the base backup alone", alone, driver.RecoveryTarget{}, 1},
		{"a base backup beside the archiver", p, driver.RecoveryTarget{}, 1},
		{"a position", p, driver.RecoveryTarget{Position: at}, 2},
		{"a point that the log went on from", later, driver.RecoveryTarget{}, 2},
		{"the latest", p, driver.RecoveryTarget{Latest: true}, 3},
	} {
		r := w.recover(t, c.point, c.target)
		if got := r.ids(t); len(got) != c.want {
			t.Errorf("%s: %v are there, want %d", c.name, got, c.want)
		}
		r.exec(t, "INSERT INTO acks VALUES (10)") // it is open for writes
		r.end(t, syscall.SIGQUIT)
	}
	w.wantRefused(t, dr.ClassBlocked, p, driver.RecoveryTarget{Time: time.Now()}, "its log is kept up to")
	w.wantRefused(t, dr.ClassBlocked, p, driver.RecoveryTarget{Time: alone.Postgres.Ended.Add(-time.Second)}, "no base backup of orders was complete by")
	w.wantRefused(t, dr.ClassBlocked, p, driver.RecoveryTarget{Position: "FF/0"}, "kept up to")
	w.wantRefused(t, dr.ClassUsage, p, driver.RecoveryTarget{Position: "nonsense"}, "not a position")
	// The older base backup serves an instant at which the newer one was not complete.
	between := driver.RecoveryTarget{Time: p.Postgres.Ended.Add(-time.Microsecond)}
	w.wantRefused(t, dr.ClassBlocked, p, between)
	if got := w.recover(t, p, between, alone).ids(t); len(got) != 1 {
		t.Errorf("from the older base backup: %v are there", got)
	}
}

func TestServerKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	_, stop := w.archiving(t, s)
	writers := newLoad(t, s)
	p := w.backup(t, s, "p1")
	var instants []time.Time
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} { // fast, and immediate
		time.Sleep(700 * time.Millisecond)
		instants = append(instants, time.Now())
		time.Sleep(300 * time.Millisecond)
		s.end(t, signal)
		s.start(t)
	}
	time.Sleep(700 * time.Millisecond)
	w.proven(t, time.Now())
	commits := writers.stop()
	stop()
	for _, at := range instants {
		r := w.recover(t, p, driver.RecoveryTarget{Time: at})
		wantAt(t, r.ids(t), commits, at)
		r.end(t, syscall.SIGQUIT)
	}
	r := w.recover(t, p, driver.RecoveryTarget{Latest: true})
	wantAt(t, r.ids(t), commits, time.Now())
}

func TestTimelineFollowed(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	standby := s.standby(t)
	_, stop := w.archiving(t, s)
	p := w.backup(t, s, "p1")
	s.exec(t, "INSERT INTO acks VALUES (1)")
	before := time.Now()
	w.proven(t, before)
	// What the old primary goes on to write alone is in the vault, and belongs to nobody's history.
	standby.exec(t, "SELECT pg_promote()")
	s.exec(t, "INSERT INTO acks VALUES (2)")
	w.proven(t, time.Now())
	s.redirect(standby)
	s.end(t, syscall.SIGQUIT)
	standby.exec(t, "INSERT INTO acks VALUES (3)")
	after := time.Now()
	w.provenOn(t, 2, after)
	stop()
	for _, c := range []struct {
		target driver.RecoveryTarget
		want   []int64
	}{
		{driver.RecoveryTarget{Time: before}, []int64{1}},
		{driver.RecoveryTarget{Time: after}, []int64{1, 3}},
		{driver.RecoveryTarget{Latest: true}, []int64{1, 3}},
	} {
		r := w.recover(t, p, c.target)
		got := r.ids(t)
		if !slices.Equal(slices.Sorted(maps.Keys(got)), c.want) {
			t.Errorf("%+v: %v are there, want %v", c.target, slices.Sorted(maps.Keys(got)), c.want)
		}
		r.end(t, syscall.SIGQUIT)
	}
	// A base backup of the new timeline.
	q := w.backup(t, standby, "p2")
	if q.Postgres.Timeline != 2 || q.Postgres.System != p.Postgres.System {
		t.Errorf("got %+v", q.Postgres)
	}
	q.Beacon.Epoch = 2 // of which nobody kept a log
	w.wantRefused(t, dr.ClassBlocked, q, driver.RecoveryTarget{Time: time.Now()}, "kept up to")
	r := w.recover(t, q, driver.RecoveryTarget{Latest: true})
	if got := slices.Sorted(maps.Keys(r.ids(t))); !slices.Equal(got, []int64{1, 3}) {
		t.Errorf("the second base backup: %v are there", got)
	}
}

func TestGapNamed(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	_, stop := w.archiving(t, s)
	p := w.backup(t, s, "p1")
	s.exec(t, "INSERT INTO acks VALUES (1)")
	before := time.Now()
	w.proven(t, before)
	stop()
	from := w.sealed(t)
	// Nobody keeps the log, the slot is taken away, and the server removes what it does not need itself.
	s.exec(t, "SELECT pg_drop_replication_slot('lifeboat_shop_orders')")
	for range 3 {
		s.exec(t, "INSERT INTO acks SELECT generate_series(max(id) + 1, max(id) + 1000) FROM acks; SELECT pg_switch_wal()")
		s.exec(t, "CHECKPOINT")
	}
	said, stop := w.archiving(t, s)
	after := time.Now()
	w.proven(t, after)
	wantWords(t, said(), "replication slot lifeboat_shop_orders of the test's server is gone", "has a gap: from "+from.String(), "need a base backup")
	for _, target := range []driver.RecoveryTarget{{Time: after}, {Latest: true}} {
		w.wantRefused(t, dr.ClassIncomplete, p, target, "its log lacks what lies from "+from.String(), "written between")
	}
	r := w.recover(t, p, driver.RecoveryTarget{Time: before})
	if got := r.ids(t); len(got) != 1 {
		t.Errorf("before the gap: %v are there", got)
	}
	// A base backup from behind the gap is good for what comes then.
	q := w.backup(t, s, "p2")
	s.exec(t, "INSERT INTO acks VALUES (100000)")
	at := time.Now()
	w.proven(t, at)
	stop()
	if got := w.recover(t, q, driver.RecoveryTarget{Time: at}).ids(t); len(got) != 3002 || !got[100000] {
		t.Errorf("behind the gap: %d are there", len(got))
	}
}

// TestBeaconsTableMadeMeanwhile: two who write the first beacon at once both go on.
func TestBeaconsTableMadeMeanwhile(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, `CREATE SCHEMA lifeboat; CREATE TABLE lifeboat.beacon (one boolean PRIMARY KEY DEFAULT true, application text, datastore text,
 site text, epoch bigint, sequence bigint, time timestamptz)`)
	}
	if err != nil {
		t.Fatal(err)
	}
	said, _ := w.archiving(t, s)
	for waiting := 0; waiting == 0; time.Sleep(20 * time.Millisecond) {
		s.scan(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE SCHEMA%'", &waiting)
		if ctx.Err() != nil {
			t.Fatalf("nobody waits for the schema: %s", said())
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	w.proven(t, time.Now())
	if said() != "" {
		t.Errorf("the archiver said: %s", said())
	}
}

func TestSlotLost(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t, "max_slot_wal_keep_size = 16MB", "min_wal_size = 32MB", "max_wal_size = 32MB")
	_, stop := w.archiving(t, s)
	w.proven(t, time.Now())
	stop()
	for range 6 {
		s.exec(t, "INSERT INTO acks SELECT generate_series(coalesce(max(id), 0) + 1, coalesce(max(id), 0) + 1000) FROM acks; SELECT pg_switch_wal()")
		s.exec(t, "CHECKPOINT")
	}
	said, _ := w.archiving(t, s)
	w.proven(t, time.Now())
	wantWords(t, said(), "was lost: the server needed more room than max_slot_wal_keep_size", "has a gap")
}

func TestWhatKeepsAServerFromBeingProtected(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	s.exec(t, "CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE repl LOGIN REPLICATION PASSWORD 'p'")
	as := func(user, password, database string) *postgres.Server {
		r := s.reach()
		r.Credentials.User, r.Credentials.Password, r.Credentials.Database = user, password, database
		return r
	}
	away := s.reach()
	away.Dial = func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	secure := s.reach()
	secure.Credentials.TLS = "require"
	for _, c := range []struct {
		name   string
		server *postgres.Server
		class  dr.Class
		next   string
	}{
		{"wrong password", as("admin", "wrong-word", "postgres"), dr.ClassDenied, "Secret"},
		{"no such role", as("nobody", "p", "postgres"), dr.ClassDenied, "Secret"},
		{"no replication", as("plain", "p", "postgres"), dr.ClassDenied, "ALTER ROLE plain REPLICATION"},
		{"no schema", as("repl", "p", "postgres"), dr.ClassDenied, "CREATE on database postgres"},
		{"no such database", as("admin", s.password, "none"), dr.ClassUsage, "key database"},
		{"no answer", away, dr.ClassUnreachable, "runs and answers"},
		{"no TLS", secure, dr.ClassUnreachable, ""},
	} {
		_, err := c.server.Backup(t.Context(), w.trees, driver.ProtectRequest{Application: "shop", Point: "p", Datastore: dr.Datastore{Name: "orders"}, Beacon: beacon()}, "east")
		var e *dr.Error
		if !errors.As(err, &e) || e.Class != c.class || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: got error %v (%+v), want one of class %s with the remedy %q", c.name, err, e, c.class, c.next)
		}
		if err != nil && (strings.Contains(err.Error(), "wrong-word") || strings.Contains(err.Error(), s.password)) {
			t.Errorf("%s: the error holds the password: %v", c.name, err)
		}
	}
	s.exec(t, "ALTER SYSTEM SET wal_level = minimal")
	s.exec(t, "ALTER SYSTEM SET max_wal_senders = 0")
	s.end(t, syscall.SIGINT)
	s.start(t)
	if err := w.archiver(s).Run(t.Context()); dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "wal_level is minimal") {
		t.Errorf("wal_level minimal: got error %v", err)
	}
}

// TestMain makes the test binary an archiver where it is told so: one that can be killed.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestArchiverKilled(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	writers := newLoad(t, s)
	kill := w.child(t, s)
	w.proven(t, time.Now())
	p := w.backup(t, s, "p1")
	for range instants(6) {
		time.Sleep(rand.N(900 * time.Millisecond))
		before := w.sealed(t)
		kill()
		var confirmed string
		s.scan(t, "SELECT restart_lsn FROM pg_replication_slots", &confirmed)
		if at, err := postgres.ParseLSN(confirmed); err != nil || at > w.sealed(t) || w.sealed(t) < before {
			t.Fatalf("%s was confirmed to the server, and the vault has the log up to %s (%v)", confirmed, w.sealed(t), err)
		}
		kill = w.child(t, s)
	}
	at := time.Now()
	w.proven(t, at)
	commits := writers.stop()
	kill()
	r := w.recover(t, p, driver.RecoveryTarget{Time: at})
	wantAt(t, r.ids(t), commits, at)
}

func TestSecondBaseBackupStoresLittle(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t, "autovacuum = off")
	s.exec(t, "CREATE TABLE big AS SELECT i AS id, (SELECT string_agg(encode(sha512((i || ' ' || j)::bytea), 'hex'), '') FROM generate_series(1, 8) j) AS t FROM generate_series(1, 150000) i; CREATE INDEX ON big (id)")
	s.exec(t, "CHECKPOINT")
	first := w.backup(t, s, "p1")
	s.exec(t, "UPDATE big SET t = reverse(t) WHERE id BETWEEN 50001 AND 51500")
	second := w.backup(t, s, "p2")
	t.Logf("the first stored %d of %d bytes, the second %d", first.StoredBytes, first.Bytes, second.StoredBytes)
	if first.StoredBytes < 60<<20 || second.StoredBytes*20 > first.StoredBytes {
		t.Errorf("the second base backup stored %d bytes, more than a twentieth of the first's %d", second.StoredBytes, first.StoredBytes)
	}
}

func TestTablespaceAndStockTools(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newServer(t)
	where := place(t)
	give(t, where)
	s.exec(t, "CREATE TABLESPACE fast LOCATION '"+where+"'")
	s.exec(t, "CREATE TABLE there (id bigint) TABLESPACE fast")
	s.exec(t, "INSERT INTO there VALUES (1); INSERT INTO acks VALUES (1)")
	_, stop := w.archiving(t, s)
	p := w.backup(t, s, "p1")
	s.exec(t, "INSERT INTO there VALUES (2)")
	at := time.Now()
	w.proven(t, at)
	stop()
	if p.Postgres.Tablespaces != 1 {
		t.Errorf("got %+v", p.Postgres)
	}
	// The original's place is not the recovered server's.
	s.end(t, syscall.SIGQUIT)
	if err := os.Rename(where, where+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(where+".away", where) })
	r := w.recover(t, p, driver.RecoveryTarget{Time: at})
	var n int
	if r.scan(t, "SELECT count(*) FROM there", &n); n != 2 {
		t.Errorf("%d rows are in the tablespace, want 2", n)
	}
	// Of the recovered database there can be a base backup again.
	again := w.backup(t, r, "p2")
	if again.Postgres.Timeline != 2 {
		t.Errorf("got %+v", again.Postgres)
	}
	w.restic(t, r, p)
}

// restic restores a base backup with the stock program, and lets PostgreSQL's own judge it.
func (w *world) restic(t *testing.T, s *server, p dr.DataPoint) {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("restic is missing: run scripts/setup.sh")
		}
		t.Skip("restic is missing: run scripts/setup.sh")
	}
	dir := place(t)
	cmd := exec.CommandContext(t.Context(), "restic", "-r", strings.TrimPrefix(w.vault.Location, "file://")+"/repo", "--password-file", w.vault.EncryptionKey.File,
		"--no-cache", "restore", p.Snapshot, "--target", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("restic: %v\n%s", err, out)
	}
	give(t, dir)
	s.run(t, "pg_verifybackup", "--no-parse-wal", filepath.Join(dir, repo.RootName))
}
