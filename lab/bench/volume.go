package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// Bounds of the volume suite: times against stock restic's on the same files in the same run.
const (
	boundVolumeRatio  = 1.0
	boundVolumeMemory = 300.0 // MiB resident, whatever the size of a file
)

// volumePassword is of 32 random bytes, as a vault's is.
func volumePassword() string {
	return base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
}

// volumeInput is what the volume suite measures.
type volumeInput struct {
	rounds int   // how often; the middle result counts
	large  int64 // bytes of the large file; 0: none
}

// volume measures copies of directories against stock restic's.
func (b *bench) volume(ctx context.Context, dir string, in volumeInput) error {
	if _, err := exec.LookPath("restic"); err != nil {
		return errors.New("the floor is stock restic: apt-get install restic")
	}
	version, err := exec.CommandContext(ctx, "restic", "version").Output()
	if err != nil {
		return fmt.Errorf("ask restic for its version: %w", err)
	}
	fmt.Printf("input floor %s", version)
	spec := treeSpec{files: 20_000, bytes: 1 << 30, seed: 20}
	fmt.Printf("input tree files %d bytes %d seed %d rounds %d\n", spec.files, spec.bytes, spec.seed, in.rounds)
	var all rounds
	for round := range in.rounds {
		part := filepath.Join(dir, "round")
		r, err := treeRound(ctx, part, spec, round%2 == 1)
		if err := errors.Join(err, os.RemoveAll(part)); err != nil {
			return err
		}
		all = append(all, r)
	}
	for i, name := range []string{"first-backup", "unchanged", "changed", "restore"} {
		b.figure("volume-"+name+"-ratio", all.median(i, pair.ratio), boundVolumeRatio)
	}
	b.figure("volume-memory-mib", all.most(), boundVolumeMemory)
	if in.large == 0 {
		return nil
	}
	return b.volumeLarge(ctx, filepath.Join(dir, "large"), in.large)
}

// volumeLarge measures one file that is larger than any memory that it may take.
func (b *bench) volumeLarge(ctx context.Context, dir string, size int64) error {
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o700); err != nil {
		return err
	}
	fmt.Printf("input large-file bytes %d\n", size)
	made := &content{random: rand.New(rand.NewPCG(4, 4)), kind: 1}
	if err := writeFrom(filepath.Join(source, "file"), io.LimitReader(made, size)); err != nil {
		return err
	}
	m, err := newMatch(ctx, dir, source)
	if err != nil {
		return err
	}
	var r rounds
	backup, err := m.backup(ctx, "large-file-backup", false)
	if err != nil {
		return err
	}
	restore, err := m.restore(ctx, "large-file-restore", false)
	if err != nil {
		return err
	}
	r = rounds{{backup, restore}}
	b.figure("volume-large-file-backup-ratio", r.median(0, pair.ratio), boundVolumeRatio)
	b.figure("volume-large-file-restore-ratio", r.median(1, pair.ratio), boundVolumeRatio)
	b.figure("volume-large-file-memory-mib", r.most(), boundVolumeMemory)
	return nil
}

// treeRound measures each kind of copy once.
func treeRound(ctx context.Context, dir string, spec treeSpec, oursFirst bool) ([]pair, error) {
	source := filepath.Join(dir, "source")
	if err := spec.make(source); err != nil {
		return nil, fmt.Errorf("make the tree: %w", err)
	}
	time.Sleep(3 * time.Second) // so that no file is as new as the first copy
	m, err := newMatch(ctx, dir, source)
	if err != nil {
		return nil, err
	}
	var out []pair
	for _, name := range []string{"first-backup", "unchanged", "changed"} {
		if name == "changed" {
			changed, err := spec.change(source)
			if err != nil {
				return nil, fmt.Errorf("change the tree: %w", err)
			}
			fmt.Printf("input changed-files %d\n", changed)
		}
		p, err := m.backup(ctx, name, oursFirst)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	p, err := m.restore(ctx, "restore", oursFirst)
	return append(out, p), err
}

// taken is what one process took.
type taken struct {
	seconds float64
	cpu     float64 // seconds of processor time
	mib     float64 // resident at most
	out     string
}

func (t taken) String() string {
	return fmt.Sprintf("%.2f s (processor %.2f s, %.0f MiB)", t.seconds, t.cpu, t.mib)
}

// pair is the same work, done by both.
type pair struct{ floor, ours taken }

func (p pair) ratio() float64 { return p.ours.seconds / p.floor.seconds }

type rounds [][]pair

func (r rounds) median(i int, of func(pair) float64) float64 {
	var all []float64
	for _, pairs := range r {
		all = append(all, of(pairs[i]))
	}
	return median(all)
}

// most is the most memory that we took.
func (r rounds) most() float64 {
	most := 0.0
	for _, pairs := range r {
		for _, p := range pairs {
			most = max(most, p.ours.mib)
		}
	}
	return most
}

// match lets both programs do the same to the same directory, each with a repository of its own.
type match struct {
	dir, source string
	self        string
	snapshot    string // our last
}

func newMatch(ctx context.Context, dir, source string) (*match, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	m := &match{dir: dir, source: source, self: self}
	store, err := blob.CreateFile(m.path("ours"))
	if err != nil {
		return nil, err
	}
	if _, err := repo.Init(ctx, store, []byte(volumePassword())); err != nil {
		return nil, err
	}
	_, err = m.measure(ctx, "restic", "init")
	return m, err
}

func (m *match) path(name string) string { return filepath.Join(m.dir, name) }

// both measures two pieces of work, ours first or last.
func both(name string, oursFirst bool, floor, ours func() (taken, error)) (p pair, err error) {
	if oursFirst {
		p.ours, err = ours()
	}
	if err == nil {
		p.floor, err = floor()
	}
	if err == nil && !oursFirst {
		p.ours, err = ours()
	}
	if err != nil {
		return p, err
	}
	fmt.Printf("measured %s restic %s ours %s\n", name, p.floor, p.ours)
	return p, nil
}

func (m *match) backup(ctx context.Context, name string, oursFirst bool) (pair, error) {
	p, err := both(name, oursFirst,
		func() (taken, error) { return m.measure(ctx, "restic", "backup", "--quiet", m.source) },
		func() (taken, error) {
			return m.measure(ctx, m.self, "-work", volumeWork, "save", m.path("ours"), m.source, m.snapshot)
		})
	m.snapshot = strings.TrimSpace(p.ours.out)
	return p, err
}

// restore lets both bring back into an empty directory. Ours returns when all is on disk and restic
// does not, so its time has that added; the time without is printed.
func (m *match) restore(ctx context.Context, name string, oursFirst bool) (pair, error) {
	floorTarget, ourTarget := m.path("restored-restic"), m.path("restored-ours")
	p, err := both(name, oursFirst,
		func() (taken, error) {
			t, err := m.measure(ctx, "restic", "restore", "latest", "--quiet", "--target", floorTarget)
			if err != nil {
				return t, err
			}
			fmt.Printf("measured %s restic-not-on-disk %.2f s\n", name, t.seconds)
			began := time.Now()
			err = syncDisk(floorTarget)
			t.seconds += time.Since(began).Seconds()
			return t, errors.Join(err, os.RemoveAll(floorTarget))
		},
		func() (taken, error) {
			return m.measure(ctx, m.self, "-work", volumeWork, "restore", m.path("ours"), ourTarget, m.snapshot)
		})
	if err != nil {
		return p, err
	}
	if err := sameTree(m.source, ourTarget); err != nil {
		return p, fmt.Errorf("what was restored is not what was copied: %w", err)
	}
	return p, os.RemoveAll(ourTarget)
}

func (m *match) measure(ctx context.Context, program string, args ...string) (taken, error) {
	// What an earlier process left to be written must not count for this one.
	if err := syncDisk(m.dir); err != nil {
		return taken{}, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "RESTIC_REPOSITORY="+m.path("restic"), "RESTIC_PASSWORD="+volumePassword(), "RESTIC_CACHE_DIR="+m.path("cache"))
	var problems bytes.Buffer
	cmd.Stderr = &problems
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return taken{}, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, problems.String())
	}
	t := taken{seconds: time.Since(began).Seconds(), out: string(out), cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.mib = float64(usage.Maxrss) / 1024
	}
	return t, nil
}

func syncDisk(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}
