package restore

import (
	"context"
	"slices"
	"time"
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

// verdict is how one try at an item went.
type verdict struct {
	ok    bool
	again time.Duration // to be tried again after so long; 0: that was it
}

// walk is a graph on its way.
type walk struct {
	*graph
	left     int // nodes that have not ended
	running  int
	waiting  []int   // by node: needs that are not met
	users    [][]int // by node: those that need it
	blocked  []*item // by node: the firm need that failed
	released []bool  // by node: tried once, so that nobody waits for it out of kindness
	ready    []int
	again    chan int // nodes whose pause is over
}

// tried is how one node went.
type tried struct {
	node int
	verdict
	err error // stops the whole graph
}

// run calls do for each item once all that it needs have ended, with up to workers at a time. blocked is
// the firm need that failed, or nil. An item that is to be tried again holds up no worker, and only those
// that need it firmly: what it waits for may be among the others. An error of do, or ctx, stops the rest.
func (g *graph) run(ctx context.Context, workers int, do func(ctx context.Context, it, blocked *item) (verdict, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, results := g.begin(), make(chan tried, workers)
	var failed error
	for w.left > 0 {
		for failed == nil && ctx.Err() == nil && len(w.ready) > 0 && w.running < workers {
			i := w.ready[0]
			w.ready = w.ready[1:]
			w.running++
			go func() {
				v, err := do(ctx, g.items[i], w.blocked[i])
				results <- tried{i, v, err}
			}()
		}
		if w.running == 0 && (failed != nil || ctx.Err() != nil) {
			break
		}
		select {
		case i := <-w.again:
			w.ready = append(w.ready, i)
		case r := <-results: // do returns soon after ctx is done
			w.running--
			if r.err != nil && failed == nil {
				failed = r.err
				cancel()
			}
			w.note(r)
		case <-done(ctx, w.running):
		}
	}
	if failed == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}

// done is ctx's end, for those who wait for nothing else.
func done(ctx context.Context, running int) <-chan struct{} {
	if running > 0 {
		return nil
	}
	return ctx.Done()
}

func (g *graph) begin() *walk {
	n := len(g.items)
	w := &walk{graph: g, left: n, waiting: make([]int, n), users: make([][]int, n), blocked: make([]*item, n), released: make([]bool, n), again: make(chan int, n)}
	for i, needs := range g.needs {
		w.waiting[i] = len(needs)
		for _, e := range needs {
			w.users[e.to] = append(w.users[e.to], i)
		}
		if len(needs) == 0 {
			w.ready = append(w.ready, i)
		}
	}
	return w
}

// note releases those who waited for a node.
func (w *walk) note(r tried) {
	ended := r.again == 0
	for _, u := range w.users[r.node] {
		firm := w.firm(u, r.node)
		if !firm && w.released[r.node] || firm && !ended {
			continue
		}
		if firm && !r.ok && w.blocked[u] == nil {
			w.blocked[u] = w.items[r.node]
		}
		if w.waiting[u]--; w.waiting[u] == 0 {
			w.ready = append(w.ready, u)
		}
	}
	if w.released[r.node] = true; ended {
		w.left--
		return
	}
	time.AfterFunc(r.again, func() { w.again <- r.node }) // there is room for every node
}

func (g *graph) firm(node, need int) bool {
	return slices.ContainsFunc(g.needs[node], func(e arrow) bool { return e.to == need && e.firm })
}
