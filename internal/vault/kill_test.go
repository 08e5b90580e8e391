package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// childVariable makes the test binary one of the processes that are killed: "backup 17 /dir", …
const childVariable = "LIFEBOAT_VAULT_CHILD"

func TestMain(m *testing.M) {
	if order := os.Getenv(childVariable); order != "" {
		if err := child(context.Background(), strings.Fields(order)); err != nil { // ends by SIGKILL at the latest
			fmt.Println("failed", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killKeep is how many recovery points the pruning children keep.
const killKeep = 3

// child is a process: it opens the vault in a directory and does one thing.
func child(ctx context.Context, order []string) error {
	dir := order[2]
	v, err := Open(ctx, killVault(dir))
	if err != nil {
		return err
	}
	switch order[0] {
	case "backup":
		seed, err := strconv.ParseUint(order[1], 10, 64)
		if err != nil {
			return err
		}
		return childBackup(ctx, v, seed)
	case "prune":
		o := keepLast(killKeep, "shop")
		o.Now, o.Patience = time.Now(), time.Minute
		if _, err := Prune(ctx, v, o); err != nil {
			return err
		}
		fmt.Println("pruned")
	case "restore":
		p, err := v.Point(ctx, "shop", Latest)
		if errors.Is(err, dr.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		snap, err := v.Repo().LoadSnapshot(ctx, p.Data[0].Snapshot)
		if err != nil {
			return err
		}
		if _, err := v.Repo().RestoreDir(ctx, snap.Tree, order[1], repo.RestoreDirOptions{}); err != nil {
			return err
		}
		fmt.Println("restored", seedOf(p))
	}
	return nil
}

func killVault(dir string) dr.Vault {
	return dr.Vault{Name: "main", Location: "file://" + dir + "/vault", EncryptionKey: dr.KeySource{File: dir + "/key"}}
}

// killData is what the backup of a seed holds in a file; neighbours share most of it.
func killData(seed uint64, file int) []byte {
	from := seed / 4
	if file > 0 {
		from = seed
	}
	data := make([]byte, 700<<10)
	_, _ = rand.NewChaCha8([32]byte{byte(from), byte(from >> 8), byte(file)}).Read(data)
	return data
}

const killFiles = 4

func childBackup(ctx context.Context, v *Vault, seed uint64) error {
	now := time.Now().UTC()
	p := dr.RecoveryPoint{ID: NewID(now, "shop"), Application: "shop", Site: fmt.Sprint("seed-", seed), Epoch: 1, Time: now}
	tags := func(part string) []string { return []string{"application=shop", "point=" + p.ID, "part=" + part} }
	s, err := v.Repo().NewSaver(ctx)
	if err != nil {
		return err
	}
	ids, size, err := s.SaveData(ctx, strings.NewReader(fmt.Sprint("state of ", seed)))
	if err != nil {
		return err
	}
	tree, err := s.SaveTree(ctx, &repo.Tree{Nodes: []*repo.Node{{Name: "state", Type: repo.FileNode, Size: uint64(size), Content: ids}}})
	if err != nil {
		return err
	}
	id, err := s.SaveSnapshot(ctx, repo.Snapshot{Tree: tree, Tags: tags("state")})
	if err != nil {
		return err
	}
	p.Checkpoint = id.String()
	source, err := os.MkdirTemp("", "kill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	for i := range killFiles {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), killData(seed, i), 0o600); err != nil {
			return err
		}
	}
	saved, err := s.SaveDir(ctx, source, repo.SaveDirOptions{})
	if err != nil {
		return err
	}
	if id, err = s.SaveSnapshot(ctx, repo.Snapshot{Tree: saved.Tree, Tags: tags("files")}); err != nil {
		return err
	}
	p.Data = []dr.DataPoint{{Datastore: "files", Snapshot: id.String()}}
	if err := s.Close(ctx); err != nil {
		return err
	}
	if err := SealPoint(ctx, v, p); err != nil {
		return err
	}
	fmt.Println("sealed", p.ID)
	return nil
}

func seedOf(p dr.RecoveryPoint) uint64 {
	seed, _ := strconv.ParseUint(strings.TrimPrefix(p.Site, "seed-"), 10, 64)
	return seed
}

// killing is a vault whose users are killed.
type killing struct {
	t   *testing.T
	dir string
	v   *Vault

	mu       sync.Mutex
	reported []string            // points whose backup said so
	known    map[string]struct{} // those, and points that were seen
	typical  map[string]time.Duration
	said     map[string]int // what killed processes had said last
}

func newKilling(t *testing.T) *killing {
	t.Helper()
	k := &killing{t: t, dir: t.TempDir(), known: map[string]struct{}{}, typical: map[string]time.Duration{}, said: map[string]int{}}
	if err := CreateKeyFile(k.dir + "/key"); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKeyFile(k.dir + "/key")
	if err != nil {
		t.Fatal(err)
	}
	initAt(t, killVault(k.dir), key)
	if k.v, err = Open(t.Context(), killVault(k.dir)); err != nil {
		t.Fatal(err)
	}
	return k
}

// start runs a process; with a limit it is killed then, if it has not ended. It says whether it was.
func (k *killing) start(kind, what string, limit time.Duration) (killed bool, said string) {
	c := exec.CommandContext(k.t.Context(), os.Args[0])
	c.Env = append(os.Environ(), childVariable+"="+kind+" "+what+" "+k.dir)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	if err := c.Start(); err != nil {
		k.t.Error(err)
		return false, ""
	}
	if limit > 0 {
		timer := time.AfterFunc(limit, func() { _ = c.Process.Kill() }) // it may have ended
		defer timer.Stop()
	}
	err := c.Wait()
	status, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	killed = status.Signaled()
	if err != nil && !killed {
		k.t.Errorf("%s %s: %v: %s", kind, what, err, out.String())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for line := range strings.Lines(out.String()) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "sealed "); ok {
			k.reported = append(k.reported, id)
			k.known[id] = struct{}{}
		}
	}
	return killed, strings.TrimSpace(out.String())
}

// verify holds the vault against what was reported.
func (k *killing) verify(round int) {
	t := k.t
	t.Helper()
	points, err := k.v.Points(t.Context(), "shop")
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	there := map[string]bool{}
	for _, p := range points {
		there[p.ID] = true
		k.known[p.ID] = struct{}{}
		k.whole(round, p)
	}
	for _, id := range k.reported {
		newer := 0
		for other := range k.known {
			if other > id {
				newer++
			}
		}
		if !there[id] && newer < killKeep {
			t.Errorf("round %d: recovery point %s was reported and is lost", round, id)
		}
	}
	report, err := Check(t.Context(), k.v, true, nil)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	for _, p := range report.Problems {
		t.Errorf("round %d: check: %s", round, p)
	}
}

// whole reads a point back, whether it was reported or not: what can be seen is believed.
func (k *killing) whole(round int, p dr.RecoveryPoint) {
	k.t.Helper()
	fail := func(err error) {
		k.t.Errorf("round %d: recovery point %s can be seen and is not whole: %v", round, p.ID, err)
	}
	read := func(snapshot, path string, want []byte) {
		snap, err := k.v.Repo().LoadSnapshot(k.t.Context(), snapshot)
		if err != nil {
			fail(err)
			return
		}
		node, err := k.v.Repo().Find(k.t.Context(), snap.Tree, path)
		if err != nil {
			fail(err)
			return
		}
		sum := sha256.New()
		if err := k.v.Repo().ReadFile(k.t.Context(), node, sum); err != nil {
			fail(err)
			return
		}
		if is := sha256.Sum256(want); !bytes.Equal(sum.Sum(nil), is[:]) {
			fail(fmt.Errorf("%s has other bytes", path))
		}
	}
	read(p.Checkpoint, "state", fmt.Append(nil, "state of ", seedOf(p)))
	for i := range killFiles {
		read(p.Data[0].Snapshot, fmt.Sprintf("%s/%d", repo.RootName, i), killData(seedOf(p), i))
	}
}

// judge lets the stock restic check the repository.
func (k *killing) judge() {
	k.t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			k.t.Fatal("restic is not installed: apt-get install restic")
		}
		k.t.Skip("restic is not installed: apt-get install restic")
	}
	for _, args := range [][]string{{"unlock"}, {"check", "--read-data"}} {
		c := exec.CommandContext(k.t.Context(), "restic", append([]string{"-r", k.dir + "/vault/repo", "--password-file", k.dir + "/key", "--no-cache"}, args...)...)
		if out, err := c.CombinedOutput(); err != nil {
			k.t.Fatalf("restic %v: %v\n%s", args, err, out)
		}
	}
}

// restored compares what a restore that ended left.
func (k *killing) restored(target, said string) {
	k.t.Helper()
	text, ok := strings.CutPrefix(said, "restored ")
	if !ok {
		return
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		k.t.Error(err)
	}
	for i := range killFiles {
		got, err := os.ReadFile(filepath.Join(target, fmt.Sprint(i)))
		if err != nil || !bytes.Equal(got, killData(seed, i)) {
			k.t.Errorf("restored file %d is not what was saved (%v)", i, err)
		}
	}
}

// TestKilledAtRandom kills processes that back up, prune and restore, alone and beside each other: no
// recovery point that was reported is ever lost, none can be seen that is not whole, and the stock
// restic finds the repository sound. It is 200 kills where whole flows are tried, and few otherwise.
func TestKilledAtRandom(t *testing.T) {
	kills := 12
	if os.Getenv("LIFEBOAT_E2E") != "" {
		kills = 200
	}
	k := newKilling(t)
	target := filepath.Join(t.TempDir(), "restored")
	seed := uint64(0)
	what := func(kind string) string {
		switch kind {
		case "backup":
			seed++
			return fmt.Sprint(seed)
		case "restore":
			return target
		}
		return "-"
	}
	// How long each takes when it is let alone.
	for range 2 {
		for _, kind := range []string{"backup", "restore", "prune"} {
			began := time.Now()
			if killed, said := k.start(kind, what(kind), 0); killed || said == "" {
				t.Fatalf("%s did not end well: %s", kind, said)
			}
			k.typical[kind] = time.Since(began)
		}
	}
	k.verify(0)
	done, beside, ended := map[string]int{}, 0, 0
	for round := 1; done["backup"]+done["prune"]+done["restore"] < kills; round++ {
		if round > 20*kills {
			t.Fatalf("of %d processes only %v were killed in time", round, done)
		}
		kind := []string{"backup", "backup", "backup", "prune", "prune", "restore"}[rand.IntN(6)]
		var other sync.WaitGroup
		if rand.IntN(4) == 0 {
			beside++
			otherKind := []string{"backup", "prune"}[rand.IntN(2)]
			order := what(otherKind)
			other.Go(func() { k.start(otherKind, order, 0) })
		}
		killed, said := k.start(kind, what(kind), time.Duration(rand.Int64N(int64(k.typical[kind]*5/4)))+time.Millisecond)
		other.Wait()
		if killed {
			done[kind]++
			k.said[kind+" "+strings.Split(said, " ")[0]]++
		} else {
			ended++
			if kind == "restore" {
				k.restored(target, said)
			}
		}
		k.verify(round)
		if t.Failed() {
			t.Fatalf("after round %d: %s", round, kind)
		}
		if round%25 == 0 {
			k.judge()
		}
	}
	// After all of that everything works, and nothing is left behind.
	for _, kind := range []string{"backup", "prune", "restore"} {
		killed, said := k.start(kind, what(kind), 0)
		if killed || said == "" {
			t.Errorf("%s did not end well: %s", kind, said)
		}
		k.restored(target, said)
	}
	k.verify(-1)
	k.judge()
	t.Logf("killed %v while %d others ran beside, %d ended before; killed ones had said %v; %d points were reported", done, beside, ended, k.said, len(k.reported))
}

// TestManyProcesses back up into one vault at the same time, while others prune it.
func TestManyProcesses(t *testing.T) {
	k := newKilling(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 3 {
				if killed, said := k.start("backup", fmt.Sprint(10*i+j), 0); killed || !strings.HasPrefix(said, "sealed ") {
					t.Errorf("backup: %s", said)
				}
			}
		})
	}
	for range 2 {
		all.Go(func() {
			for range 2 {
				if killed, said := k.start("prune", "-", 0); killed || said != "pruned" {
					t.Errorf("prune: %s", said)
				}
			}
		})
	}
	all.Wait()
	if len(k.reported) != 12 {
		t.Errorf("%d points were reported, want 12", len(k.reported))
	}
	k.verify(0)
	k.judge()
}

// initAt makes a vault.
func initAt(t *testing.T, v dr.Vault, key []byte) {
	t.Helper()
	if err := Init(t.Context(), v, key, nil); err != nil {
		t.Fatal(err)
	}
}
