package podnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/internal/dr"
)

// cniDirs are where distributions put the CNI plugins, Debian's first.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// preflightLimit bounds the trial of what the kernel can do.
const preflightLimit = 20 * time.Second

// programs that a node needs, with Debian's package of each.
func programs() [][2]string {
	return [][2]string{
		{"containerd", "containerd"},
		{"containerd-shim-runc-v2", "containerd"},
		{"runc", "runc"},
		{"ip", "iproute2"},
		{"nft", "nftables"},
		{"nsenter", "util-linux"},
		{"unshare", "util-linux"},
		{"mount", "mount"}, // kubelet calls it
	}
}

// Preflight says whether this machine can run nodes of real pods, and if not, everything that is missing,
// each with its remedy.
func Preflight() error {
	if os.Geteuid() != 0 {
		return dr.Errorf(dr.ClassUsage, nil,
			"Run it as root (sudo), or use --nodes processes, which needs no rights.",
			"nodes of real pods need root: namespaces, mounts and control groups are made")
	}
	if err := missingPrograms(lookPath, cniDir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), preflightLimit) // asked for before any work has begun
	defer cancel()
	if errs := missingFeatures(ctx); len(errs) > 0 {
		return dr.Errorf(dr.ClassUsage, errors.Join(errs...),
			"Use --nodes processes on this machine, or a kernel and a machine that allow it.",
			"this machine cannot run nodes of real pods")
	}
	return nil
}

// missingPrograms names what is not found, and the command that installs it.
func missingPrograms(find func(string) (string, error), plugins func() (string, error)) error {
	var missing, packages []string
	lack := func(what, pkg string) {
		missing = append(missing, what)
		if !strings.Contains(" "+strings.Join(packages, " ")+" ", " "+pkg+" ") {
			packages = append(packages, pkg)
		}
	}
	for _, p := range programs() {
		if _, err := find(p[0]); err != nil {
			lack(p[0], p[1])
		}
	}
	if _, err := plugins(); err != nil {
		lack("the CNI plugins bridge, host-local and loopback", "containernetworking-plugins")
	}
	if len(missing) == 0 {
		return nil
	}
	return dr.Errorf(dr.ClassUsage, nil,
		"Install them: apt-get install -y "+strings.Join(packages, " ")+".",
		"nodes of real pods need programs that are not here: %s", strings.Join(missing, ", "))
}

// searchPath is where a node's programs look for each other; an administrator's shell may lack the sbin ones.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w in %s", name, exec.ErrNotFound, searchPath)
}

// cniDir finds the directory of the CNI plugins that a node needs.
func cniDir() (string, error) {
next:
	for _, dir := range cniDirs {
		for _, plugin := range []string{"bridge", "host-local", "loopback"} {
			if _, err := exec.LookPath(filepath.Join(dir, plugin)); err != nil {
				continue next
			}
		}
		return dir, nil
	}
	return "", fmt.Errorf("no CNI plugins in %s", strings.Join(cniDirs, ", "))
}

// missingFeatures tries what the kernel must do, in namespaces that vanish again.
func missingFeatures(ctx context.Context) []error {
	var errs []error
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		errs = append(errs, fmt.Errorf("read the kernel's filesystems: %w", err))
	}
	if !strings.Contains(string(filesystems), "\tcgroup") {
		errs = append(errs, errors.New("the kernel has no control groups"))
	}
	if _, err := cgroupLayout(); err != nil {
		errs = append(errs, err)
	}
	trials := []struct{ need, script string }{
		{"network, mount and PID namespaces", "true"},
		{"veth interfaces and bridges (modules veth, bridge)", "ip link add br0 type bridge && ip link add eth0 type veth peer name port0 && ip link set port0 master br0"},
		{"nftables with NAT and the netdev egress hook (Linux 5.16 or later)", "ip link add eth0 type veth peer name port0 && nft -f - <<E\n" + cutBase +
			"add table ip t\nadd chain ip t o { type nat hook postrouting priority srcnat; }\nadd rule ip t o masquerade\nE"},
	}
	for _, t := range trials {
		if _, err := run(ctx, "", "unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "sh", "-ec", t.script); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.need, err))
		}
	}
	return errs
}

// overlayWorks says whether dir can hold the layers of an overlay, which it cannot where it lies on an
// overlay itself.
func overlayWorks(dir string) bool {
	top, err := os.MkdirTemp(dir, "overlay-")
	if err != nil {
		return false
	}
	defer func() { _ = os.RemoveAll(top) }() // it holds nothing that anybody needs
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			return false
		}
	}
	merged := filepath.Join(top, "merged")
	data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", top)
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		return false
	}
	return unix.Unmount(merged, unix.MNT_DETACH) == nil
}
