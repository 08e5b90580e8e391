package plan

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestParsePoint(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("somewhere", 2*3600)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, zone)
	at := func(s string) PointRef {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return PointRef{At: v}
	}
	for text, want := range map[string]PointRef{
		"": {}, "latest": {},
		"2026-11-25T10:30:00Z":       at("2026-11-25T10:30:00Z"),
		"2026-11-25T10:30:00+02:00":  at("2026-11-25T08:30:00Z"),
		"2026-11-25 10:30":           at("2026-11-25T08:30:00Z"),
		"2026-11-25 10:30:15":        at("2026-11-25T08:30:15Z"),
		"2026-11-25T10:30":           at("2026-11-25T08:30:00Z"),
		"2026-11-24":                 at("2026-11-24T21:59:59.999999999Z"),
		"10m ago":                    at("2026-11-25T09:50:00Z"),
		"90 seconds ago":             at("2026-11-25T09:58:30Z"),
		"3h ago":                     at("2026-11-25T07:00:00Z"),
		"2 days ago":                 at("2026-11-23T10:00:00Z"),
		"1w ago":                     at("2026-11-18T10:00:00Z"),
		"20261125T1030":              {ID: "20261125T1030"},
		"20261125T103000Z-shop-4f2a": {ID: "20261125T103000Z-shop-4f2a"},
	} {
		got, err := ParsePoint(text, now)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"yester day", "10m from now", "../x", "99999999999999 days ago", "2026-13-45 10:00"} {
		_, err := ParsePoint(text, now)
		var e *dr.Error
		if !errors.As(err, &e) || e.Class != dr.ClassUsage || e.Next == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPointOfATime(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) // p1 is a minute older, p2 10 s
	for _, c := range []struct {
		name   string
		point  PointRef
		change func(*Facts)
		want   string // the point, or what the refusal says
		notes  string
	}{
		{"between the two", PointRef{At: noon.Add(-30 * time.Second)}, nil, "p1", "recovery point p1 is of 2026-01-01 11:59:00Z, 30s before the time asked for"},
		{"exactly", PointRef{At: noon.Add(-time.Minute)}, nil, "p1", "p1 is of 2026-01-01 11:59:00Z, 0s before"},
		{"after both", PointRef{At: noon}, nil, "p2", "10s before the time asked for"},
		{"before both", PointRef{At: noon.Add(-time.Hour)}, nil, "has no recovery point up to 2026-01-01 11:00:00Z; the oldest, p1, is of 2026-01-01 11:59:00Z", ""},
		{"an incomplete one is passed over", PointRef{At: noon}, func(f *Facts) { f.Points[1].Missing = []string{"x"} }, "p1", "1m before the time asked for"},
		{"none complete", PointRef{At: noon.Add(-30 * time.Second)}, func(f *Facts) { f.Points[0].Missing = []string{"x"} }, "no complete recovery point up to 2026-01-01 11:59:30Z: the newest, p1, lacks x", ""},
		{"a beginning", PointRef{ID: "p2"}, func(f *Facts) { f.Points[1].ID = "p2-long" }, "p2-long", "p2-long is of"},
		{"a beginning of two", PointRef{ID: "p"}, nil, `2 recovery points of shop begin with "p"`, ""},
		{"an id that begins another", PointRef{ID: "p"}, func(f *Facts) { f.Points[0].ID = "p" }, "p", "p is of"},
		{"an incomplete one by name", PointRef{ID: "p2"}, func(f *Facts) { f.Points[1].Missing = []string{"x"} }, "p2", "p2 is of"},
		{"its data", PointRef{ID: "p2"}, func(f *Facts) {
			f.Points[1].Data[0].Beacon, f.Points[1].Data[0].Consistency = dr.Beacon{Sequence: 7, Time: noon}, dr.CrashConsistent
		}, "p2", "orders is of 2026-01-01 12:00:00Z (beacon 7, crash copy)"},
	} {
		f := shop()
		if c.change != nil {
			c.change(&f)
		}
		p, err := Build(f, Request{Goal: dr.GoalRestore, Point: c.point})
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
			continue
		}
		if p.RecoveryPoint != c.want || !strings.Contains(strings.Join(p.Notes, "\n"), c.notes) || c.notes == "" {
			t.Errorf("%s: %s with %q, want %s with %q", c.name, p.RecoveryPoint, p.Notes, c.want, c.notes)
		}
	}
}

func TestCloneAndHooks(t *testing.T) {
	t.Parallel()
	f := shop()
	f.Application.Data[0].Volume.Namespace, f.Application.Data[1].Volume.Namespace = "shop", "shop"
	hook := func(name string, when dr.HookMoment) dr.Hook {
		return dr.Hook{Name: name, When: when, Timeout: time.Minute}
	}
	f.Application.Restore.Hooks = []dr.Hook{hook("done", dr.HookAfter), hook("stop", dr.HookBefore), hook("stop-too", dr.HookBefore), hook("migrate", dr.HookBeforeWorkloads)}
	const data = " restore-data-orders<restore-foundation restore-data-uploads<restore-foundation"
	const hooked = "hook-stop%s hook-stop-too<hook-stop restore-foundation<hook-stop-too" + data +
		" hook-migrate<restore-foundation,restore-data-orders,restore-data-uploads restore-workloads<hook-migrate await-ready<restore-workloads hook-done<await-ready"
	copied := dr.Restoring{Namespaces: map[string]string{"shop": "copy"}}
	for _, c := range []struct {
		name    string
		request Request
		want    string
	}{
		{"clone", Request{Goal: dr.GoalClone, Restoring: copied}, strings.Replace(hooked, "%s", "", 1)},
		{"clone elsewhere, without hooks", Request{Goal: dr.GoalClone, To: "west", NoHooks: true, Restoring: copied},
			"restore-foundation" + data + " restore-workloads<restore-foundation,restore-data-orders,restore-data-uploads await-ready<restore-workloads"},
		{"restore", Request{Goal: dr.GoalRestore}, "claim-ownership " + strings.Replace(hooked, "%s", "<claim-ownership", 1) + " start-schedules<hook-done"},
		{"failover", Request{Goal: dr.GoalFailover}, "fence-old-site claim-ownership<fence-old-site " + strings.Replace(hooked, "%s", "<claim-ownership", 1) +
			" switch-traffic-a.example.com<hook-done switch-traffic-b.example.com<hook-done start-schedules<hook-done,switch-traffic-a.example.com,switch-traffic-b.example.com" +
			" probe-front<switch-traffic-a.example.com probe-all<switch-traffic-a.example.com,switch-traffic-b.example.com"},
	} {
		p, err := Build(f, c.request)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := shape(p); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back dr.Plan
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back, p) {
			t.Errorf("%s: from its JSON comes %+v (%v)", c.name, back, err)
		}
	}
}

func TestChoiceOfData(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		r        dr.Restoring
		want     string // the datastores restored
		notes    string
		warnings string
	}{
		{"everything", dr.Restoring{}, "orders uploads", "", ""},
		{"no data", dr.Restoring{NoData: true}, "", "", "the data of orders is not brought back"},
		{"one by name", dr.Restoring{Data: []string{"uploads"}}, "uploads", "", "the data of orders is not brought back"},
		{"of a namespace", dr.Restoring{Select: dr.Selector{Namespaces: []string{"back"}}}, "uploads", "only objects of namespace back", "the data of orders is not"},
		{"single objects", dr.Restoring{Select: dr.Selector{Kinds: []string{"cm"}, Names: []string{"a*", "b"}}}, "", "only objects of name a*, b", "--data orders brings it along"},
		{"single objects and data", dr.Restoring{Select: dr.Selector{Labels: "a=b"}, Data: []string{"orders"}, WithoutNeeds: true}, "orders", "what they need is left behind", "uploads is not"},
	} {
		f := shop()
		f.Application.Namespaces = []string{"shop", "back"}
		f.Application.Data[0].Volume.Namespace, f.Application.Data[1].Volume.Namespace = "shop", "back"
		p, err := Build(f, Request{Goal: dr.GoalRestore, Restoring: c.r})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var data []string
		for _, s := range p.Steps {
			if d, ok := s.Params.(dr.RestoreData); ok {
				data = append(data, d.Datastore)
			}
		}
		if got := strings.Join(data, " "); got != c.want || !strings.Contains(strings.Join(p.Notes, "\n"), c.notes) || !strings.Contains(strings.Join(p.Warnings, "\n"), c.warnings) {
			t.Errorf("%s: %s, notes %q, warnings %q", c.name, got, p.Notes, p.Warnings)
		}
		if (p.Restoring == nil) != c.r.Zero() {
			t.Errorf("%s: the plan says %+v", c.name, p.Restoring)
		}
	}
}

// A point that lacks only what is not asked for is complete enough to be asked for by name or not.
func TestIncompleteForWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	f := shop()
	f.Points[1].Data = f.Points[1].Data[:1] // the newest has no uploads
	p, err := Build(f, Request{Goal: dr.GoalRestore, Restoring: dr.Restoring{Data: []string{"orders"}}})
	if err != nil || p.RecoveryPoint != "p2" {
		t.Errorf("chose %s, %v", p.RecoveryPoint, err)
	}
}

func TestRestoringRefusals(t *testing.T) {
	t.Parallel()
	m := func(pairs ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	for _, c := range []struct {
		name    string
		request Request
		want    string
		next    string
	}{
		{"a namespace", Request{Goal: dr.GoalRestore, Restoring: dr.Restoring{Select: dr.Selector{Namespaces: []string{"x"}}}}, `shop has no namespace "x"`, "shop, back"},
		{"a datastore", Request{Goal: dr.GoalRestore, Restoring: dr.Restoring{Data: []string{"x"}}}, `shop has no datastore "x"`, "orders, uploads"},
		{"data and none", Request{Goal: dr.GoalRestore, Restoring: dr.Restoring{Data: []string{"orders"}, NoData: true}}, "both data", "Leave out"},
		{"nothing mapped", Request{Goal: dr.GoalClone}, "namespace shop is to be copied but not mapped", "--namespace-map shop="},
		{"half mapped", Request{Goal: dr.GoalClone, Restoring: dr.Restoring{Namespaces: m("shop", "a")}}, "namespace back is to be copied but not mapped", "--namespace-map back="},
		{"onto itself", Request{Goal: dr.GoalClone, Restoring: dr.Restoring{Namespaces: m("shop", "back", "back", "x")}}, "namespace back is shop's own", "not the application's"},
		{"two into one", Request{Goal: dr.GoalClone, Restoring: dr.Restoring{Namespaces: m("shop", "a", "back", "a")}}, "namespaces back and shop are both mapped to a", "of its own"},
		{"a stranger", Request{Goal: dr.GoalClone, Restoring: dr.Restoring{Namespaces: m("x", "a")}}, `no namespace "x" to map`, "shop, back"},
		{"nowhere", Request{Goal: dr.GoalClone, To: "south", Restoring: dr.Restoring{Namespaces: m("shop", "a", "back", "b")}}, "site south is not a place", "east, west, north"},
	} {
		f := shop()
		f.Application.Namespaces = []string{"shop", "back"}
		_, err := Build(f, c.request)
		var e *dr.Error
		if !errors.As(err, &e) || e.Class != dr.ClassUsage || !strings.Contains(e.Error(), c.want) || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestValidateClones(t *testing.T) {
	t.Parallel()
	good, err := Build(shop(), Request{Goal: dr.GoalClone, Restoring: dr.Restoring{Namespaces: map[string]string{"shop": "copy"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*dr.Plan){
		"its own namespaces": func(p *dr.Plan) { p.Restoring = nil },
		"a claim": func(p *dr.Plan) {
			p.Steps = append(p.Steps, dr.Step{ID: "c", Deadline: 1, Params: dr.Claim{Site: p.To}})
		},
		"traffic": func(p *dr.Plan) {
			p.Steps = append(p.Steps, dr.Step{ID: "t", Deadline: 1, Params: dr.SwitchTraffic{Site: p.To}})
		},
		"another site": func(p *dr.Plan) {
			p.Steps = append(p.Steps, dr.Step{ID: "h", Deadline: 1, Params: dr.RunHook{Site: "x"}})
		},
	} {
		p := good
		p.Steps = append([]dr.Step(nil), good.Steps...)
		change(&p)
		if Validate(p) == nil {
			t.Errorf("%s: sound", name)
		}
	}
}
