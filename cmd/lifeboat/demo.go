package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/report"
)

// What the demo promises and how it behaves; the objectives go into the fleet file that it writes.
const (
	demoApplication = "shop"
	demoHost        = "shop.lab.test"
	demoTTL         = 5 * time.Second
	demoRTO         = time.Minute
	demoRPO         = 30 * time.Second
	demoProbeEvery  = 50 * time.Millisecond
	demoTick        = 4 * time.Second // between backups, and from the last one to the loss
	// demoPatience is how long the outside probe has to fail before the site is taken for lost.
	demoPatience = 200 * time.Millisecond
)

type demoOptions struct {
	nodes  string
	rate   int
	keep   bool
	report string
	dir    string
}

func newDemo(g *global) *cobra.Command {
	o := demoOptions{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Lose a site on this machine and bring its application back at another",
		Long: `Demo starts two real Kubernetes sites on this machine, runs a shop that takes orders on one of them,
backs it up, kills the site (SIGKILL to all of its processes), recovers the shop at the other site, moves
its DNS record there, and reports the RTO and RPO that a client outside measured.

It runs the same commands that you would type, and prints each of them.`,
		Example: `  lifeboat demo
  lifeboat demo --keep            leaves the sites up, to explore them with kubectl
  lifeboat demo --nodes pods      real pods in containers (needs root, containerd and runc)
  lifeboat demo -o json           ends with one object that holds the figures`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runDemo(c.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.nodes, "nodes", "processes", "kind of node: processes (no root needed) or pods")
	f.IntVar(&o.rate, "rate", 20, "orders a second that the client sends")
	f.BoolVar(&o.keep, "keep", false, "leave the sites up at the end")
	f.StringVar(&o.report, "report", "lifeboat-demo.html", "where to write the report")
	f.StringVar(&o.dir, "dir", "", "where the lab, the vault and the logs go (default: a new directory, removed at the end unless --keep)")
	mustComplete(c.RegisterFlagCompletionFunc("nodes", cobra.FixedCompletions([]string{"processes", "pods"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// demo is one showing.
type demo struct {
	g    *global
	o    demoOptions
	s    *stage
	dir  string // of the demo's own files
	lab  labState
	from labSite
	to   labSite

	watcher *watcher
	load    *load
	events  []report.Event
	killed  time.Time
	gone    <-chan error // how the kill ended
}

func runDemo(ctx context.Context, g *global, o demoOptions) (err error) {
	if o.nodes != "processes" && o.nodes != "pods" {
		return dr.Errorf(dr.ClassUsage, nil, "Use --nodes processes or --nodes pods.", "unknown kind of node %q", o.nodes)
	}
	if o.rate < 1 || o.rate > 1000 {
		return dr.Errorf(dr.ClassUsage, nil, "Use --rate 20.", "a rate of %d orders a second is out of range (1 to 1000)", o.rate)
	}
	reportPath, err := filepath.Abs(o.report)
	if err != nil {
		return fmt.Errorf("find where the report goes: %w", err)
	}
	o.report = reportPath
	d := &demo{g: g, o: o, s: &stage{g: g}, dir: o.dir}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "lifeboat-demo-"); err != nil {
			return fmt.Errorf("make a directory for the demo: %w", err)
		}
	} else if d.dir, err = filepath.Abs(d.dir); err != nil {
		return fmt.Errorf("find the demo's directory: %w", err)
	} else if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("make the demo's directory: %w", err)
	} else if has, err := os.ReadDir(d.dir); err != nil || len(has) > 0 {
		return dr.Errorf(dr.ClassUsage, err, "Name a new one with --dir.", "the demo's directory %s is not empty", d.dir)
	}
	defer func() { err = errors.Join(err, d.end()) }()
	result, err := d.play(ctx)
	if err != nil {
		return err
	}
	return d.show(result)
}

// play is the story from the first process to the figures.
func (d *demo) play(ctx context.Context) (*demoResult, error) {
	for _, act := range []func(context.Context) error{d.raise, d.settle, d.protect, d.lose} {
		if err := act(ctx); err != nil {
			return nil, err
		}
	}
	fo, err := d.recover(ctx)
	if err != nil {
		return nil, err
	}
	return d.measure(ctx, fo)
}

func (d *demo) labDir() string { return filepath.Join(d.dir, "lab") }

// raise starts the two sites.
func (d *demo) raise(ctx context.Context) error {
	d.g.say("starting two Kubernetes sites on this machine")
	if err := d.s.json(ctx, &d.lab, "lifeboat-lab", "up", "--dir", d.labDir(), "--nodes", d.o.nodes, "-o", "json"); err != nil {
		return err
	}
	if len(d.lab.Sites) != 2 {
		return dr.Errorf(dr.ClassInternal, nil, "", "the lab has %d sites, not two", len(d.lab.Sites))
	}
	d.from, d.to = d.lab.Sites[0], d.lab.Sites[1]
	for _, n := range d.lab.Notes {
		d.g.say("note: %s", n)
	}
	return nil
}

// settle installs the application at the first site, writes the fleet file, and starts the outside world.
func (d *demo) settle(ctx context.Context) error {
	if _, err := d.s.run(ctx, "lifeboat-lab", "sample", d.from.Name, "--dir", d.labDir(), "--host", demoHost, "--ttl", demoTTL.String()); err != nil {
		return err
	}
	fleet := filepath.Join(d.dir, "fleet.yaml")
	d.s.env = append(d.s.env, "LIFEBOAT_FLEET="+fleet)
	args := []string{"init", "--namespace", demoApplication, "--preferred", d.from.Name,
		"--vault", filepath.Join(d.dir, "vault"), "--vault-key", filepath.Join(d.dir, "vault.key"),
		"--zone", d.lab.DNS.Zone, "--dns-server", d.lab.DNS.Server, "--dns-key", d.lab.DNS.KeyFile, "--ttl", demoTTL.String(),
		"--rto", demoRTO.String(), "--rpo", demoRPO.String(), "--probe", d.url() + "/healthz", "--probe-resolver", d.lab.Resolver,
		"--probe-ca", d.lab.CAFile, "--probe-site-header", "X-Shop-Site", "--out", fleet}
	for _, s := range d.lab.Sites {
		args = append(args, "--site", s.Name+"="+s.Kubeconfig, "--ingress", s.Name+"="+s.IngressAddress, "--registry", s.Name+"="+s.Registry)
	}
	if _, err := d.s.run(ctx, "lifeboat", args...); err != nil {
		return err
	}
	d.watcher = newWatcher(dr.Probe{Name: "outside", HTTP: &dr.HTTPProbe{URL: d.url() + "/healthz", Resolver: d.lab.Resolver,
		CAFile: d.lab.CAFile, Timeout: time.Second, SiteHeader: "X-Shop-Site"}}, demoProbeEvery)
	go d.watcher.run(ctx)
	if _, err := d.watcher.await(ctx, 30*time.Second, "the shop to answer from "+d.from.Name, d.from.Name, func(s seen) bool { return !s.FirstOK.IsZero() }); err != nil {
		return err
	}
	var err error
	d.load, err = d.s.startLoad(ctx, d.url(), d.lab.Resolver, d.lab.CAFile, d.ordersLog(), d.o.rate)
	return err
}

func (d *demo) url() string {
	if d.from.HTTPSPort != 443 {
		return fmt.Sprintf("https://%s:%d", demoHost, d.from.HTTPSPort)
	}
	return "https://" + demoHost
}

func (d *demo) ordersLog() string { return filepath.Join(d.dir, "orders.jsonl") }

// protect takes two recovery points under load; orders go on for a while after the last one.
func (d *demo) protect(ctx context.Context) error {
	for range 2 {
		if err := sleep(ctx, demoTick); err != nil {
			return err
		}
		began := time.Now()
		if _, err := d.s.run(ctx, "lifeboat", "backup", demoApplication, "-o", "json"); err != nil {
			return err
		}
		d.note("recovery point taken in "+time.Since(began).Round(time.Millisecond).String(), time.Now())
	}
	return sleep(ctx, demoTick)
}

// lose kills the site and waits until the outside probe says so, as somebody would who knows of nothing.
func (d *demo) lose(ctx context.Context) error {
	d.killed = time.Now()
	d.note(d.from.Name+" killed", d.killed)
	ended := make(chan error, 1)
	go func() {
		_, err := d.s.run(ctx, "lifeboat-lab", "kill", d.from.Name, "--dir", d.labDir())
		ended <- err
	}()
	s, err := d.watcher.await(ctx, 10*time.Second, "the outside probe to notice the loss", d.from.Name, func(s seen) bool {
		return !s.Failing.IsZero() && time.Since(s.Failing) > demoPatience
	})
	if err != nil {
		return errors.Join(err, <-ended)
	}
	d.note("first probe failed", s.Failing)
	d.g.say("the outside probe fails since %s: taking %s for lost", s.Failing.Format("15:04:05.000"), d.from.Name)
	// The kill goes on to show that nothing of the site is left; the failover need not wait for that.
	d.gone = ended
	return nil
}

// recover runs the failover and waits until the outside probe sees the new site.
func (d *demo) recover(ctx context.Context) (*failoverResult, error) {
	var fo failoverResult
	reason := "demo: every process of " + d.from.Name + " was killed with SIGKILL"
	if err := d.s.json(ctx, &fo, "lifeboat", "failover", demoApplication, "--to", d.to.Name, "--yes", "--break-glass", reason, "-o", "json"); err != nil {
		return nil, err
	}
	s, err := d.watcher.await(ctx, 2*demoTTL+10*time.Second, "the shop to answer from "+d.to.Name, d.to.Name, func(s seen) bool { return !s.FirstOK.IsZero() })
	if err != nil {
		return nil, err
	}
	if err := <-d.gone; err != nil {
		return nil, err
	}
	d.note("first answer from "+d.to.Name, s.FirstOK)
	d.g.say("the shop answers from %s", d.to.Name)
	// The client goes on for a moment, so that orders taken at the new site are among those read back.
	if err := sleep(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	return &fo, d.load.stop()
}

func (d *demo) note(what string, at time.Time) {
	d.events = append(d.events, report.Event{Label: what, Time: at})
}

// end leaves nothing behind, unless the sites are to be kept. It also runs after a failure or Ctrl-C, so
// it has a deadline of its own.
func (d *demo) end() error {
	if d.load != nil && d.load.cmd.ProcessState == nil {
		_ = d.load.cmd.Process.Kill() // already gone is fine
	}
	if d.o.keep {
		d.explainKept()
		return nil
	}
	// The command's context may be done by now; the clean-up is bounded on its own.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := d.s.run(ctx, "lifeboat-lab", "down", "--dir", d.labDir()); err != nil {
		return dr.Errorf(dr.ClassIncomplete, err, "Run: lifeboat-lab down --dir "+d.labDir(), "the lab was not taken down")
	}
	if d.o.dir == "" {
		if err := os.RemoveAll(d.dir); err != nil {
			return fmt.Errorf("remove the demo's directory: %w", err)
		}
	}
	return nil
}

func (d *demo) explainKept() {
	if d.from.Name == "" {
		return
	}
	d.g.say("the sites are still up. To look around:")
	for _, s := range d.lab.Sites {
		d.g.say("    kubectl --kubeconfig %s get pods -A", s.Kubeconfig)
	}
	d.g.say("    export LIFEBOAT_FLEET=%s; lifeboat status", filepath.Join(d.dir, "fleet.yaml"))
	d.g.say("    lifeboat-lab start %s --dir %s", d.from.Name, d.labDir())
	d.g.say("    lifeboat-lab down --dir %s && rm -r %s", d.labDir(), d.dir)
}

func sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return dr.Errorf(dr.ClassInterrupted, context.Cause(ctx), "", "interrupted")
	case <-time.After(t):
		return nil
	}
}

// show prints the result and writes the report; an unverified showing is an error.
func (d *demo) show(r *demoResult) error {
	page, err := os.Create(d.o.report)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	err = errors.Join(report.HTML(page, r.view), page.Close())
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	r.Report = d.o.report
	if err := d.g.print(r, func(w io.Writer) error {
		if err := report.Text(w, r.view); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "\nreport: %s\n", r.Report)
		return err
	}); err != nil {
		return err
	}
	if !r.Verified {
		return dr.Errorf(dr.ClassIncomplete, nil, "", "the recovery was not verified: %v", r.Problems)
	}
	return nil
}

// verifyOrders reads every acknowledged order back, through DNS and the router.
func (d *demo) verifyOrders(ctx context.Context) (*ordersFound, error) {
	out, err := d.s.run(ctx, "shop", "verify", "--url", d.url(), "--resolver", d.lab.Resolver, "--ca", d.lab.CAFile, "--log", d.ordersLog(), "-o", "json")
	if err != nil {
		return nil, err
	}
	var found ordersFound
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("read what `shop verify` printed: %w", err)
	}
	return &found, nil
}
