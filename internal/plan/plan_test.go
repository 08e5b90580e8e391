package plan

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lifeboat.dev/lifeboat/internal/dr"
)

// shop is owned by east, protected a moment ago and ready to go to west.
func shop() Facts {
	point := func(id string, age time.Duration) Point {
		return Point{Age: age, RecoveryPoint: dr.RecoveryPoint{
			ID: id, Application: "shop", Epoch: 3, Time: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(-age),
			Data: []dr.DataPoint{{Datastore: "orders"}, {Datastore: "uploads"}},
		}}
	}
	return Facts{
		Application: dr.Application{
			Name: "shop", Namespaces: []string{"shop"}, Objectives: dr.Objectives{RTO: 5 * time.Minute, RPO: 30 * time.Second},
			Sites:   dr.Placement{Preferred: "east", Recovery: []string{"west", "north"}},
			Data:    []dr.Datastore{{Name: "orders", Volume: &dr.VolumeRef{}}, {Name: "uploads", Volume: &dr.VolumeRef{}}},
			Traffic: []dr.TrafficRef{{Host: "a.example.com", DNS: &dr.DNSRef{TTL: 30 * time.Second}}, {Host: "b.example.com", DNS: &dr.DNSRef{TTL: 30 * time.Second}}},
			Probes: []dr.Probe{
				{Name: "front", HTTP: &dr.HTTPProbe{URL: "https://A.example.com/"}},
				{Name: "all", HTTP: &dr.HTTPProbe{URL: "http://10.0.0.1/"}},
			},
		},
		Sites: []Site{
			{Site: dr.Site{Name: "east", Ingress: dr.Ingress{Address: "10.0.0.1"}}, Reachable: true},
			{Site: dr.Site{Name: "west", Ingress: dr.Ingress{Address: "10.0.0.2"}}, Reachable: true},
			{Site: dr.Site{Name: "north", Ingress: dr.Ingress{Address: "10.0.0.3"}}, Reachable: true},
		},
		Ownership: dr.Ownership{Application: "shop", Site: "east", Epoch: 3},
		Points:    []Point{point("p1", time.Minute), point("p2", 10*time.Second)},
	}
}

func lost(f *Facts, site string) {
	for i := range f.Sites {
		if f.Sites[i].Name == site {
			f.Sites[i].Reachable, f.Sites[i].Reason = false, "no answer in 5s"
		}
	}
}

// shape writes a plan as "id<need,need" words.
func shape(p dr.Plan) string {
	var words []string
	for _, s := range p.Steps {
		word := s.ID
		if len(s.Needs) > 0 {
			word += "<" + strings.Join(s.Needs, ",")
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestShapes(t *testing.T) {
	t.Parallel()
	const bringBack = "restore-data-orders<restore-foundation restore-data-uploads<restore-foundation " +
		"restore-workloads<restore-foundation,restore-data-orders,restore-data-uploads await-ready<restore-workloads"
	for _, c := range []struct {
		request Request
		want    string
	}{
		{Request{Goal: dr.GoalBackup}, "capture-state protect-data-orders protect-data-uploads seal-recovery-point<capture-state,protect-data-orders,protect-data-uploads"},
		{Request{Goal: dr.GoalRestore}, "claim-ownership restore-foundation<claim-ownership " + bringBack + " start-schedules<await-ready"},
		{Request{Goal: dr.GoalFailover}, "fence-old-site claim-ownership<fence-old-site restore-foundation<claim-ownership " + bringBack +
			" switch-traffic-a.example.com<await-ready switch-traffic-b.example.com<await-ready" +
			" start-schedules<await-ready,switch-traffic-a.example.com,switch-traffic-b.example.com" +
			" probe-front<switch-traffic-a.example.com probe-all<switch-traffic-a.example.com,switch-traffic-b.example.com"},
	} {
		p, err := Build(shop(), c.request)
		if err != nil {
			t.Fatalf("%s: %v", c.request.Goal, err)
		}
		if got := shape(p); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.request.Goal, got, c.want)
		}
		if p.Epoch != 3 || p.From != "east" {
			t.Errorf("%s: epoch %d from %s, want 3 from east", c.request.Goal, p.Epoch, p.From)
		}
	}
}

// TestInstants: a database whose log is kept is brought to the instant that was asked for, a volume to the
// recovery point.
func TestInstants(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 11, 59, 30, 123456000, time.UTC)
	for _, c := range []struct {
		point      PointRef
		want       dr.RestoreData
		title, log string
	}{
		{PointRef{}, dr.RestoreData{Site: "west", Point: "p2", Datastore: "orders", Latest: true}, "to the end of its log", "its log goes on to 2026-01-01 11:59:59Z"},
		{PointRef{At: at}, dr.RestoreData{Site: "west", Point: "p1", Datastore: "orders", At: at}, "as it was at 2026-01-01T11:59:30.123456Z", ""},
		{PointRef{ID: "p2"}, dr.RestoreData{Site: "west", Point: "p2", Datastore: "orders"}, "", ""},
	} {
		f := shop()
		f.Application.Data[0] = dr.Datastore{Name: "orders", Postgres: &dr.PostgresRef{Namespace: "shop"}}
		f.Points[1].Logs = map[string]time.Time{"orders": time.Date(2026, 1, 1, 11, 59, 59, 0, time.UTC)}
		p, err := Build(f, Request{Goal: dr.GoalFailover, Point: c.point})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Steps {
			got, ok := s.Params.(dr.RestoreData)
			switch {
			case ok && got.Datastore == "orders" && (got != c.want || !strings.HasSuffix(s.Title, c.title)):
				t.Errorf("%+v: got %+v, %q, want %+v, %q", c.point, got, s.Title, c.want, c.title)
			case ok && got.Datastore == "uploads" && (got.Latest || !got.At.IsZero()):
				t.Errorf("%+v: got %+v for a volume", c.point, got)
			}
		}
		if notes := strings.Join(p.Notes, "\n"); strings.Contains(notes, "its log goes on") != (c.log != "") || !strings.Contains(notes, c.log) {
			t.Errorf("%+v: got notes %s", c.point, notes)
		}
	}
}

func TestFailoverChoices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		change    func(*Facts, *Request)
		to, point string
		warnings  []string // each in one of the warnings; no others may be there
	}{
		{"newest point, first site", func(*Facts, *Request) {}, "west", "p2", []string{"lifeboat backup shop` first keeps it"}},
		{"first site is gone", func(f *Facts, _ *Request) { lost(f, "west") }, "north", "p2", []string{"east answers"}},
		{"site asked for", func(_ *Facts, r *Request) { r.To = "north" }, "north", "p2", []string{"east answers"}},
		{"never owned", func(f *Facts, _ *Request) { f.Ownership = dr.Ownership{} }, "west", "p2", []string{"east answers"}},
		{"back again", func(f *Facts, _ *Request) { f.Ownership.Site = "west" }, "east", "p2", []string{"west answers"}},
		{"old point asked for", func(_ *Facts, r *Request) { r.Point = PointRef{ID: "p1"} }, "west", "p1", []string{"east answers", "recovery point p1 is 1m old, objective 30s"}},
		{"old data", func(f *Facts, _ *Request) { f.Points[1].Age = 4*time.Minute + 300*time.Millisecond }, "west", "p2", []string{"east answers", "recovery point p2 is 4m old, objective 30s"}},
		{"incomplete newest", func(f *Facts, _ *Request) { f.Points[1].Missing = []string{"api metrics.k8s.io"} }, "west", "p1", []string{"east answers", "p2 is newer than p1 but lacks api metrics.k8s.io", "1m old"}},
		{"incomplete asked for", func(f *Facts, r *Request) { f.Points[1].Missing = []string{"x"}; r.Point = PointRef{ID: "p2"} }, "west", "p2", []string{"east answers", "p2 is incomplete: it lacks x"}},
		{"datastore not in newest", func(f *Facts, _ *Request) { f.Points[1].Data = f.Points[1].Data[:1] }, "west", "p1", []string{"east answers", "p2 is newer than p1 but lacks datastore uploads", "1m old"}},
		{"datastore not in the one asked for", func(f *Facts, r *Request) { f.Points[1].Data = f.Points[1].Data[:1]; r.Point = PointRef{ID: "p2"} }, "west", "p2", []string{"east answers", "p2 is incomplete: it lacks datastore uploads", "no copy of datastore uploads"}},
		{"epoch before clock", func(f *Facts, _ *Request) { f.Points[1].Epoch = 2 }, "west", "p1", []string{"east answers", "1m old"}},
		{"another application's point", func(f *Facts, _ *Request) { f.Points[1].Application = "blog" }, "west", "p1", []string{"east answers", "1m old"}},
		{"broken glass", func(f *Facts, r *Request) { lost(f, "east"); r.BreakGlass = "region is gone" }, "west", "p2", []string{"east cannot be fenced (no answer in 5s): if shop still runs there, both sites write; overridden: region is gone"}},
		{"glass broken in vain", func(_ *Facts, r *Request) { r.BreakGlass = "why not" }, "west", "p2", []string{"but east answers: it is fenced like any other"}},
		{"long TTL", func(f *Facts, _ *Request) { f.Application.Traffic[0].DNS.TTL = 3 * time.Minute }, "west", "p2", []string{"east answers", "TTL of a.example.com, 3m, is more than half of the RTO of 5m"}},
		{"stranger's address", func(f *Facts, _ *Request) {
			f.Hosts = map[string][]string{"a.example.com": {"9.9.9.9"}, "b.example.com": {"10.0.0.1"}}
		}, "west", "p2", []string{"east answers", "a.example.com answers 9.9.9.9"}},
		{"no probes", func(f *Facts, _ *Request) { f.Application.Probes = nil }, "west", "p2", []string{"east answers", "declares no probe"}},
		{"class mapped", func(f *Facts, _ *Request) {
			f.Points[1].Classes, f.Sites[1].Classes, f.Sites[1].StorageClasses = []string{"slow", "other"}, []string{"quick", "std"}, map[string]string{"slow": "quick", "*": "std"}
		}, "west", "p2", []string{"east answers"}},
	} {
		f, r := shop(), Request{Goal: dr.GoalFailover}
		c.change(&f, &r)
		p, err := Build(f, r)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.To != c.to || p.RecoveryPoint != c.point {
			t.Errorf("%s: to %s from point %s, want %s and %s", c.name, p.To, p.RecoveryPoint, c.to, c.point)
		}
		for _, w := range c.warnings {
			if !slices.ContainsFunc(p.Warnings, func(s string) bool { return strings.Contains(s, w) }) {
				t.Errorf("%s: no warning %q in %q", c.name, w, p.Warnings)
			}
		}
		if len(p.Warnings) != len(c.warnings) {
			t.Errorf("%s: %d warnings, want %d: %q", c.name, len(p.Warnings), len(c.warnings), p.Warnings)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		request    Request
		change     func(*Facts)
		class      dr.Class
		what, next string
	}{
		{"unknown goal", Request{Goal: "dance"}, nil, dr.ClassUsage, `unknown goal "dance"`, "backup, restore, clone and failover"},
		{"no recovery point", Request{Goal: dr.GoalFailover}, func(f *Facts) { f.Points = nil }, dr.ClassBlocked, "shop has no recovery point", "lifeboat backup shop"},
		{"none complete", Request{Goal: dr.GoalFailover}, func(f *Facts) { f.Points[0].Missing, f.Points[1].Missing = []string{"y"}, []string{"x"} }, dr.ClassBlocked, "no complete recovery point: the newest, p2, lacks x", "--at p2"},
		{"unknown point", Request{Goal: dr.GoalFailover, Point: PointRef{ID: "p9"}}, nil, dr.ClassUsage, `no recovery point "p9"`, "p2, p1"},
		{"target lost", Request{Goal: dr.GoalFailover, To: "west"}, func(f *Facts) { lost(f, "west") }, dr.ClassUnreachable, "cannot use target site west: no answer in 5s", "--to"},
		{"all targets lost", Request{Goal: dr.GoalFailover}, func(f *Facts) { lost(f, "west"); lost(f, "north") }, dr.ClassUnreachable, "west: no answer in 5s; north: no answer in 5s", "status"},
		{"nowhere to go", Request{Goal: dr.GoalFailover}, func(f *Facts) { f.Application.Sites.Recovery = nil }, dr.ClassUsage, "no other site", "sites.recovery"},
		{"already there", Request{Goal: dr.GoalFailover, To: "east"}, nil, dr.ClassUsage, "already owned by site east (epoch 3)", "west, north"},
		{"already there by a run", Request{Goal: dr.GoalFailover, To: "east"}, func(f *Facts) { f.Ownership.Run = "r7" }, dr.ClassUsage, "already owned by site east", "lifeboat resume r7"},
		{"not in the placement", Request{Goal: dr.GoalFailover, To: "south"}, nil, dr.ClassUsage, "site south is not a place", "add south"},
		{"source lost", Request{Goal: dr.GoalFailover}, func(f *Facts) { lost(f, "east") }, dr.ClassBlocked, "cannot fence shop at site east, which does not answer: no answer in 5s", `lifeboat failover shop --to west --break-glass "reason"`},
		{"a reason of blanks", Request{Goal: dr.GoalFailover, BreakGlass: "  "}, func(f *Facts) { lost(f, "east") }, dr.ClassBlocked, "cannot fence", "--break-glass"},
		{"no StorageClass", Request{Goal: dr.GoalFailover}, func(f *Facts) { f.Points[1].Classes, f.Sites[1].Classes = []string{"slow"}, []string{"quick"} }, dr.ClassBlocked, `site west has no StorageClass "slow"`, "one of quick"},
		{"no ingress address", Request{Goal: dr.GoalFailover}, func(f *Facts) { f.Sites[1].Ingress.Address = "" }, dr.ClassBlocked, "site west has no ingress address that a.example.com", "ingress.address"},
		{"backup of a lost site", Request{Goal: dr.GoalBackup}, func(f *Facts) { lost(f, "east") }, dr.ClassUnreachable, "cannot use site east, where shop is: no answer", "status"},
		{"backup to a site", Request{Goal: dr.GoalBackup, To: "west"}, nil, dr.ClassUsage, "takes no target", "Leave"},
		{"restore elsewhere", Request{Goal: dr.GoalRestore, To: "west"}, nil, dr.ClassUsage, "would run it twice", "lifeboat failover shop --to west"},
		{"credentials rejected", Request{Goal: dr.GoalBackup}, func(f *Facts) {
			lost(f, "east")
			f.Sites[0].Class, f.Sites[0].Remedy = dr.ClassDenied, "Log in again."
		}, dr.ClassDenied, "cannot use site east", "Log in again."},
		{"restore at a lost site", Request{Goal: dr.GoalRestore}, func(f *Facts) { lost(f, "east") }, dr.ClassUnreachable, "cannot use site east", "status"},
	} {
		f := shop()
		if c.change != nil {
			c.change(&f)
		}
		p, err := Build(f, c.request)
		var e *dr.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a *dr.Error", c.name, err)
			continue
		}
		if e.Class != c.class || !strings.Contains(e.Error(), c.what) || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: got %s %q, next %q\nwant %s %q, next %q", c.name, e.Class, e, e.Next, c.class, c.what, c.next)
		}
		if len(p.Steps) > 0 {
			t.Errorf("%s: refused and planned %s", c.name, shape(p))
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*dr.Plan)
		want   string
	}{
		{"nothing", func(p *dr.Plan) { p.Steps = nil }, "no steps"},
		{"circle", func(p *dr.Plan) { p.Steps[0].Needs = []string{"await-ready"} }, "circle"},
		{"restore before claim", func(p *dr.Plan) { p.Steps[2].Needs = nil }, "restore-foundation writes at west before"},
		{"restore beside the claim", func(p *dr.Plan) { p.Steps[2].Needs = []string{"fence-old-site"} }, "restore-foundation writes at west before"},
		{"claim beside the fence", func(p *dr.Plan) { p.Steps[1].Needs = nil }, "claim-ownership does not wait for fence-old-site"},
		{"fence after the claim", func(p *dr.Plan) { p.Steps[1].Needs = nil; p.Steps[0].Needs = []string{"claim-ownership"} }, "claim-ownership does not wait for fence-old-site"},
		{"no fence", func(p *dr.Plan) { p.Steps[1].Needs = nil; p.Steps = p.Steps[1:] }, "does not fence shop at east"},
		{"fence of another", func(p *dr.Plan) { p.Steps[0].Params = dr.FenceSite{Site: "north"} }, "does not fence shop at east"},
		{"claim for another", func(p *dr.Plan) { p.Steps[1].Params = dr.Claim{Site: "north"} }, "claims for north"},
		{"data for another", func(p *dr.Plan) { p.Steps[3].Params = dr.RestoreData{Site: "east"} }, "writes at east, but the plan is for west"},
		{"claims twice", func(p *dr.Plan) { p.Steps[2].Params = dr.Claim{Site: "west"} }, "claims 2 times"},
		{"endless", func(p *dr.Plan) { p.Steps[4].Deadline = 0 }, "restore-data-uploads has no deadline"},
		{"unknown kind", func(p *dr.Plan) { p.Steps[4].Params = nil }, "unknown kind"},
	} {
		p, err := Build(shop(), Request{Goal: dr.GoalFailover})
		if err != nil {
			t.Fatal(err)
		}
		c.change(&p)
		if err := Validate(p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestHashChangesWithEverything(t *testing.T) {
	t.Parallel()
	base, err := Build(shop(), Request{Goal: dr.GoalFailover})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	var read dr.Plan
	if err := json.Unmarshal(raw, &read); err != nil {
		t.Fatal(err)
	}
	if h, err := Hash(read); err != nil || h != base.Hash {
		t.Errorf("hash after a file: %s (%v), want %s", h, err, base.Hash)
	}
	for i, change := range []func(*dr.Plan){
		func(p *dr.Plan) { p.Epoch++ }, func(p *dr.Plan) { p.To = "x" }, func(p *dr.Plan) { p.BreakGlass = "x" },
		func(p *dr.Plan) { p.Warnings = nil }, func(p *dr.Plan) { p.Steps = p.Steps[1:] },
		func(p *dr.Plan) { p.Steps = slices.Clone(p.Steps); p.Steps[0].Params = dr.FenceSite{Site: "x"} },
	} {
		p := base
		change(&p)
		if h, _ := Hash(p); h == base.Hash {
			t.Errorf("change %d leaves the hash as it was", i)
		}
	}
}

// Whatever the facts, what is built is sound, the same each time, and leaves the facts alone.
func TestPlansAreSoundAndStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f, r := draw(t)
		before, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Build(f, r)
		again, errAgain := Build(f, r)
		if !reflect.DeepEqual(p, again) || (err == nil) != (errAgain == nil) {
			t.Fatalf("two answers to the same question:\n%+v %v\n%+v %v", p, err, again, errAgain)
		}
		if after, _ := json.Marshal(f); string(after) != string(before) {
			t.Fatalf("the facts changed:\n%s\n%s", before, after)
		}
		if err != nil {
			var e *dr.Error
			if !errors.As(err, &e) || e.Class == dr.ClassInternal || e.Next == "" {
				t.Fatalf("refused without class and remedy: %v", err)
			}
			return
		}
		if err := Validate(p); err != nil {
			t.Fatal(err)
		}
		if h, _ := Hash(p); h != p.Hash {
			t.Fatalf("hash %s, want %s", p.Hash, h)
		}
		for _, s := range f.Sites {
			if r.Goal == dr.GoalFailover && s.Name == p.From && !s.Reachable && strings.TrimSpace(p.BreakGlass) == "" {
				t.Fatalf("%s cannot be fenced, and nobody said why that is right", s.Name)
			}
			if s.Name == p.To && !s.Reachable {
				t.Fatalf("goes to %s, which does not answer", s.Name)
			}
		}
	})
}

func draw(t *rapid.T) (Facts, Request) {
	f := shop()
	for i := range f.Sites {
		f.Sites[i].Reachable = rapid.Bool().Draw(t, "reachable")
	}
	site := rapid.SampledFrom([]string{"", "east", "west", "north", "south"})
	f.Ownership.Site = site.Draw(t, "owner")
	f.Application.Data = f.Application.Data[:rapid.IntRange(0, 2).Draw(t, "data")]
	f.Application.Traffic = f.Application.Traffic[:rapid.IntRange(0, 2).Draw(t, "traffic")]
	f.Application.Probes = f.Application.Probes[:rapid.IntRange(0, 2).Draw(t, "probes")]
	f.Points = f.Points[:rapid.IntRange(0, 2).Draw(t, "points")]
	for _, when := range rapid.SliceOfNDistinct(rapid.SampledFrom([]dr.HookMoment{dr.HookBefore, dr.HookBeforeWorkloads, dr.HookAfter}), 0, 3, rapid.ID[dr.HookMoment]).Draw(t, "hooks") {
		f.Application.Restore.Hooks = append(f.Application.Restore.Hooks, dr.Hook{Name: string(when), When: when, Timeout: time.Minute})
	}
	for i := range f.Points {
		f.Points[i].Missing = rapid.SliceOfN(rapid.Just("x"), 0, 1).Draw(t, "missing")
		f.Points[i].Data = f.Points[i].Data[:rapid.IntRange(0, 2).Draw(t, "copies")]
	}
	return f, Request{
		Goal:       rapid.SampledFrom([]dr.Goal{dr.GoalBackup, dr.GoalRestore, dr.GoalClone, dr.GoalFailover}).Draw(t, "goal"),
		To:         site.Draw(t, "to"),
		Point:      PointRef{ID: rapid.SampledFrom([]string{"", "p1", "p2", "p3"}).Draw(t, "point")},
		BreakGlass: rapid.SampledFrom([]string{"", " ", "gone"}).Draw(t, "break glass"),
		Restoring: dr.Restoring{
			Namespaces: rapid.SampledFrom([]map[string]string{nil, {"shop": "copy"}, {"shop": "shop"}, {"other": "copy"}}).Draw(t, "namespaces"),
			NoData:     rapid.Bool().Draw(t, "no data"),
		},
	}
}
