package podnode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// Controllers of the unified hierarchy: those that a node cannot do without, and those that kubelet insists on
// where the machine has them.
var (
	neededControllers = []string{"cpuset", "cpu", "memory", "pids"}
	wantedControllers = []string{"hugetlb", "io"}
)

// hierarchies is how control groups are mounted here.
type hierarchies struct {
	unified bool     // v2 alone; otherwise v1, with v2 beside it for nothing but names
	mounts  []string // where the hierarchies are
}

// cgroupLayout finds the control group hierarchies of this machine.
func cgroupLayout() (hierarchies, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return hierarchies{}, fmt.Errorf("no control groups are mounted at %s: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return hierarchies{unified: true, mounts: []string{cgroupRoot}}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return hierarchies{}, fmt.Errorf("find the control groups: %w", err)
	}
	defer f.Close()
	var h hierarchies
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if at, ok := cgroupMount(sc.Text()); ok && !slices.Contains(h.mounts, at) {
			h.mounts = append(h.mounts, at)
		}
	}
	if len(h.mounts) == 0 {
		return hierarchies{}, fmt.Errorf("no control groups are mounted below %s", cgroupRoot)
	}
	return h, nil
}

// cgroupMount reads one line of mountinfo.
func cgroupMount(line string) (string, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields := strings.Fields(before)
	kind, _, _ := strings.Cut(after, " ")
	if !ok || len(fields) < 5 || (kind != "cgroup" && kind != "cgroup2") || !strings.HasPrefix(fields[4], cgroupRoot+"/") {
		return "", false
	}
	return fields[4], true
}

// make makes the site's group in every hierarchy, with the calling process in it where the kind demands
// that a group which is divided further has no process of its own.
func (h hierarchies) make(name string) error {
	if h.unified {
		return h.makeUnified(name)
	}
	for _, m := range h.mounts {
		dir := filepath.Join(m, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the control group of the site: %w", err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			// A cpuset group starts without processors, and then takes no process.
			value, err := os.ReadFile(filepath.Join(m, f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("give the control group of the site its %s: %w", f, err)
			}
		}
	}
	return nil
}

func (h hierarchies) makeUnified(name string) error {
	root := h.mounts[0]
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Join(dir, "init"), 0o755); err != nil {
		return fmt.Errorf("make the control group of the site: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "init", "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("move the site's first process into its control group: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the control group controllers: %w", err)
	}
	have := strings.Fields(string(b))
	turnOn := slices.Clone(neededControllers)
	for _, c := range wantedControllers {
		if slices.Contains(have, c) {
			turnOn = append(turnOn, c)
		}
	}
	for _, at := range []string{root, dir} {
		for _, c := range turnOn {
			if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
				return fmt.Errorf("turn on the control group controller %s below %s (inside a container, its processes must stand in a group of their own): %w", c, at, err)
			}
		}
	}
	return nil
}

// remove removes the site's groups and those below, once the processes in them have ended.
func (h hierarchies) remove(ctx context.Context, name string) error {
	const pause = 10 * time.Millisecond
	for {
		var left error
		for _, m := range h.mounts {
			left = errors.Join(left, removeGroups(filepath.Join(m, name)))
		}
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the control groups of %s: processes are still in them: %w", name, left)
		case <-time.After(pause):
		}
	}
}

// removeGroups removes a group and those below it. Its files are the kernel's: only directories are removed.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
