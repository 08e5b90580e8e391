package dr

import (
	"fmt"
	"strings"
)

// Order returns the plan's steps so that each stands behind those it needs, otherwise as the plan lists
// them. It fails where two steps share an id, where a needed step is not there, and on a circle.
func (p *Plan) Order() ([]Step, error) {
	placed := make(map[string]bool, len(p.Steps)) // id → already in the order
	for _, s := range p.Steps {
		if _, twice := placed[s.ID]; twice || s.ID == "" {
			return nil, fmt.Errorf("step id %q is empty or not unique", s.ID)
		}
		placed[s.ID] = false
	}
	for _, s := range p.Steps {
		for _, need := range s.Needs {
			if _, there := placed[need]; !there {
				return nil, fmt.Errorf("step %s needs %s, which is not in the plan", s.ID, need)
			}
		}
	}
	order := make([]Step, 0, len(p.Steps))
	for len(order) < len(p.Steps) {
		before := len(order)
		var stuck []string
		for _, s := range p.Steps {
			switch {
			case placed[s.ID]:
			case allOf(placed, s.Needs):
				placed[s.ID] = true
				order = append(order, s)
			default:
				stuck = append(stuck, s.ID)
			}
		}
		if len(order) == before {
			return nil, fmt.Errorf("steps need each other in a circle: %s", strings.Join(stuck, ", "))
		}
	}
	return order, nil
}

func allOf(set map[string]bool, keys []string) bool {
	for _, k := range keys {
		if !set[k] {
			return false
		}
	}
	return true
}
