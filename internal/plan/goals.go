package plan

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Deadlines of the steps, retries included. They bound a run that hangs; they do not pace one that works.
const (
	fenceDeadline   = 2 * time.Minute
	claimDeadline   = time.Minute
	captureDeadline = 10 * time.Minute
	dataDeadline    = 2 * time.Hour
	sealDeadline    = time.Minute
	restoreDeadline = 10 * time.Minute
	readyDeadline   = 15 * time.Minute
	trafficDeadline = 2 * time.Minute
	probeDeadline   = 5 * time.Minute // and the longest TTL on top
	hookStart       = 3 * time.Minute // for a hook's pod to start; its own time-out comes on top
)

// The ids of the steps that a plan has once.
const (
	idFence      = "fence-old-site"
	idClaim      = "claim-ownership"
	idCapture    = "capture-state"
	idSeal       = "seal-recovery-point"
	idFoundation = "restore-foundation"
	idWorkloads  = "restore-workloads"
	idReady      = "await-ready"
	idCutover    = "start-schedules"
)

func (b *builder) backup() error {
	if b.request.To != "" || b.request.Point != (PointRef{}) || b.request.BreakGlass != "" {
		return dr.Errorf(dr.ClassUsage, nil, "Leave them out.", "a backup takes no target, recovery point or break-glass reason")
	}
	if err := b.mustReach(b.owner); err != nil {
		return err
	}
	b.plan.From = b.owner
	name := b.app().Name
	parts := []string{b.step(idCapture, "Capture the cluster state of "+name+" at "+b.owner, captureDeadline, dr.Capture{Site: b.owner})}
	for _, ds := range b.app().Data {
		id := b.step("protect-data-"+ds.Name, "Copy "+ds.Name+" of "+name+" at "+b.owner+" into the vault", dataDeadline,
			dr.ProtectData{Site: b.owner, Datastore: ds.Name})
		parts = append(parts, id)
	}
	b.step(idSeal, "Seal the recovery point of "+name, sealDeadline, dr.SealPoint{Site: b.owner}, parts...)
	return nil
}

func (b *builder) failover() error {
	to, err := b.target()
	if err != nil {
		return err
	}
	if err := b.sourceFenceable(to); err != nil {
		return err
	}
	point, err := choice{b}.choosePoint()
	if err != nil {
		return err
	}
	if err := b.classesFit(point, to); err != nil {
		return err
	}
	if err := b.trafficFits(to); err != nil {
		return err
	}
	b.plan.From, b.plan.To = b.owner, to
	b.scope().describeRestoring()
	name := b.app().Name
	fence := b.step(idFence, "Fence "+name+" at "+b.owner, fenceDeadline, dr.FenceSite{Site: b.owner, BreakGlass: b.request.BreakGlass})
	claim := b.step(idClaim, "Claim "+name+" for "+to, claimDeadline, dr.Claim{Site: to}, fence)
	ready := b.bringBack(point, to, claim)
	switched := b.traffic(to, ready)
	needs := []string{ready}
	for _, t := range b.app().Traffic {
		needs = append(needs, switched[t.Host])
	}
	b.release(point, to, needs...)
	b.probes(to, switched, ready)
	return nil
}

// release adds the step that lets act what acts by itself, once everything else is where it belongs.
func (b *builder) release(point Point, to string, needs ...string) {
	b.step(idCutover, "Let the schedules of "+b.app().Name+" run at "+to, restoreDeadline,
		dr.RestoreState{Site: to, Point: point.ID, Stage: dr.StageCutover}, needs...)
}

// bringBack adds everything between the claim (a clone has none) and a ready application, and returns the
// last step's id.
func (b *builder) bringBack(point Point, to, claim string) string {
	name := b.app().Name
	b.plan.RecoveryPoint = point.ID
	first := b.hooks(dr.HookBefore, to, one(claim))
	foundation := b.step(idFoundation, "Restore the foundation of "+name+" at "+to, restoreDeadline,
		dr.RestoreState{Site: to, Point: point.ID, Stage: dr.StageFoundation}, first...)
	needs := []string{foundation}
	for _, ds := range b.scope().data() {
		if !holds(point, ds.Name) {
			b.warn("recovery point %s has no copy of datastore %s: it starts empty", point.ID, ds.Name)
			continue
		}
		title, params := "Restore "+ds.Name+" of "+name+" at "+to, dr.RestoreData{Site: to, Point: point.ID, Datastore: ds.Name}
		if ds.Postgres != nil { // whose log is kept
			title += b.instantOf(&params)
		}
		id := b.step("restore-data-"+ds.Name, title, dataDeadline, params, foundation)
		needs = append(needs, id)
	}
	needs = b.hooks(dr.HookBeforeWorkloads, to, needs)
	workloads := b.step(idWorkloads, "Restore the workloads of "+name+" at "+to, restoreDeadline,
		dr.RestoreState{Site: to, Point: point.ID, Stage: dr.StageWorkloads}, needs...)
	ready := b.step(idReady, "Wait until "+name+" serves at "+to, readyDeadline, dr.AwaitReady{Site: to, Point: point.ID}, workloads)
	return b.hooks(dr.HookAfter, to, []string{ready})[0]
}

// instantOf says to which instant a datastore is brought whose log is kept: the one that was asked for, to
// the moment, and not only to that of the recovery point.
func (b *builder) instantOf(p *dr.RestoreData) string {
	switch ref := b.request.Point; {
	case !ref.At.IsZero():
		p.At = ref.At.UTC()
		return ", as it was at " + ref.At.UTC().Format(time.RFC3339Nano)
	case ref == PointRef{}:
		p.Latest = true
		return ", to the end of its log"
	}
	return ""
}

// traffic adds a step for each host, and returns their ids by host.
func (b *builder) traffic(to, ready string) map[string]string {
	ids := make(map[string]string, len(b.app().Traffic))
	for _, t := range b.app().Traffic {
		ids[t.Host] = b.step("switch-traffic-"+t.Host, "Point "+t.Host+" at "+to, trafficDeadline,
			dr.SwitchTraffic{Site: to, Host: t.Host}, ready)
	}
	return ids
}

// probes adds a step for each probe. One that asks a host of ours waits for that host alone.
func (b *builder) probes(to string, switches map[string]string, ready string) {
	var all []string
	var longest time.Duration
	for _, t := range b.app().Traffic {
		all = append(all, switches[t.Host])
		if t.DNS != nil {
			longest = max(longest, t.DNS.TTL)
		}
	}
	if len(all) == 0 {
		all = []string{ready}
	}
	for _, p := range b.app().Probes {
		needs := all
		if p.HTTP != nil {
			if u, err := url.Parse(p.HTTP.URL); err == nil && switches[strings.ToLower(u.Hostname())] != "" {
				needs = []string{switches[strings.ToLower(u.Hostname())]}
			}
		}
		b.step("probe-"+p.Name, "Ask "+p.Name+" of "+b.app().Name+" from outside", probeDeadline+longest,
			dr.ProbeFromOutside{Site: to, Probe: p.Name}, slices.Clone(needs)...)
	}
	if len(b.app().Probes) == 0 {
		b.warn("%s declares no probe: nobody asks it from outside, and the run cannot end verified", b.app().Name)
	}
}
