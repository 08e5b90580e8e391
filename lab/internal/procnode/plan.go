package procnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	osuser "os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// plan is all that is needed to run a container's program, or another command beside it.
type plan struct {
	argv     []string
	env      *environment
	dir      string
	hostname string
	mounts   []mount // none when pods share the machine's files
	rewrite  rewriter
	user     *user // nil: the agent's
	stop     syscall.Signal
	marks    []string // the settings that tell this container's processes from all others
	prog     Program
	message  string // the file behind terminationMessagePath
}

// nobody runs what must not run as root and names no user.
const nobody = 65534

// newPlan works out how to run a container now: its image's program, its environment, its mounts.
func (a *agent) newPlan(p *podRun, ctr *corev1.Container, dir string) (*plan, error) {
	prog, ok := a.opts.Programs[programKey(ctr.Image)]
	if !ok {
		return nil, &waiting{reason: reasonImage, message: fmt.Sprintf(
			"image %q stands for no program of this machine; nodes of processes know %s", ctr.Image, strings.Join(a.programNames(), ", "))}
	}
	f := p.facts()
	env, err := a.cluster.containerEnv(f, ctr, prog, a.opts.Dir)
	if err != nil {
		return nil, err
	}
	pl := &plan{env: env, hostname: hostname(f.pod), prog: prog, stop: prog.StopSignal, message: filepath.Join(dir, "termination-log")}
	if pl.stop == 0 {
		pl.stop = syscall.SIGTERM
	}
	for _, name := range []string{envNode, envPod, envContainer} {
		value, _ := env.lookup(name)
		pl.marks = append(pl.marks, name+"="+value)
	}
	if pl.user, err = a.userFor(f.pod, ctr, prog); err != nil {
		return nil, configError("%v", err)
	}
	work := filepath.Join(dir, "work")
	if err := pl.scratch(work); err != nil {
		return nil, err
	}
	if err := a.planFiles(pl, p, f, ctr, work); err != nil {
		return nil, err
	}
	if v, _ := env.lookup("HOME"); v == "/" {
		env.set("HOME", work) // a home that may be written to, and not the machine's root
	}
	return pl, pl.command(ctr)
}

// planFiles settles mounts or rewriting, and the working directory.
func (a *agent) planFiles(pl *plan, p *podRun, f podFacts, ctr *corev1.Container, work string) error {
	mounts, err := p.volumes.mounts(f.pod, ctr, pl.env)
	if err != nil {
		return err
	}
	message := ctr.TerminationMessagePath
	if message == "" {
		message = corev1.TerminationMessagePathDefault
	}
	rules := []rewrite{{from: path.Clean(message), to: pl.message}}
	pl.dir = ctr.WorkingDir
	if pl.dir == "" {
		pl.dir = work
	}
	inMount := false
	for _, m := range mounts {
		inMount = inMount || pl.dir == m.Target || strings.HasPrefix(pl.dir, m.Target+"/")
	}
	_, statErr := os.Stat(pl.dir)
	missing := !inMount && errors.Is(statErr, fs.ErrNotExist) // as a directory inside an image would be
	if a.isolation != Shared {
		if missing {
			mounts = sortMounts(append(mounts, mount{Source: work, Target: path.Clean(pl.dir)}))
		}
		pl.mounts = append(a.hosts.mounts(f.pod.Namespace), mounts...)
		pl.rewrite = newRewriter(rules)
	} else {
		for _, m := range mounts {
			rules = append(rules, rewrite{from: m.Target, to: m.Source})
		}
		pl.rewrite = newRewriter(rules)
		if missing {
			pl.dir = work
		}
		pl.dir = pl.rewrite.apply(pl.dir)
	}
	for _, name := range pl.env.names {
		if !strings.HasPrefix(name, "LIFEBOAT_LAB") {
			pl.env.values[name] = pl.rewrite.apply(pl.env.values[name])
		}
	}
	return nil
}

// scratch makes the container's working directory and an empty termination message.
func (pl *plan) scratch(work string) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return fmt.Errorf("creating a container's directory: %w", err)
	}
	if err := os.WriteFile(pl.message, nil, 0o666); err != nil {
		return fmt.Errorf("creating a container's termination message: %w", err)
	}
	if pl.user == nil {
		return nil
	}
	for _, p := range []string{work, pl.message} {
		if err := os.Chown(p, pl.user.UID, pl.user.GID); err != nil {
			return fmt.Errorf("giving a container its directory: %w", err)
		}
	}
	return nil
}

// command settles the program's arguments: the container's command and args over the image's.
func (pl *plan) command(ctr *corev1.Container) error {
	command, args := pl.env.expandAll(ctr.Command), pl.env.expandAll(ctr.Args)
	entry := pl.prog.Entrypoint
	if len(command) == 0 {
		command = entry
		if len(args) == 0 {
			args = pl.prog.Cmd
		}
	}
	argv := append(append([]string{}, command...), args...)
	if len(argv) == 0 {
		return &waiting{reason: "CreateContainerError", message: "no command specified"}
	}
	// A command that names the image's own program again wants to be told where to listen, too.
	if len(entry) > 0 && filepath.Base(argv[0]) == filepath.Base(entry[0]) {
		argv = append(argv, pl.env.expandAll(pl.prog.Address)...)
	}
	var err error
	pl.argv, err = pl.resolve(argv)
	return err
}

// resolve rewrites a command for this machine and finds its program.
func (pl *plan) resolve(argv []string) ([]string, error) {
	if len(argv) == 0 {
		return nil, errors.New("no command given")
	}
	out := pl.rewrite.applyAll(argv)
	name := out[0]
	switch {
	case strings.HasPrefix(name, "/"):
		if _, err := os.Stat(name); err == nil || pl.mounted(name) {
			return out, nil
		}
		name = filepath.Base(name) // where images keep it; here it is elsewhere
	case strings.Contains(name, "/"):
		return out, nil // relative to the working directory
	}
	if len(pl.prog.Entrypoint) > 0 && filepath.Base(pl.prog.Entrypoint[0]) == name {
		out[0] = pl.prog.Entrypoint[0]
		return out, nil
	}
	search := pl.prog.Path
	if name == argv[0] {
		p, _ := pl.env.lookup("PATH")
		search = filepath.SplitList(p)
	}
	for _, dir := range search {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			out[0] = file
			return out, nil
		}
	}
	return nil, fmt.Errorf("exec: %q: %w", argv[0], exec.ErrNotFound)
}

func (pl *plan) mounted(name string) bool {
	for _, m := range pl.mounts {
		if strings.HasPrefix(name, m.Target+"/") {
			return true
		}
	}
	return false
}

// userFor is who runs a container: only root can choose.
func (a *agent) userFor(pod *corev1.Pod, ctr *corev1.Container, prog Program) (*user, error) {
	if !a.root {
		return nil, nil
	}
	var uid, gid *int64
	nonRoot := false
	var groups []int
	if sc := pod.Spec.SecurityContext; sc != nil {
		uid, gid = sc.RunAsUser, sc.RunAsGroup
		nonRoot = sc.RunAsNonRoot != nil && *sc.RunAsNonRoot
		for _, g := range sc.SupplementalGroups {
			groups = append(groups, int(g))
		}
		if sc.FSGroup != nil {
			groups = append(groups, int(*sc.FSGroup))
		}
	}
	if sc := ctr.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			uid = sc.RunAsUser
		}
		if sc.RunAsGroup != nil {
			gid = sc.RunAsGroup
		}
		if sc.RunAsNonRoot != nil {
			nonRoot = *sc.RunAsNonRoot
		}
	}
	u := &user{GID: -1}
	switch {
	case uid != nil:
		u.UID = int(*uid)
	case prog.User != "":
		id, group, err := lookUpUser(prog.User)
		if err != nil {
			return nil, err
		}
		u.UID, u.GID = id, group
	case nonRoot:
		u.UID, u.GID = nobody, nobody
	case gid == nil && len(groups) == 0:
		return nil, nil
	}
	if nonRoot && u.UID == 0 {
		return nil, errors.New("container has runAsNonRoot and would run as root")
	}
	if gid != nil {
		u.GID = int(*gid)
	}
	if u.GID < 0 {
		u.GID = 0 // as container runtimes do for a user they do not know
	}
	u.Groups = append(groups, u.GID)
	return u, nil
}

func lookUpUser(name string) (uid, gid int, err error) {
	u, err := osuser.Lookup(name)
	if err != nil {
		if u, err = osuser.LookupId(name); err != nil {
			if n, numErr := strconv.Atoi(name); numErr == nil {
				return n, 0, nil
			}
			return 0, 0, fmt.Errorf("user %q of the image's program: %w", name, err)
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}
