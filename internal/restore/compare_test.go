package restore

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, doc string) *unstructured.Unstructured {
	t.Helper()
	s := load(t, doc)
	o, err := s.object(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCompare(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: v1\nkind: X\nmetadata: {name: x, namespace: shop}\n"
	for name, c := range map[string]struct {
		want, live string
		diffs      []string // parts of the differences, in order
	}{
		"equal":                            {"spec: {a: 1, b: [x, y]}", "spec: {a: 1, b: [x, y]}", nil},
		"defaults are none":                {"spec: {a: 1}", "spec: {a: 1, b: 2, c: {d: e}}", nil},
		"status is none":                   {"status: {a: 1}", "status: {a: 2}", nil},
		"an absent zero is none":           {"spec: {a: '', b: false, c: {}, d: [], e: null}", "spec: {}", nil},
		"a value":                          {"spec: {a: 1}", "spec: {a: 2}", []string{"spec.a is 2, should be 1"}},
		"a missing value":                  {"spec: {a: {b: c}}", "spec: {}", []string{"spec.a.b is not set, should be c"}},
		"whole and fractional numbers":     {"spec: {a: 2}", "spec: {a: 2.0}", nil},
		"order matters in plain lists":     {"spec: {a: [x, y]}", "spec: {a: [y, x]}", []string{"spec.a[0]", "spec.a[1]"}},
		"a longer plain list":              {"spec: {a: [x]}", "spec: {a: [x, y]}", []string{"spec.a has 2 entries, should have 1"}},
		"an injected sidecar is none":      {"spec: {c: [{name: a, image: i}]}", "spec: {c: [{name: side, image: s}, {name: a, image: i, pull: Always}]}", nil},
		"a named element that is missing":  {"spec: {c: [{name: a}]}", "spec: {c: [{name: b}]}", []string{"spec.c has no a"}},
		"an element's value":               {"spec: {c: [{name: a, v: 1}]}", "spec: {c: [{name: b, v: 1}, {name: a, v: 2}]}", []string{"spec.c[a].v is 2"}},
		"ports by number and protocol":     {"spec: {p: [{port: 80}]}", "spec: {p: [{port: 80, protocol: UDP, x: 1}, {port: 80, protocol: TCP, nodePort: 3}]}", nil},
		"names that are not unique":        {"spec: {e: [{name: A, value: '1'}, {name: A, value: '2'}]}", "spec: {e: [{name: A, value: '1'}, {name: A, value: '3'}]}", []string{"spec.e[1].value is 3"}},
		"secrets are not shown":            {"data: {password: aHVudGVy}", "data: {password: b3RoZXI=}", []string{"data.password differs"}},
		"keys with dots stay readable":     {"spec: {m: {a.b/c: x}}", "spec: {m: {a.b/c: z}}", []string{"spec.m[a.b/c] is z, should be x"}},
		"a list where there should be one": {"spec: {a: [x]}", "spec: {a: {b: c}}", []string{"spec.a is {b}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := compare(object(t, head+c.want), object(t, head+c.live))
			if len(got) != len(c.diffs) {
				t.Fatalf("differences %q, want %q", got, c.diffs)
			}
			for i, part := range c.diffs {
				if !strings.Contains(got[i], part) {
					t.Errorf("difference %q, want %q", got[i], part)
				}
			}
			for _, d := range got {
				if strings.Contains(d, "aHVudGVy") || strings.Contains(d, "b3RoZXI") {
					t.Errorf("a secret is shown: %q", d)
				}
			}
		})
	}
}

func TestLastingLeavesOutOurMarks(t *testing.T) {
	t.Parallel()
	var live map[string]any
	if err := yaml.Unmarshal([]byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop}, data: {a: c}}"), &live); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, load(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop}, data: {a: b}}"), options())
	all := compare(formOf(t, p, p.items[0]).obj, &unstructured.Unstructured{Object: live})
	if got := lasting(all); len(got) != 1 || !strings.HasPrefix(got[0], "data.a") {
		t.Errorf("of %q these last: %q", all, got)
	}
}

func TestMapGeneration(t *testing.T) {
	t.Parallel()
	in := map[string]any{"observedGeneration": int64(7), "conditions": []any{
		map[string]any{"type": "A", "observedGeneration": int64(7)}, map[string]any{"type": "B", "observedGeneration": int64(6)},
	}}
	out := mapGeneration(in, 7, 1)
	if out["observedGeneration"] != int64(1) || maps(out, "conditions")[0]["observedGeneration"] != int64(1) || maps(out, "conditions")[1]["observedGeneration"] != int64(6) {
		t.Errorf("got %v", out)
	}
	if in["observedGeneration"] != int64(7) {
		t.Error("the captured status changed")
	}
}

func TestObstacles(t *testing.T) {
	t.Parallel()
	p := prepare(t, load(t, sample()...), options())
	tg := &target{site: "west", coming: map[gk]bool{}, kinds: map[gk]served{}, failed: map[string]error{}, classes: map[string]class{"plain": {}}}
	for _, it := range p.items {
		if it.key.Kind != "Route" && it.key.Kind != "Discount" {
			tg.kinds[it.key.GroupKind] = served{resource: "r", versions: []servedVersion{{name: "v1"}}}
		}
	}
	tg.willServe(p)
	got := strings.Join(tg.lacks(p), "\n")
	for _, part := range []string{"storage class premium does not exist at site west", "it has plain", "needed by PersistentVolumeClaim shop/data", "does not serve kind Route.route.openshift.io"} {
		if !strings.Contains(got, part) {
			t.Errorf("obstacles do not say %q:\n%s", part, got)
		}
	}
	if strings.Contains(got, "Discount") {
		t.Errorf("a kind whose CRD comes with the set is an obstacle:\n%s", got)
	}
}

func TestVersionFallsBackToWhatIsServed(t *testing.T) {
	t.Parallel()
	kind := gk{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}
	tg := &target{kinds: map[gk]served{kind: {versions: []servedVersion{{name: "v2"}, {name: "v1"}}}}}
	for own, want := range map[string]string{"v1": "v1", "v2": "v2", "v2beta2": "v2"} {
		if got, ok := tg.version(kind, own); !ok || got.name != want {
			t.Errorf("version for %s: %s, %v; want %s", own, got.name, ok, want)
		}
	}
	if _, ok := tg.version(gk{Kind: "Nothing"}, "v1"); ok {
		t.Error("a kind that is not served has a version")
	}
}
