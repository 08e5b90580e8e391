package plan

import (
	"fmt"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Validate says whether a plan is sound: its steps have unique ids and known kinds, need only what is
// there, form no circle, and none that writes at the target can begin before the claim has ended. It
// holds for plans from a file as well as for those from Build.
func Validate(p dr.Plan) error {
	order, err := p.Order()
	if err != nil {
		return err
	}
	if len(order) == 0 {
		return fmt.Errorf("the plan has no steps")
	}
	claimed := make(map[string]bool, len(order)) // id → a claim stands somewhere before it
	claims, fenced := 0, false
	for _, s := range order {
		for _, need := range s.Needs {
			claimed[s.ID] = claimed[s.ID] || claimed[need]
		}
		site, writes, err := effect(s.Params)
		if err != nil {
			return fmt.Errorf("step %s: %w", s.ID, err)
		}
		if s.Deadline <= 0 {
			return fmt.Errorf("step %s has no deadline", s.ID)
		}
		if writes && !claimed[s.ID] && p.Goal != dr.GoalClone {
			return fmt.Errorf("step %s writes at %s before the application is claimed", s.ID, site)
		}
		if writes && site != p.To {
			return fmt.Errorf("step %s writes at %s, but the plan is for %s", s.ID, site, p.To)
		}
		if c, ok := s.Params.(dr.Claim); ok {
			claims++
			claimed[s.ID] = true
			if c.Site != p.To {
				return fmt.Errorf("step %s claims for %s, but the plan is for %s", s.ID, c.Site, p.To)
			}
		}
		if f, ok := s.Params.(dr.FenceSite); ok {
			fenced = fenced || f.Site == p.From
		}
	}
	if p.Goal == dr.GoalFailover && !fenced {
		return fmt.Errorf("the plan does not fence %s at %s", p.Application, p.From)
	}
	if p.Goal == dr.GoalClone {
		return besides(p, claims, fenced)
	}
	if claims > 1 {
		return fmt.Errorf("the plan claims %d times", claims)
	}
	return fencedFirst(order)
}

// besides says whether a copy keeps out of the application's own way.
func besides(p dr.Plan, claims int, fenced bool) error {
	switch {
	case p.Restoring == nil || len(p.Restoring.Namespaces) == 0:
		return fmt.Errorf("a clone needs namespaces of its own")
	case claims > 0 || fenced:
		return fmt.Errorf("a clone neither claims nor fences")
	}
	for _, s := range p.Steps {
		if _, ok := s.Params.(dr.SwitchTraffic); ok {
			return fmt.Errorf("a clone moves no traffic, but step %s does", s.ID)
		}
	}
	return nil
}

// effect returns the site where a step acts, and whether it writes there as the application's owner.
func effect(p dr.Params) (site string, writes bool, err error) {
	switch p := p.(type) {
	case dr.RestoreState:
		return p.Site, true, nil
	case dr.RestoreData:
		return p.Site, true, nil
	case dr.SwitchTraffic:
		return p.Site, true, nil
	case dr.RunHook:
		return p.Site, true, nil
	case dr.FenceSite:
		return p.Site, false, nil
	case dr.Claim:
		return p.Site, false, nil
	case dr.Capture:
		return p.Site, false, nil
	case dr.ProtectData:
		return p.Site, false, nil
	case dr.SealPoint:
		return p.Site, false, nil
	case dr.AwaitReady:
		return p.Site, false, nil
	case dr.ProbeFromOutside:
		return p.Site, false, nil
	}
	return "", false, fmt.Errorf("unknown kind of step %T", p)
}

// fencedFirst says whether the claim waits for every fence of the plan.
func fencedFirst(order []dr.Step) error {
	before := map[string]map[string]bool{} // id → everything that ends before it begins
	for _, s := range order {
		before[s.ID] = map[string]bool{}
		for _, need := range s.Needs {
			before[s.ID][need] = true
			for id := range before[need] {
				before[s.ID][id] = true
			}
		}
	}
	for _, c := range order {
		if _, ok := c.Params.(dr.Claim); !ok {
			continue
		}
		for _, f := range order {
			if _, ok := f.Params.(dr.FenceSite); ok && !before[c.ID][f.ID] {
				return fmt.Errorf("step %s does not wait for %s", c.ID, f.ID)
			}
		}
	}
	return nil
}
