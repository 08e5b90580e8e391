package wire

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/run"
)

// probeEvery paces the tries of a probe step.
const probeEvery = 100 * time.Millisecond

// cutover holds the handlers of the steps that move an application's traffic and look at it from outside.
type cutover struct{ *Operation }

// record is what a host of the application shall answer when it is served from a site.
func (o cutover) record(ctx context.Context, p dr.SwitchTraffic) (dr.TrafficRef, driver.Record, error) {
	i := slices.IndexFunc(o.app.Traffic, func(t dr.TrafficRef) bool { return t.Host == p.Host })
	if i < 0 {
		return dr.TrafficRef{}, driver.Record{}, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Declare it in the fleet file.", "application %s has no host %s", o.app.Name, p.Host)
	}
	t := o.app.Traffic[i]
	rec := driver.Record{}
	if t.DNS != nil {
		rec.TTL = t.DNS.TTL
	}
	if t.Service != nil {
		client, err := o.connect(ctx, p.Site)
		if err != nil {
			return t, rec, err
		}
		rec.Addresses, err = kube.LoadBalancerAddresses(ctx, client, *t.Service)
		return t, rec, err
	}
	site, ok := o.fleet.Site(p.Site)
	if !ok || net.ParseIP(site.Ingress.Address) == nil {
		return dr.TrafficRef{}, driver.Record{}, dr.Errorf(dr.ClassUsage, nil, "Add ingress: {address: …} to it in the fleet file.", "site %s does not say where its router answers", p.Site)
	}
	rec.Addresses = []string{site.Ingress.Address}
	return t, rec, nil
}

func (o cutover) trafficSwitched(ctx context.Context, _ run.StepContext, p dr.SwitchTraffic) (*run.Result, error) {
	t, want, err := o.record(ctx, p)
	if err != nil {
		return nil, err
	}
	d, err := o.traffic(t)
	if err != nil {
		return nil, err
	}
	is, err := d.Inspect(ctx, p.Host)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(is.Addresses, want.Addresses) {
		return nil, nil
	}
	return &run.Result{Outcome: dr.OutcomeDone, Reason: "was switched already", Output: dr.TrafficOutput{Host: p.Host, After: is.Addresses, TTL: is.TTL, Changed: time.Now().UTC()}}, nil
}

func (o cutover) switchTraffic(ctx context.Context, _ run.StepContext, p dr.SwitchTraffic) (run.Result, error) {
	t, to, err := o.record(ctx, p)
	if err != nil {
		return run.Result{}, err
	}
	d, err := o.traffic(t)
	if err != nil {
		return run.Result{}, err
	}
	from, err := d.Inspect(ctx, p.Host)
	if err != nil {
		return run.Result{}, err
	}
	out, err := d.Switch(ctx, p.Host, from, to)
	if err != nil {
		return run.Result{}, err
	}
	return done(out)
}

// probe asks until a good answer comes from the right site; the step's deadline bounds it.
func (o cutover) probe(ctx context.Context, sc run.StepContext, p dr.ProbeFromOutside) (run.Result, error) {
	i := slices.IndexFunc(o.app.Probes, func(q dr.Probe) bool { return q.Name == p.Probe })
	if i < 0 {
		return run.Result{}, dr.Errorf(dr.ClassUsage, dr.ErrNotFound, "Declare it in the fleet file.", "application %s has no probe %s", o.app.Name, p.Probe)
	}
	prober := Prober()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for try := 1; ; try++ {
		r := prober.Probe(ctx, o.app.Probes[i])
		if r.Err == nil && (r.Site == "" || r.Site == p.Site) {
			return done(dr.ProbeOutput{Tries: try, FirstOK: r.Time.UTC(), Site: r.Site})
		}
		last := fmt.Sprintf("site %s still answers", r.Site)
		if r.Err != nil {
			last = r.Err.Error()
		}
		if try%20 == 0 {
			sc.Progress("no answer from " + p.Site + " yet: " + last)
		}
		select {
		case <-ctx.Done():
			return run.Result{}, fmt.Errorf("wait for probe %s to be answered by %s (last: %s): %w", p.Probe, p.Site, last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
