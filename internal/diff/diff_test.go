package diff

import (
	"encoding/json"
	"strings"
	"testing"
)

func object(t *testing.T, s string) map[string]any {
	t.Helper()
	if s == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return m
}

func TestFields(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, before, after, want string }{
		{"nothing", `{"spec":{"a":1}}`, `{"spec":{"a":1.0}}`, ""},
		{"changed", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":3}}`, "~ spec.replicas: 2 → 3\n"},
		{"added and removed", `{"spec":{"a":"x"}}`, `{"spec":{"b":"y"}}`, "- spec.a: x\n+ spec.b: y\n"},
		{"a key with dots", `{"metadata":{}}`, `{"metadata":{"labels":{"a.example/b":"c"}}}`, "+ metadata.labels: {\"a.example/b\":\"c\"}\n"},
		{"a label", `{"metadata":{"labels":{"z":"1"}}}`, `{"metadata":{"labels":{"z":"1","a.example/b":"c"}}}`, "+ metadata.labels[a.example/b]: c\n"},
		{"empty is nothing", `{"spec":{"a":{}, "c":null}}`, `{"spec":{"b":[]}}`, ""},
		{"another type", `{"spec":{"a":{"b":1}}}`, `{"spec":{"a":[1]}}`, "~ spec.a: {\"b\":1} → [1]\n"},
		{"containers by name, whatever their order", `{"spec":{"containers":[{"name":"a","image":"a:1"},{"name":"b","image":"b:1"}]}}`,
			`{"spec":{"containers":[{"name":"b","image":"b:2"},{"name":"a","image":"a:1"}]}}`, "~ spec.containers[b].image: b:1 → b:2\n"},
		{"ports by number", `{"spec":{"ports":[{"port":80},{"port":81}]}}`, `{"spec":{"ports":[{"port":81}]}}`, "- spec.ports[80/TCP]: {\"port\":80}\n"},
		{"lists without names", `{"spec":{"args":["a","b"]}}`, `{"spec":{"args":["a","c","d"]}}`, "~ spec.args[1]: b → c\n+ spec.args[2]: d\n"},
		{"what the cluster writes", `{"metadata":{"uid":"1","resourceVersion":"7","generation":1,"ownerReferences":[{"name":"a","uid":"1"}]}}`,
			`{"metadata":{"uid":"2","generation":2,"ownerReferences":[{"name":"a","uid":"2"}]}}`, ""},
		{"a status", `{"status":{"phase":"a"}}`, `{"status":{"phase":"b"}}`, ""},
		{"texts", `{"data":{"f":"a\nb\nc\nd"}}`, `{"data":{"f":"a\nB\nc\nd"}}`, "~ data.f:\n    - b\n    + B\n"},
		{"a secret", `{"kind":"Secret","data":{"key":"YWFyZHZhcms="}}`, `{"kind":"Secret","data":{"key":"YWFyZHdvbGY="}}`,
			"~ data.key: (secret, 8 bytes) → (secret, 8 bytes), others\n"},
		{"a secret's new key", `{"kind":"Secret","data":{"a":"YQ=="}}`, `{"kind":"Secret","data":{"a":"YQ==","key":"YWFyZHZhcms="},"stringData":{"x":"aardvark"}}`,
			"+ data.key: (secret, 8 bytes)\n+ stringData: {\"x\":\"(secret, 8 bytes)\"}\n"},
		{"what kubectl keeps of a secret", `{"kind":"Secret","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"aardvark"}}}`, `{"kind":"Secret"}`, ""},
		{"what Kubernetes counts", `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}`, `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"2"}}}`, ""},
		{"a variable that is named like a secret", `{"spec":{"containers":[{"name":"a","env":[{"name":"DB_PASSWORD","value":"aardvark"}]}]}}`,
			`{"spec":{"containers":[{"name":"a","env":[{"name":"DB_PASSWORD","value":"aardwolf"},{"name":"API_TOKEN","value":"aardvark"}]}]}}`,
			"~ spec.containers[a].env[DB_PASSWORD].value: (secret) → (secret)\n+ spec.containers[a].env[API_TOKEN]: {\"name\":\"API_TOKEN\",\"value\":\"(secret)\"}\n"},
		{"what moves the cursor", `{"data":{"a":"x"}}`, "{\"data\":{\"a\":\"\\u001b[2J\"}}", "~ data.a: x → ·[2J\n"},
	} {
		var b strings.Builder
		Lines(&b, "", Fields(object(t, c.before), object(t, c.after), Options{}))
		if got := b.String(); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
		if strings.Contains(b.String(), "aardv") || strings.Contains(b.String(), "YWFyZ") {
			t.Errorf("%s: a secret is shown: %s", c.name, b.String())
		}
	}
}

func TestStatusOnRequest(t *testing.T) {
	t.Parallel()
	got := Fields(object(t, `{"status":{"phase":"a"}}`), object(t, `{"status":{"phase":"b"}}`), Options{Status: true})
	if len(got) != 1 || got[0].Path != "status.phase" {
		t.Errorf("got %v", got)
	}
}

func TestFieldsThatDoNotCount(t *testing.T) {
	t.Parallel()
	got := Fields(object(t, `{"metadata":{"labels":{"ours":"a","theirs":"a"}}}`), object(t, `{"metadata":{"annotations":{"ours":"b"},"labels":{"theirs":"b"}}}`), Options{Without: []string{"ours"}})
	if len(got) != 1 || got[0].Path != "metadata.labels.theirs" {
		t.Errorf("got %v", got)
	}
}

// What is different one way is different the other way, with the signs turned round.
func TestFieldsAreSymmetric(t *testing.T) {
	t.Parallel()
	a := object(t, `{"spec":{"x":1,"list":[{"name":"a","v":1},{"name":"b"}],"m":{"k":"v"}}}`)
	b := object(t, `{"spec":{"y":1,"list":[{"name":"c"},{"name":"a","v":2}],"m":{"k":"w"}}}`)
	turned := map[Op]Op{Added: Removed, Removed: Added, Changed: Changed}
	back := map[string]Op{}
	for _, f := range Fields(b, a, Options{}) {
		back[f.Path] = f.Op
	}
	there := Fields(a, b, Options{})
	if len(there) != 6 || len(back) != len(there) {
		t.Fatalf("%d there, %d back: %v", len(there), len(back), there)
	}
	for _, f := range there {
		if back[f.Path] != turned[f.Op] {
			t.Errorf("%s: %s there, %s back", f.Path, f.Op, back[f.Path])
		}
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := Write(&b, []Object{{Object: "ConfigMap shop/a", Op: Added}, {Object: "Deployment shop/b", Op: Changed, Fields: []Field{{Path: "spec.replicas", Op: Changed, Before: 1, After: 2}}}})
	if want := "+ ConfigMap shop/a\n~ Deployment shop/b\n    ~ spec.replicas: 1 → 2\n"; err != nil || b.String() != want {
		t.Errorf("got %q, %v, want %q", b.String(), err, want)
	}
}
