package podnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Node is the node of one site. All that it writes is below Dir, or vanishes with its namespaces.
type Node struct {
	Plan   Plan
	Site   string // its name is the site's
	Dir    string // the site's directory, an absolute path
	Region string // becomes the node's region label, and with -1 its zone; may be empty
	Kube   string // the multi-call binary with kubelet and kube-proxy, an absolute path

	KubeletKubeconfig string // a file; the user is system:node:SITE, or an administrator
	ProxyKubeconfig   string // a file; the user is system:kube-proxy, or an administrator
	ClientCA          string // PEM file: who may use kubelet's own API
	ServingCert       string // PEM file of kubelet's API; empty: kubelet signs its own
	ServingKey        string

	Registry   string   // host:port of the site's registry, plain HTTP
	PauseImage string   // repository:tag of the image that holds a pod's namespaces, in that registry
	Keep       []string // paths that must stay visible inside the site, beside the lab's directory and the programs
}

// removeLimit bounds the wait for the kernel to let go of what a killed site held.
const removeLimit = 10 * time.Second

// cgroup is the name of the site's control group.
func (n Node) cgroup() string { return cgroupName(n.Plan, n.Site) }

func cgroupName(p Plan, site string) string { return "lifeboat-" + p.ID() + "-" + site }

// path is a path below the site's directory.
func (n Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.Dir}, elem...)...)
}

// check refuses what would fail only much later, or hide the lab from itself.
func (n Node) check() (SiteNet, error) {
	s, err := n.Plan.Site(n.Site)
	if err != nil {
		return s, err
	}
	for what, path := range map[string]string{"its directory": n.Dir, "the Kubernetes binary": n.Kube,
		"kubelet's kubeconfig": n.KubeletKubeconfig, "kube-proxy's kubeconfig": n.ProxyKubeconfig, "the CA of kubelet's clients": n.ClientCA} {
		if !filepath.IsAbs(path) {
			return s, fmt.Errorf("node of site %s: %s must be an absolute path, and is %q", n.Site, what, path)
		}
	}
	if n.Registry == "" || n.PauseImage == "" {
		return s, fmt.Errorf("node of site %s: it needs the site's registry and the name of the pause image", n.Site)
	}
	return s, nil
}

// Command is the command that runs argv as the first process of the site: in the site's network namespace
// and in new mount, PID, UTS and IPC namespaces. argv must call Prepare before anything else. Ending that
// process with SIGKILL ends every process of the site, and with them the mounts.
func Command(p Plan, site string, argv ...string) (*exec.Cmd, error) {
	s, err := p.Site(site)
	if err != nil {
		return nil, err
	}
	full := inside(s.Namespace, argv...)
	nsenter, err := lookPath(full[0])
	if err != nil {
		return nil, err
	}
	// nsenter with a network namespace alone does not fork: the new process is PID 1, becomes argv, and has
	// the PID that the caller sees.
	cmd := exec.Command(nsenter, full[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	return cmd, nil
}

// Clean removes what the site's processes leave outside their namespaces when they are killed: control
// groups on the machine, and in the site's network namespace the pods' bridge and kube-proxy's tables.
// Partitions stay as they are. It waits for processes that are still ending.
func Clean(ctx context.Context, p Plan, site string) error {
	s, err := p.Site(site)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	h, err := cgroupLayout()
	if err != nil {
		return err
	}
	if err := h.remove(ctx, cgroupName(p, site)); err != nil {
		return err
	}
	if !isNamespace(namespacePath(s.Namespace)) {
		return nil
	}
	return cleanNamespace(ctx, s)
}

// cleanNamespace removes all interfaces and tables of the site's network but our own.
func cleanNamespace(ctx context.Context, s SiteNet) error {
	out, err := run(ctx, "", inside(s.Namespace, "ip", "-oneline", "link", "show")...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		// "7: veth1a2b@if2: <BROADCAST…"
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
		if name == "lo" || name == uplink {
			continue
		}
		// A pod's interface vanishes by itself a moment after the pod, maybe just now.
		if err := removeLink(ctx, s.Namespace, name); err != nil {
			return err
		}
	}
	tables, err := run(ctx, "", inside(s.Namespace, "nft", "list", "tables")...)
	if err != nil {
		return err
	}
	script := ""
	for line := range strings.Lines(tables) {
		// "table ip kube-proxy"
		f := strings.Fields(line)
		if len(f) == 3 && f[2] != natTable && f[2] != cutTable {
			script += fmt.Sprintf("delete table %s %s\n", f[1], f[2])
		}
	}
	if script == "" {
		return nil
	}
	return nft(ctx, s.Namespace, script)
}

// Sweep removes what Clean and NetDown remove, of a lab of which nothing is known but its directory: its plan
// was lost with its state. Its processes must have ended.
func Sweep(ctx context.Context, dir string) error {
	p := Plan{Dir: dir}
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	var errs []error
	if h, err := cgroupLayout(); err == nil { // where there are no groups there is none to remove
		for _, m := range h.mounts {
			found, err := filepath.Glob(filepath.Join(m, cgroupName(p, "*")))
			errs = append(errs, err)
			for _, f := range found {
				errs = append(errs, h.remove(ctx, filepath.Base(f)))
			}
		}
	}
	namespaces, err := filepath.Glob(namespacePath(p.bridgeNS() + "*"))
	errs = append(errs, err)
	for _, n := range namespaces {
		errs = append(errs, removeNamespace(ctx, filepath.Base(n)))
	}
	errs = append(errs, removeLink(ctx, "", p.Interface()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep up after the lab that was in %s: %w", dir, err)
	}
	return nil
}

// Enter is the argv that runs argv among the processes of a running site, whose first process has the given
// PID on the machine: with the site's mounts, network, PIDs and host name.
func Enter(pid int, argv ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--"}, argv...)
}

// selfPath is the running program, which has to stay visible inside the site.
func selfPath() (string, error) {
	p, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running program: %w", err)
	}
	return p, nil
}
