package restore

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// choose leaves out what is not asked for and not needed by what is, and says what of the rest cannot be made.
func (p *Prepared) choose() {
	if !p.opts.Select.Empty() {
		p.leave()
	}
	for _, it := range p.items {
		if it.fault != nil {
			p.refused = append(p.refused, fmt.Sprintf("%s: %v", it.key, it.fault))
		}
	}
}

func (p *Prepared) leave() {
	c := &choice{Prepared: p, chosen: make([]bool, len(p.all))}
	for _, it := range p.items {
		if it.asked {
			c.take(it)
		}
	}
	asked := len(c.queue)
	for len(c.queue) > 0 {
		it := c.queue[0]
		c.queue = c.queue[1:]
		c.follow(it)
	}
	left := map[string]bool{}
	p.items = slices.DeleteFunc(p.items, func(it *item) bool {
		it.skipped = !c.chosen[it.index]
		left[it.key.String()] = it.skipped
		return it.skipped
	})
	p.Changes = append(slices.DeleteFunc(p.Changes, func(ch Change) bool { return left[ch.Object] }), c.said...)
	if n := p.notChosen(); n > 0 {
		p.Skipped = append(p.Skipped, fmt.Sprintf("%d other objects of the recovery point: not chosen", n))
	}
	if asked == 0 {
		p.refused = append(p.refused, "nothing that the recovery point holds, and that is restored at all, is chosen")
	}
}

// notChosen counts what is neither asked for nor needed.
func (p *Prepared) notChosen() int { return len(p.all) - len(p.left) - len(p.items) }

// choice is a choice on its way.
type choice struct {
	*Prepared
	chosen []bool // by index in the set
	queue  []*item
	said   []Change
}

func (c *choice) take(it *item) {
	c.chosen[it.index] = true
	c.queue = append(c.queue, it)
}

// follow takes what an item needs. Owners, and what only shapes pods, are not needed.
func (c *choice) follow(it *item) {
	for _, e := range it.needs {
		need := &c.all[e.to]
		if e.owner || need.skipped || c.chosen[e.to] || need.key.Kind == "LimitRange" || need.key.Kind == "ResourceQuota" {
			continue
		}
		c.bring(need, it, "needs it")
	}
	if it.key.GroupKind != accountKind {
		return
	}
	for _, binding := range c.items { // an account without its rights is worth little
		if binding.key.Group == rbacGroup && !c.chosen[binding.index] && slices.ContainsFunc(binding.needs, func(e edge) bool { return e.to == it.index }) {
			c.bring(binding, it, "has its rights by it")
		}
	}
}

func (c *choice) bring(need, by *item, why string) {
	if c.opts.WithoutNeeds {
		what := fmt.Sprintf("%s %s, and it is left behind", by.key, why)
		if !slices.Contains(c.said, Change{need.key.String(), what}) {
			c.said = append(c.said, Change{need.key.String(), what})
		}
		return
	}
	c.said = append(c.said, Change{need.key.String(), fmt.Sprintf("comes along: %s %s", by.key, why)})
	c.take(need)
}

const rbacGroup = "rbac.authorization.k8s.io"

// asks says whether an object is asked for itself.
func (p *Prepared) asks(o *unstructured.Unstructured) bool {
	return p.opts.match == nil || p.opts.match.Matches(o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName(), o.GetLabels())
}
