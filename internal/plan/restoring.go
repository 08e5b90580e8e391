package plan

import (
	"maps"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
)

// restore brings the application back where it is owned. Going elsewhere is a failover, or a clone.
func (b *builder) restore() error {
	to := b.request.To
	if to == "" {
		to = b.owner
	}
	name := b.app().Name
	if to != b.owner {
		next := "Use `lifeboat failover " + name + " --to " + to + "` to move it there, or --namespace-map to make a copy of it."
		return dr.Errorf(dr.ClassUsage, nil, next, "%s is owned by %s: a restore at %s would run it twice", name, b.owner, to)
	}
	point, err := b.restorable(to)
	if err != nil {
		return err
	}
	claim := b.step(idClaim, "Make this run the one that acts for "+name, claimDeadline, dr.Claim{Site: to})
	b.release(point, to, b.bringBack(point, to, claim))
	return nil
}

// clone makes a copy beside the application itself: in other namespaces, at any of its sites. It claims
// nothing and moves no traffic.
func (b *builder) clone() error {
	to := b.request.To
	if to == "" {
		to = b.owner
	}
	if places := append([]string{b.app().Sites.Preferred}, b.app().Sites.Recovery...); !slices.Contains(places, to) {
		return dr.Errorf(dr.ClassUsage, nil, "Name one of "+strings.Join(places, ", ")+" with --to.", "site %s is not a place where %s may run", to, b.app().Name)
	}
	if err := b.scope().mapped(); err != nil {
		return err
	}
	point, err := b.restorable(to)
	if err != nil {
		return err
	}
	b.bringBack(point, to, "")
	b.note("its schedules stay suspended: two of each would run")
	return nil
}

// restorable finds what is to be brought back and makes sure that it can be.
func (b *builder) restorable(to string) (Point, error) {
	if err := b.mustReach(to); err != nil {
		return Point{}, err
	}
	if err := b.scope().selected(); err != nil {
		return Point{}, err
	}
	point, err := choice{b}.choosePoint()
	if err != nil {
		return Point{}, err
	}
	if err := b.classesFit(point, to); err != nil {
		return Point{}, err
	}
	b.plan.From, b.plan.To = b.owner, to
	b.scope().describeRestoring()
	return point, nil
}

// scope is the part of building that says what is brought back.
type scope struct{ *builder }

func (b *builder) scope() scope { return scope{b} }

// selected refuses choices that name what the application has not.
func (b scope) selected() error {
	r := &b.request.Restoring
	app := b.app()
	for _, ns := range r.Select.Namespaces {
		if !slices.Contains(app.Namespaces, ns) {
			return dr.Errorf(dr.ClassUsage, nil, "Its namespaces are "+strings.Join(app.Namespaces, ", ")+".", "%s has no namespace %q", app.Name, ns)
		}
	}
	for _, name := range r.Data {
		if !slices.ContainsFunc(app.Data, func(d dr.Datastore) bool { return d.Name == name }) {
			var names []string
			for _, d := range app.Data {
				names = append(names, d.Name)
			}
			return dr.Errorf(dr.ClassUsage, nil, "Its datastores are "+strings.Join(names, ", ")+".", "%s has no datastore %q", app.Name, name)
		}
	}
	if r.NoData && len(r.Data) > 0 {
		return dr.Errorf(dr.ClassUsage, nil, "Leave out one of the two.", "both data (%s) and no data are asked for", strings.Join(r.Data, ", "))
	}
	return nil
}

// mapped says whether the copy keeps out of everything that is the application's own.
func (b scope) mapped() error {
	r, app := &b.request.Restoring, b.app()
	wanted := r.Select.Namespaces
	if len(wanted) == 0 {
		wanted = app.Namespaces
	}
	from := map[string]string{} // target → captured
	for _, ns := range slices.Sorted(maps.Keys(r.Namespaces)) {
		to := r.Namespaces[ns]
		switch {
		case !slices.Contains(app.Namespaces, ns):
			return dr.Errorf(dr.ClassUsage, nil, "Its namespaces are "+strings.Join(app.Namespaces, ", ")+".", "%s has no namespace %q to map", app.Name, ns)
		case slices.Contains(app.Namespaces, to):
			return dr.Errorf(dr.ClassUsage, nil, "Map to a namespace that is not the application's.", "namespace %s is %s's own: a copy in it would disturb it", to, app.Name)
		case from[to] != "":
			return dr.Errorf(dr.ClassUsage, nil, "Give each a namespace of its own.", "namespaces %s and %s are both mapped to %s", from[to], ns, to)
		}
		from[to] = ns
	}
	for _, ns := range wanted {
		if r.Namespaces[ns] == "" {
			next := "Map it too: --namespace-map " + ns + "=…, or leave it out with --namespace."
			return dr.Errorf(dr.ClassUsage, nil, next, "namespace %s is to be copied but not mapped", ns)
		}
	}
	return nil
}

// data are the datastores to bring back: those named, or else those of the namespaces that are chosen. A
// choice of single objects brings no data along unless it is named.
func (b scope) data() []dr.Datastore {
	r := &b.request.Restoring
	var out []dr.Datastore
	for _, ds := range b.app().Data {
		switch {
		case r.NoData:
		case len(r.Data) > 0:
			if slices.Contains(r.Data, ds.Name) {
				out = append(out, ds)
			}
		case b.picks():
		case len(r.Select.Namespaces) == 0 || slices.Contains(r.Select.Namespaces, ds.Namespace()):
			out = append(out, ds)
		}
	}
	return out
}

// picks says whether single objects are chosen, by kind, name or label.
func (b scope) picks() bool {
	s := b.request.Restoring.Select
	s.Namespaces = nil
	return !s.Empty()
}

// describeRestoring puts what is wanted into the plan, for the steps and in words.
func (b scope) describeRestoring() {
	r := b.request.Restoring
	s := r.Select
	for _, part := range []struct {
		what   string
		values []string
	}{{"namespace", s.Namespaces}, {"kind", s.Kinds}, {"name", s.Names}, {"label", one(s.Labels)}} {
		if len(part.values) > 0 {
			b.note("only objects of %s %s", part.what, strings.Join(part.values, ", "))
		}
	}
	if !s.Empty() && r.WithoutNeeds {
		b.note("what they need is left behind")
	} else if !s.Empty() {
		b.note("what they need comes along")
	}
	for _, ns := range slices.Sorted(maps.Keys(r.Namespaces)) {
		b.note("namespace %s becomes %s", ns, r.Namespaces[ns])
	}
	chosen := b.data()
	for _, ds := range b.app().Data {
		if !slices.ContainsFunc(chosen, func(c dr.Datastore) bool { return c.Name == ds.Name }) {
			why := ""
			if !r.NoData && b.picks() {
				why = "; --data " + ds.Name + " brings it along"
			}
			b.warn("the data of %s is not brought back: where its claim is not there yet, it starts empty%s", ds.Name, why)
		}
	}
	b.plan.Restoring = &r
	if r.Zero() {
		b.plan.Restoring = nil
	}
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// hooks adds the steps of one moment, one after the other, and returns what comes next has to wait for.
func (b *builder) hooks(when dr.HookMoment, to string, needs []string) []string {
	if b.request.NoHooks {
		return needs
	}
	for _, h := range b.app().Restore.Hooks {
		if h.When == when {
			id := b.step("hook-"+h.Name, "Run hook "+h.Name+" of "+b.app().Name+" at "+to, h.Timeout+hookStart, dr.RunHook{Site: to, Hook: h.Name}, needs...)
			needs = []string{id}
		}
	}
	return needs
}
