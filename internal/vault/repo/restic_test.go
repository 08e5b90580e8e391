package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// restic is the stock program, the judge of what we wrote.
type restic struct {
	t   *testing.T
	dir string
	env []string
}

func newRestic(t *testing.T, dir string) *restic {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal("restic is not installed: apt-get install restic")
		}
		t.Skip("restic is not installed: apt-get install restic")
	}
	return &restic{t: t, dir: dir, env: append(os.Environ(),
		"RESTIC_REPOSITORY="+dir, "RESTIC_PASSWORD="+string(testPassword), "RESTIC_CACHE_DIR="+t.TempDir())}
}

func (r *restic) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("restic %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *restic) try(args ...string) (string, error) {
	c := exec.CommandContext(r.t.Context(), "restic", args...)
	c.Env = r.env
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	err := c.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out.String(), err
}

func newFileRepo(t *testing.T) (*Repo, string) {
	t.Helper()
	store, err := blob.OpenFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Init(t.Context(), blob.Sub(store, "repo"), testPassword)
	if err != nil {
		t.Fatal(err)
	}
	return r, filepath.Join(strings.TrimPrefix(store.Location(), "file://"), "repo")
}

func TestResticReadsWhatWeWrote(t *testing.T) {
	t.Parallel()
	r, dir := newFileRepo(t)
	judge := newRestic(t, dir)
	source := t.TempDir()
	makeSample(t, source)
	result, id := saveDir(t, r, source, SaveDirOptions{})
	s, err := r.NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	documents, err := saveDocuments(t.Context(), s, docs(2000)) // directories are cut
	if err != nil {
		t.Fatal(err)
	}
	documentsID, err := s.SaveSnapshot(t.Context(), Snapshot{Tree: documents.Tree, Tags: []string{"checkpoint", "app=shop"}, Hostname: "east"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	judge.run("check", "--read-data")
	target := t.TempDir()
	judge.run("restore", id.String(), "--target", target)
	diff(t, describe(t, filepath.Join(target, RootName)), describe(t, source))

	listed := regexp.MustCompile(`/~[0-7]`).ReplaceAllString(judge.run("ls", documentsID.String()), "")
	for _, want := range []string{"/namespaces/ns6/ConfigMap/object-6.json", "/namespaces/ns0/ConfigMap/object-0.json"} {
		if !strings.Contains(listed, want+"\n") {
			t.Errorf("restic ls does not list %s", want)
		}
	}
	target = t.TempDir()
	judge.run("restore", documentsID.String(), "--target", target)
	restored := map[string]string{}
	err = filepath.WalkDir(target, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		restored[regexp.MustCompile(`/~[0-7]`).ReplaceAllString(strings.TrimPrefix(p, target+"/"), "")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for d := range docs(2000) {
		if got, ok := restored[d.Path]; !ok || got != string(d.Data) {
			t.Fatalf("%s: there %v, %d bytes", d.Path, ok, len(got))
		}
	}

	var snapshots []struct {
		ID       string   `json:"id"`
		Tree     ID       `json:"tree"`
		Hostname string   `json:"hostname"`
		Tags     []string `json:"tags"`
	}
	if err := json.Unmarshal([]byte(judge.run("snapshots", "--json", "--tag", "app=shop")), &snapshots); err != nil {
		t.Fatal(err)
	}
	if len(snapshots) != 1 || snapshots[0].ID != documentsID.String() || snapshots[0].Hostname != "east" || snapshots[0].Tree == result.Tree {
		t.Errorf("restic snapshots: %+v", snapshots)
	}
}

func TestWeReadWhatResticWrote(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "repo")
	judge := newRestic(t, dir)
	judge.run("init")
	source := t.TempDir()
	makeSample(t, source)
	judge.run("backup", source, "--tag", "stock")

	store, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := reopen(t, store)
	sound(t, r)
	all, err := r.Snapshots(t.Context())
	if err != nil || len(all) != 1 || all[0].Tags[0] != "stock" {
		t.Fatalf("%+v, %v", all, err)
	}
	target := t.TempDir()
	if _, err := r.RestoreDir(t.Context(), all[0].Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describe(t, filepath.Join(target, source)), describe(t, source))
	node, err := r.Find(t.Context(), all[0].Tree, filepath.Join(source, "small"))
	if err != nil || node.Size != 5 {
		t.Errorf("%+v, %v", node, err)
	}
}

// TestSharedWithRestic lets both programs write to one repository, and restic remove.
func TestSharedWithRestic(t *testing.T) {
	t.Parallel()
	r, dir := newFileRepo(t)
	judge := newRestic(t, dir)
	source, target := t.TempDir(), t.TempDir()
	makeSample(t, source)
	_, first := saveDir(t, r, source, SaveDirOptions{})
	judge.run("backup", source)
	if err := os.WriteFile(filepath.Join(source, "later"), noise(77, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	judge.run("forget", first.String(), "--prune", "--max-unused", "0")
	judge.run("check", "--read-data")
	// This process knows the index of before: what it needs was moved to other packs.
	if _, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describe(t, target), describe(t, source))
	if again, _ := saveDir(t, r, source, SaveDirOptions{}); again.Tree != result.Tree {
		t.Error("an unchanged directory is another tree")
	}
	judge.run("check", "--read-data")
	sound(t, r)
}

func TestResticRespectsOurLock(t *testing.T) {
	t.Parallel()
	r, dir := newFileRepo(t)
	judge := newRestic(t, dir)
	s, err := r.NewSaver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := judge.try("prune")
	if err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("prune while we save: %v\n%s", err, out)
	}
	judge.run("list", "locks", "--no-lock")
	if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	judge.run("prune")
}
