package podnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Prepare makes the namespaces that Command gave the calling process a node of its own. It is the first
// thing that the first process of a site does.
func Prepare(n Node) error {
	if _, err := n.check(); err != nil {
		return err
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("prepare the node of site %s: the process is not the first of a PID namespace, as Command makes it", n.Site)
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"make its directory", func() error { return os.MkdirAll(n.Dir, 0o700) }},
		// Before any other: a mount must not show on the machine.
		{"part its mounts from the machine's", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"make its control groups", n.makeGroups},
		{"mount /proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"cover the machine's directories", n.coverDirs},
		{"put its own directories in their places", n.bindDirs},
		{"show its own resolver", n.bindResolvConf},
		{"hide the machine's settings", n.bindSettings},
		{"set its host name", func() error { return unix.Sethostname([]byte(n.Site)) }},
		// Containers see mounts that kubelet makes after they have started.
		{"share its mounts with its containers", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }},
		{"forward packets", func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("prepare the node of site %s: %s: %w", n.Site, s.what, err)
		}
	}
	return nil
}

func (n Node) makeGroups() error {
	h, err := cgroupLayout()
	if err != nil {
		return err
	}
	return h.make(n.cgroup())
}

// coverDirs gives the site empty directories where the node's programs insist on theirs, so that it neither
// sees nor makes any of the machine's. What the lab itself has below one of them stays visible.
func (n Node) coverDirs() error {
	self, err := selfPath()
	if err != nil {
		return err
	}
	keep := append([]string{n.Plan.Dir, n.Dir, n.Kube, self}, n.Keep...)
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := cover(dir, keep); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/containerd", netnsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// cover mounts an empty filesystem over dir and shows those of the paths in keep again that were below it.
func cover(dir string, keep []string) error {
	type held struct {
		path string
		fd   int
		dir  bool
	}
	var kept []held
	defer func() {
		for _, h := range kept {
			_ = unix.Close(h.fd) // an O_PATH descriptor: closing it writes nothing
		}
	}()
	for _, path := range keep {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(path, dir+"/") {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		kept = append(kept, held{path, fd, info.IsDir()})
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount an empty %s: %w", dir, err)
	}
	for _, h := range kept {
		if err := mountPoint(h.path, h.dir); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", h.fd), h.path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("show %s again: %w", h.path, err)
		}
	}
	return nil
}

// mountPoint makes sure that there is something to mount on.
func mountPoint(path string, dir bool) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// bindDirs puts directories of the site's, which outlive it, where the programs look for them.
func (n Node) bindDirs() error {
	for from, to := range map[string]string{
		"kubelet":        "/var/lib/kubelet",
		"cni":            "/var/lib/cni",
		"log/pods":       "/var/log/pods",
		"log/containers": "/var/log/containers",
	} {
		for _, dir := range []string{n.path(from), to} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := bind(n.path(from), to); err != nil {
			return err
		}
	}
	return os.MkdirAll(n.path("containerd"), 0o711)
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	return nil
}

// bindResolvConf makes the programs of the site ask the lab's resolver: the machine's cannot be reached from
// there, and knows nothing of the lab.
func (n Node) bindResolvConf() error {
	own := n.path("resolv.conf")
	if err := os.WriteFile(own, fmt.Appendf(nil, "nameserver %s\n", n.Plan.ResolverAddr()), 0o644); err != nil {
		return err
	}
	at := "/etc/resolv.conf"
	if target, err := os.Readlink(at); err == nil {
		// Often a link into /run, which is empty now.
		if at = target; !filepath.IsAbs(at) {
			at = filepath.Join("/etc", at)
		}
		if strings.HasPrefix(at, "/run/") {
			if err := mountPoint(at, false); err != nil {
				return err
			}
		}
	}
	if err := bind(own, at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// bindSettings shows kubelet the values of settings it wants, which are the whole machine's, so that it
// leaves those alone.
func (n Node) bindSettings() error {
	dir := n.path("settings")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		real := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		shown := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(shown, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := bind(shown, real); err != nil {
			return err
		}
	}
	return nil
}
