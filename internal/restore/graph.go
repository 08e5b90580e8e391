package restore

import (
	"context"
	"fmt"
	"slices"
)

// graph says which items come after which. Node i needs the nodes needs[i]; the firm ones have to have
// succeeded.
type graph struct {
	items []*item
	needs [][]arrow
}

// arrow is an edge between nodes.
type arrow struct {
	to   int
	firm bool
}

// newGraph joins the items to those of them that they need. Where needs run in a circle, as owner
// references can, the circle is opened at a need that is not firm.
func newGraph(p *Prepared, items []*item) *graph {
	node := make([]int, len(p.all)) // by index in the set, plus one
	for i, it := range items {
		node[it.index] = i + 1
	}
	g := &graph{items: items, needs: make([][]arrow, len(items))}
	for i, it := range items {
		for _, e := range it.needs {
			if to := node[e.to] - 1; to >= 0 && to != i {
				g.needs[i] = append(g.needs[i], arrow{to, e.firm})
			}
		}
	}
	g.openCircles()
	return g
}

// openCircles removes, by depth-first search, each edge that leads back to where the search came from.
func (g *graph) openCircles() {
	const (
		unseen = iota
		under  // on the path from the root of the search
		done
	)
	state := make([]int, len(g.items))
	var visit func(i int)
	visit = func(i int) {
		state[i] = under
		// Firm needs first: then the arrow that closes a circle is one of the others, where there is one.
		slices.SortStableFunc(g.needs[i], func(a, b arrow) int {
			switch {
			case a.firm == b.firm:
				return a.to - b.to
			case a.firm:
				return -1
			}
			return 1
		})
		g.needs[i] = slices.DeleteFunc(g.needs[i], func(e arrow) bool {
			if state[e.to] == unseen {
				visit(e.to)
			}
			return state[e.to] == under
		})
		state[i] = done
	}
	for i := range g.items {
		if state[i] == unseen {
			visit(i)
		}
	}
}

// ended is how one node went.
type ended struct {
	node int
	ok   bool
	err  error // stops the whole graph
}

// run calls do for each item once all that it needs have ended, with up to workers at a time. blocked is
// the firm need that failed, or nil; do says whether the item succeeded. An error of do, or ctx, stops
// the rest.
func (g *graph) run(ctx context.Context, workers int, do func(ctx context.Context, it, blocked *item) (ok bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting, users := make([]int, len(g.items)), make([][]int, len(g.items))
	var ready []int
	for i, needs := range g.needs {
		waiting[i] = len(needs)
		for _, e := range needs {
			users[e.to] = append(users[e.to], i)
		}
		if len(needs) == 0 {
			ready = append(ready, i)
		}
	}
	blocked := make([]*item, len(g.items))
	results := make(chan ended, workers)
	running, left := 0, len(g.items)
	var failed error
	for left > 0 {
		for failed == nil && ctx.Err() == nil && len(ready) > 0 && running < workers {
			i := ready[0]
			ready = ready[1:]
			running++
			go func() {
				ok, err := do(ctx, g.items[i], blocked[i])
				results <- ended{i, ok, err}
			}()
		}
		if running == 0 {
			break
		}
		r := <-results // do returns soon after ctx is done
		running--
		left--
		if r.err != nil && failed == nil {
			failed = r.err
			cancel()
		}
		for _, u := range users[r.node] {
			if waiting[u]--; waiting[u] == 0 {
				ready = append(ready, u)
			}
			if !r.ok && g.firm(u, r.node) && blocked[u] == nil {
				blocked[u] = g.items[r.node]
			}
		}
	}
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case left > 0:
		return fmt.Errorf("%d objects wait for each other", left) // cannot be: circles are open
	}
	return nil
}

func (g *graph) firm(node, need int) bool {
	return slices.ContainsFunc(g.needs[node], func(e arrow) bool { return e.to == need && e.firm })
}
