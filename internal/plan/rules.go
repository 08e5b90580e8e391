package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// mustReach refuses a plan whose every step needs a site that does not answer.
func (b *builder) mustReach(site string) error {
	s, _ := b.site(site)
	if s.Reachable {
		return nil
	}
	next := cmp.Or(s.Remedy, "Bring the site's API back, or correct its kubeconfig; `lifeboat status` shows what answers.")
	return dr.Errorf(s.class(), because(s), next, "cannot use site %s, where %s is", site, b.app().Name)
}

// class sorts why a site cannot be used; not answering is the common case.
func (s Site) class() dr.Class { return cmp.Or(s.Class, dr.ClassUnreachable) }

func because(s Site) error {
	if s.Reason == "" {
		return nil
	}
	return errors.New(s.Reason)
}

// target decides where a failover goes.
func (b *builder) target() (string, error) {
	places := append([]string{b.app().Sites.Preferred}, b.app().Sites.Recovery...)
	others := slices.DeleteFunc(slices.Clone(places), func(s string) bool { return s == b.owner })
	to := b.request.To
	if to == "" {
		return b.firstReachable(others)
	}
	name := b.app().Name
	if to == b.owner {
		next := "Name another site with --to: " + strings.Join(others, ", ") + "."
		if run := b.facts.Ownership.Run; run != "" {
			next = "If the run that brought it there has not ended, go on with `lifeboat resume " + run + "`."
		}
		return "", dr.Errorf(dr.ClassUsage, nil, next, "%s is already owned by site %s (epoch %d)", name, to, b.facts.Ownership.Epoch)
	}
	if !slices.Contains(places, to) {
		next := "Name one of " + strings.Join(others, ", ") + " with --to, or add " + to + " to the application's sites.recovery."
		return "", dr.Errorf(dr.ClassUsage, nil, next, "site %s is not a place where %s may run", to, name)
	}
	s, _ := b.site(to)
	if !s.Reachable {
		return "", dr.Errorf(s.class(), because(s), cmp.Or(s.Remedy, "Name another site with --to, or bring this one back."), "cannot use target site %s", to)
	}
	return to, nil
}

func (b *builder) firstReachable(places []string) (string, error) {
	var why []string
	for _, p := range places {
		s, _ := b.site(p)
		if s.Reachable {
			return p, nil
		}
		why = append(why, fmt.Sprintf("%s: %s", p, cmp.Or(s.Reason, "no answer")))
	}
	if len(places) == 0 {
		return "", dr.Errorf(dr.ClassUsage, nil, "Add one to the application's sites.recovery.", "%s has no other site to go to", b.app().Name)
	}
	return "", dr.Errorf(dr.ClassUnreachable, errors.New(strings.Join(why, "; ")), "Bring one of them back; `lifeboat status` shows what answers.",
		"no site that %s may go to can be reached", b.app().Name)
}

// sourceFenceable refuses a failover away from a site that cannot be fenced, until a person takes the
// risk and says why.
func (b *builder) sourceFenceable(to string) error {
	s, _ := b.site(b.owner)
	name, reason := b.app().Name, b.request.BreakGlass
	switch {
	case s.Reachable && reason != "":
		b.warn("a break-glass reason was given, but %s answers: it is fenced like any other", b.owner)
	case s.Reachable:
		b.warn("%s answers: what is written there after the recovery point is lost; `lifeboat backup %s` first keeps it", b.owner, name)
	case reason != "":
		b.warn("%s cannot be fenced (%s): if %s still runs there, both sites write; overridden: %s", b.owner, cmp.Or(s.Reason, "no answer"), name, reason)
	default:
		next := fmt.Sprintf("If you know that %s no longer runs there: lifeboat failover %s --to %s --break-glass \"reason\"", name, name, to)
		return dr.Errorf(dr.ClassBlocked, because(s), next, "cannot fence %s at site %s, which does not answer", name, b.owner)
	}
	return nil
}

// classesFit refuses a target that has no StorageClass for a claim of the point, before anything moves.
func (b *builder) classesFit(p Point, to string) error {
	s, _ := b.site(to)
	if s.Classes == nil {
		return nil
	}
	for _, class := range p.Classes {
		want, mapped := s.StorageClasses[class]
		if !mapped {
			want = cmp.Or(s.StorageClasses["*"], class)
		}
		if !slices.Contains(s.Classes, want) {
			next := fmt.Sprintf("Map it in the fleet file: storageClasses: {%s: …} of site %s, with one of %s.", class, to, strings.Join(s.Classes, ", "))
			return dr.Errorf(dr.ClassBlocked, nil, next, "site %s has no StorageClass %q for claims that used %q", to, want, class)
		}
	}
	return nil
}

// trafficFits refuses a target to which a record cannot point, and warns of what slows the move.
func (b *builder) trafficFits(to string) error {
	target, _ := b.site(to)
	source, _ := b.site(b.owner)
	for _, t := range b.app().Traffic {
		if target.Ingress.Address == "" && t.Service == nil {
			next := "Add ingress.address to site " + to + " in the fleet file."
			return dr.Errorf(dr.ClassBlocked, nil, next, "site %s has no ingress address that %s could point at", to, t.Host)
		}
		if rto := b.app().Objectives.RTO; t.DNS != nil && rto > 0 && t.DNS.TTL > rto/2 {
			b.warn("the TTL of %s, %s, is more than half of the RTO of %s: lower it ahead of the next loss", t.Host, short(t.DNS.TTL), short(rto))
		}
		answers := b.facts.Hosts[t.Host]
		known := t.Service != nil || slices.Contains(answers, source.Ingress.Address) || slices.Contains(answers, target.Ingress.Address)
		if len(answers) > 0 && !known {
			b.warn("%s answers %s, which is the address of neither %s nor %s", t.Host, strings.Join(answers, ", "), b.owner, to)
		}
	}
	return nil
}

// short writes a duration with its two greatest units: 4m, 1h5m, 30s.
func short(d time.Duration) string {
	switch {
	case d >= time.Hour:
		d = d.Round(time.Minute)
	case d >= time.Second:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Millisecond)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
