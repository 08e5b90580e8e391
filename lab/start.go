package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/agent"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
	"lifeboat.dev/lifeboat/lab/internal/topology"
)

// Limits of a start, generous: a slow machine is slow and not broken.
const (
	siteWithin  = 3 * time.Minute
	worldWithin = 30 * time.Second
	waitPause   = 50 * time.Millisecond
	sayEvery    = 3 * time.Second
)

// Start starts a site that does not run, with the data it had, and returns when it is ready.
func (l *Lab) Start(ctx context.Context, name string, progress func(string)) error {
	progress = oneAtATime(progress)
	lk, err := acquire(ctx, l.dir)
	if err != nil {
		return err
	}
	defer lk.f.Close()
	st, err := l.State()
	if err != nil {
		return err
	}
	s, err := find(st, name)
	if err != nil {
		return err
	}
	if s.State == state.Running {
		progress("site " + name + " is already running")
		return nil
	}
	var isolation site.Isolation
	if st.Nodes == state.Processes {
		isolation = site.DetectIsolation(ctx, st.Binaries.Self)
	} else if err := podnode.NetUp(ctx, topology.PodPlan(st)); err != nil {
		return err
	}
	status, err := l.startSite(ctx, st, name, isolation, progress)
	if err != nil {
		return errors.Join(err, l.endSite(ctx, st, name))
	}
	fill(s, status)
	return state.Save(st)
}

// startSite starts a site's first process and waits until the site is ready.
func (l *Lab) startSite(ctx context.Context, st *State, name string, isolation site.Isolation, progress func(string)) (agent.SiteStatus, error) {
	cfg, err := agent.ClusterConfig(st, name)
	if err != nil {
		return agent.SiteStatus{}, err
	}
	if err := cfg.Prepare(); err != nil {
		return agent.SiteStatus{}, err
	}
	if err := l.sweep(ctx, st, name); err != nil {
		return agent.SiteStatus{}, err
	}
	began := time.Now()
	ref, err := l.launch(ctx, st, name, isolation)
	if err != nil {
		return agent.SiteStatus{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, siteWithin, fmt.Errorf("it was not ready within %s", siteWithin))
	defer cancel()
	said, waiting := time.Now(), ""
	for {
		status, err := agent.ReadSiteStatus(cfg.Site)
		switch {
		case err != nil:
			return status, err
		case status.Ready:
			progress(fmt.Sprintf("site %s is ready after %s", name, time.Since(began).Round(100*time.Millisecond)))
			return status, nil
		case status.Failed != "":
			return status, startFailed(l.part(name), errors.New(status.Failed))
		case !ref.Alive():
			return status, startFailed(l.part(name), errors.New("its first process ended"))
		}
		if now := strings.Join(status.Waiting, ", "); now != waiting || time.Since(said) > sayEvery {
			if now != "" && time.Since(said) > sayEvery {
				progress(fmt.Sprintf("site %s: waiting for %s", name, now))
				said = time.Now()
			}
			waiting = now
		}
		select {
		case <-ctx.Done():
			return status, startFailed(l.part(name), fmt.Errorf("%w (waiting for %s)", context.Cause(ctx), waiting))
		case <-time.After(waitPause):
		}
	}
}

// sweep ends what a crash may have left of a site or of the world that is to start.
func (l *Lab) sweep(ctx context.Context, st *State, name string) error {
	if l.ref(name) == (site.Ref{}) {
		return nil // it never ran
	}
	if name != state.World {
		return l.endSite(ctx, st, name)
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	return site.End(ctx, st.Dir, name, l.ref(name))
}

// startWorld starts DNS and the resolver if they do not run, and waits until they serve.
func (l *Lab) startWorld(ctx context.Context, st *State) (agent.WorldStatus, error) {
	ref := l.ref(state.World)
	if !ref.Alive() {
		err := l.sweep(ctx, st, state.World)
		if err != nil {
			return agent.WorldStatus{}, err
		}
		if ref, err = l.launch(ctx, st, state.World, site.ProcessGroups); err != nil {
			return agent.WorldStatus{}, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, worldWithin, fmt.Errorf("they did not serve within %s", worldWithin))
	defer cancel()
	for {
		w, err := agent.ReadWorldStatus(l.dir.World())
		switch {
		case err != nil:
			return w, err
		case w.Ready:
			return w, nil
		case w.Failed != "":
			return w, startFailed(l.part(state.World), errors.New(w.Failed))
		case !ref.Alive():
			return w, startFailed(l.part(state.World), errors.New("the process ended"))
		}
		select {
		case <-ctx.Done():
			return w, startFailed(l.part(state.World), context.Cause(ctx))
		case <-time.After(waitPause):
		}
	}
}

// launch starts the first process of a site or of the world and notes which it is.
func (l *Lab) launch(ctx context.Context, st *State, name string, isolation site.Isolation) (site.Ref, error) {
	part := l.part(name)
	if err := os.Remove(part.Status()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return site.Ref{}, fmt.Errorf("start %s: %w", name, err)
	}
	launch := site.Launch{
		Argv:      []string{st.Binaries.Self, site.CmdInit, name, "--dir", st.Dir},
		Dir:       st.Dir,
		Site:      name,
		Log:       part.Log("init"),
		Isolation: isolation,
	}
	if st.Nodes == state.Pods && name != state.World {
		plan := topology.PodPlan(st)
		if err := podnode.Connect(ctx, plan, name); err != nil {
			return site.Ref{}, err
		}
		cmd, err := podnode.Command(plan, name, launch.Argv...)
		if err != nil {
			return site.Ref{}, err
		}
		launch.Command = cmd
	}
	ref, err := launch.Start()
	if err != nil {
		return site.Ref{}, err
	}
	return ref, state.WriteJSON(part.Init(), ref)
}

// startFailed says why, with the last lines of the logs that are likely to tell more.
func startFailed(part layout.Site, why error) error {
	what := "site " + part.Name()
	if part.Name() == state.World {
		what = "DNS or the resolver"
	}
	var said []error
	for _, d := range []string{"init", agent.CmdSiteAgent, agent.CmdWorld} {
		if tail := lastLines(part.Log(d), 3); tail != "" {
			said = append(said, fmt.Errorf("%s says:\n%s", part.Log(d), tail))
		}
	}
	return dr.Errorf(dr.ClassInternal, errors.Join(append([]error{why}, said...)...),
		"Look into the logs in "+part.Logs()+"; lifeboat-lab down removes what is left.", "%s did not start", what)
}

// lastLines returns the end of a file; empty if there is none.
func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
