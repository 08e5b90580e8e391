package procnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// mount is a directory or file of this machine that a container sees at a path of its own.
type mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// volumes are one pod's, as directories of this machine.
type volumes struct {
	base   string // where those that live and die with the pod are kept
	gid    int    // fsGroup, or -1
	tokens *tokenSource

	mu   sync.Mutex // guards dirs; one goroutine at a time prepares or refreshes
	dirs map[string]string
}

func (v *volumes) dir(name string) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dir, ok := v.dirs[name]
	return dir, ok
}

func (v *volumes) set(name, dir string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirs[name] = dir
}

// prepare makes every volume of the pod ready, or says what it waits for.
func (v *volumes) prepare(ctx context.Context, c *cluster, f podFacts) error {
	for i := range f.pod.Spec.Volumes {
		vol := &f.pod.Spec.Volumes[i]
		if _, done := v.dir(vol.Name); done || managed(vol) {
			continue
		}
		dir, owned, err := v.locate(c, f.pod, vol)
		if err != nil {
			return fmt.Errorf("volume %s: %w", vol.Name, err)
		}
		if owned && v.gid >= 0 {
			if err := v.group(f.pod, dir); err != nil {
				return fmt.Errorf("volume %s: giving it to group %d: %w", vol.Name, v.gid, err)
			}
		}
		v.set(vol.Name, dir)
	}
	_, err := v.refresh(ctx, c, f)
	return err
}

// refresh writes the managed volumes as their objects are now, and returns when a token wants
// renewing (zero: never).
func (v *volumes) refresh(ctx context.Context, c *cluster, f podFacts) (time.Time, error) {
	var renew time.Time
	var errs []error
	for i := range f.pod.Spec.Volumes {
		vol := &f.pod.Spec.Volumes[i]
		if !managed(vol) {
			continue
		}
		p, err := c.volumePayload(ctx, f, vol, v.tokens)
		if err == nil {
			dir := filepath.Join(v.base, vol.Name)
			if _, err = writeAtomicDir(dir, p.files, v.gid); err == nil {
				v.set(vol.Name, dir)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", vol.Name, err))
		}
		if !p.renew.IsZero() && (renew.IsZero() || p.renew.Before(renew)) {
			renew = p.renew
		}
	}
	return renew, errors.Join(errs...)
}

func (v *volumes) group(pod *corev1.Pod, dir string) error {
	sc := pod.Spec.SecurityContext
	if sc != nil && sc.FSGroupChangePolicy != nil && *sc.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch {
		if groupOf(dir) == v.gid {
			return nil
		}
	}
	return setGroup(dir, v.gid)
}

func groupOf(dir string) int {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return -1
	}
	return int(st.Gid)
}

// locate finds or makes the directory of a volume that the agent does not write; owned tells
// whether fsGroup applies to it.
func (v *volumes) locate(c *cluster, pod *corev1.Pod, vol *corev1.Volume) (dir string, owned bool, err error) {
	switch {
	case vol.EmptyDir != nil:
		dir = filepath.Join(v.base, vol.Name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return "", false, err
		}
		return dir, true, os.Chmod(dir, 0o777) // whatever the umask; any user of the pod may write
	case vol.HostPath != nil:
		return vol.HostPath.Path, false, hostPath(vol.HostPath)
	case vol.PersistentVolumeClaim != nil:
		dir, err := c.claimDir(pod.Namespace, vol.PersistentVolumeClaim.ClaimName)
		return dir, true, err
	case vol.Ephemeral != nil:
		dir, err := c.claimDir(pod.Namespace, pod.Name+"-"+vol.Name)
		return dir, true, err
	}
	return "", false, errors.New("process nodes know configMap, secret, downwardAPI, projected, emptyDir, hostPath and persistentVolumeClaim only")
}

func hostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(h.Path, 0o755)
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	info, err := os.Stat(h.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && kind == corev1.HostPathUnset:
		return os.MkdirAll(h.Path, 0o755) // as container runtimes do
	case err != nil:
		return err
	case kind == corev1.HostPathDirectory && !info.IsDir():
		return fmt.Errorf("%s is not a directory", h.Path)
	case kind == corev1.HostPathFile && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", h.Path)
	case kind == corev1.HostPathSocket && info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is not a socket", h.Path)
	}
	return nil
}

// claimDir is the directory behind a bound claim.
func (c *cluster) claimDir(namespace, name string) (string, error) {
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return "", err
	}
	if claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound {
		return "", fmt.Errorf("persistentvolumeclaim %q is not bound yet", name)
	}
	pv, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	switch {
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, os.MkdirAll(pv.Spec.HostPath.Path, 0o755)
	case pv.Spec.Local != nil:
		if _, err := os.Stat(pv.Spec.Local.Path); err != nil {
			return "", fmt.Errorf("persistentvolume %s: %w", pv.Name, err)
		}
		return pv.Spec.Local.Path, nil
	}
	return "", fmt.Errorf("persistentvolume %s is neither hostPath nor local", pv.Name)
}

// mounts lists what a container sees where, outer paths before those inside them.
func (v *volumes) mounts(pod *corev1.Pod, ctr *corev1.Container, env *environment) ([]mount, error) {
	out := make([]mount, 0, len(ctr.VolumeMounts))
	for i := range ctr.VolumeMounts {
		m := &ctr.VolumeMounts[i]
		dir, ok := v.dir(m.Name)
		if !ok {
			return nil, configError("volume %s is not ready", m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = env.expand(m.SubPathExpr)
		}
		source, err := subPath(dir, sub)
		if err != nil {
			return nil, configError("volume %s: %v", m.Name, err)
		}
		out = append(out, mount{Source: source, Target: path.Clean(m.MountPath), ReadOnly: m.ReadOnly || claimReadOnly(pod, m.Name)})
	}
	return sortMounts(out), nil
}

func claimReadOnly(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name == name {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
		}
	}
	return false
}

// subPath is a path inside a volume, made as a directory if it is not there.
func subPath(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q leads out of the volume", sub)
	}
	full := filepath.Join(dir, sub)
	if _, err := os.Lstat(full); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(full, 0o777); err != nil {
			return "", err
		}
	}
	real, err := filepath.EvalSymlinks(full)
	if err != nil {
		return "", err
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if real != root && !strings.HasPrefix(real, root+string(filepath.Separator)) {
		return "", fmt.Errorf("subPath %q leads out of the volume", sub)
	}
	return real, nil
}
