package podnode

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestUnifiedGroupTurnsOnControllers(t *testing.T) {
	t.Parallel()
	root := t.TempDir() // stands for the hierarchy: what is written where is all that is looked at
	for _, dir := range []string{root, filepath.Join(root, "east")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpuset cpu io memory hugetlb pids rdma misc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (hierarchies{unified: true, mounts: []string{root}}).make("east"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"east/init/cgroup.procs":      strconv.Itoa(os.Getpid()),
		"cgroup.subtree_control":      "+io", // the last one written
		"east/cgroup.subtree_control": "+io",
	} {
		if got, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v; want %q", file, got, err, want)
		}
	}
}

func TestRemoveGroupsWaitsForProcesses(t *testing.T) {
	needRoot(t)
	h, err := cgroupLayout()
	if err != nil {
		t.Fatal(err)
	}
	name := "lifeboat-test-" + strconv.Itoa(os.Getpid())
	var deepest []string
	for _, m := range h.mounts {
		dir := filepath.Join(m, name, "a", "b")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(m, "/cpuset") { // takes no process until it is filled
			deepest = append(deepest, dir)
		}
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill() })
	for _, dir := range deepest {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(sleep.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.remove(short, name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("removing groups with a process in them: %v, want an error that names them", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = errors.Join(sleep.Process.Kill(), sleep.Wait()) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.remove(ctx, name); err != nil {
		t.Error(err)
	}
	for _, m := range h.mounts {
		if _, err := os.Stat(filepath.Join(m, name)); err == nil {
			t.Errorf("%s/%s is still there", m, name)
		}
	}
}
