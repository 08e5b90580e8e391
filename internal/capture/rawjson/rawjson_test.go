package rawjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
)

// odd are documents that a careless reader gets wrong.
var odd = []string{
	`{}`, `[]`, `""`, `0`, `-0.0e+10`, `null`, ` { "b" : 1 , "a" : [ true , false , null ] } `,
	`{"b":{"y":1,"x":2},"a":"z"}`, `{"a":1,"a":2,"b":3,"a":4}`, `{"a\u0062":1,"ab":2}`,
	`{"quote":"\"","backslash":"\\","slash":"\/","u":"\u00e9","pair":"\ud83d\ude00","alone":"\ud83d","html":"\u003c<&>"}`,
	`{"unescaped":"é","separator":"` + "\u2028\u2029" + `","del":"` + "\x7f" + `"}`, "{\"invalid\":\"\xff\xc3\"}", "{\"k\xff\":1,\"k\xef\xbf\xbd\":2}",
	`{"brackets":"}]{[","nested":[[[{"a":[]}]]]}`, `{"big":12345678901234567890,"float":1.50,"exp":1E5}`,
	`{"":1,"~":2,"A":3,"a":4,"é":5,"z":6}`, `"` + strings.Repeat("x", 100) + `"`,
	`{"tab":"\t","nul":"\u0000","esc":"\\\"}"}`,
}

var broken = []string{
	``, ` `, `{`, `}`, `[`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `{"a" 1}`, `{a:1}`, `{1:2}`, `01`, `1.`, `.5`, `1e`, `-`, `+1`, `nul`, `nulll`,
	`"`, `"\x"`, `"\u12"`, `"\`, "\"\n\"", `{} {}`, `[1]]`, `tru`, `{"a":1 "b":2}`, "\"a\x01\"",
}

// decoded makes the value that encoding/json sees, with numbers as they are written.
func decoded(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// check holds a document against encoding/json: what the one refuses the other refuses, and the canonical
// form is what encoding/json writes of it.
func check(t *testing.T, raw []byte) {
	t.Helper()
	var d rawjson.Doc
	err := d.Parse(raw)
	v, want := decoded(raw)
	if (err == nil) != (want == nil) {
		t.Fatalf("%q: %v, encoding/json says %v", raw, err, want)
	}
	if err != nil {
		if !errors.Is(err, rawjson.ErrSyntax) || d.Root().Exists() {
			t.Errorf("%q: %v", raw, err)
		}
		return
	}
	if got, want := string(d.Append(nil, rawjson.Rewrite{})), encoded(t, v); got != want {
		t.Errorf("%q:\n got %q\nwant %q", raw, got, want)
	}
	if m, ok := v.(map[string]any); ok {
		for name, is := range m {
			if s, ok := is.(string); ok && d.Root().Get(name).Text() != s {
				t.Errorf("%q: member %q is %q", raw, name, d.Root().Get(name).Text())
			}
		}
	}
}

func TestOddDocuments(t *testing.T) {
	t.Parallel()
	for _, raw := range odd {
		check(t, []byte(raw))
	}
	for _, raw := range broken {
		check(t, []byte(raw))
	}
	var many strings.Builder
	many.WriteByte('{')
	for i := 200; i > 0; i-- {
		many.WriteString(`"k` + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + `":` + strings.Repeat("1", i%5+1) + ",")
	}
	check(t, []byte(strings.TrimSuffix(many.String(), ",")+"}"))
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	if err := new(rawjson.Doc).Parse([]byte(deep)); !errors.Is(err, rawjson.ErrSyntax) {
		t.Errorf("2000 deep: %v", err)
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	var d rawjson.Doc
	for raw, want := range map[string]string{
		`{"spec":{"b":1},"metadata":{"name":"n","managedFields":[1],"uid":"u"}}`: `{"apiVersion":"v1","kind":"K","metadata":{"name":"n","uid":"u"},"spec":{"b":1}}`,
		`{"kind":"X","apiVersion":"old","managedFields":1,"aa":2}`:               `{"aa":2,"apiVersion":"v1","kind":"K","managedFields":1}`,
		`{}`:                                  `{"apiVersion":"v1","kind":"K"}`,
		`{"zz":{"managedFields":1}}`:          `{"apiVersion":"v1","kind":"K","zz":{"managedFields":1}}`,
		`{"metadata":{"managedFields":[{}]}}`: `{"apiVersion":"v1","kind":"K","metadata":{}}`,
	} {
		if err := d.Parse([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		got := string(d.Append(nil, rawjson.Rewrite{
			Set: []rawjson.Member{{Name: "apiVersion", Value: []byte(`"v1"`)}, {Name: "kind", Value: []byte(`"K"`)}},
			In:  "metadata", Drop: []string{"managedFields"},
		}))
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", raw, got, want)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	var d rawjson.Doc
	if err := d.Parse([]byte(`{"a":{"b":[1,{"c":"\u0041"},"x"]},"n":5}`)); err != nil {
		t.Fatal(err)
	}
	var items []string
	for v := range d.Root().Get("a", "b").Items() {
		items = append(items, string(v.Raw())+v.Get("c").Text())
	}
	if strings.Join(items, " ") != `1 {"c":"\u0041"}A "x"` {
		t.Errorf("items %q", items)
	}
	var names []string
	for name := range d.Root().Members() {
		names = append(names, name)
	}
	if strings.Join(names, " ") != "a n" || d.Root().Get("n").Text() != "" || d.Root().Get("a", "nothing", "more").Exists() || !d.Root().Get("a").Exists() {
		t.Errorf("members %q", names)
	}
}

// listed reads a list as a server sends it.
func listed(in io.Reader) (items, others []string, err error) {
	err = rawjson.NewStream(in, 16).List(
		func(raw []byte) error { items = append(items, string(raw)); return nil },
		func(name string, raw []byte) error { others = append(others, name+"="+string(raw)); return nil })
	return items, others, err
}

func TestStreamOfAList(t *testing.T) {
	t.Parallel()
	const list = ` {"kind":"List","metadata":{"continue":"a\"]}","n":-1.5e3},"items":[ {"a":"}{\\\""} , [1,"]"],7 ,"s"],"last":true } ` + "\n"
	for name, in := range map[string]io.Reader{
		"at once": strings.NewReader(list), "byte by byte": iotest.OneByteReader(strings.NewReader(list)), "with the end": iotest.DataErrReader(strings.NewReader(list)),
	} {
		items, others, err := listed(in)
		if err != nil || strings.Join(items, "|") != `{"a":"}{\\\""}|[1,"]"]|7|"s"` ||
			strings.Join(others, "|") != `kind="List"|metadata={"continue":"a\"]}","n":-1.5e3}|last=true` {
			t.Errorf("%s: %q %q %v", name, items, others, err)
		}
	}
	whole := strings.TrimSpace(list)
	for n := range len(whole) {
		if _, _, err := listed(strings.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off after %q: %v", whole[:n], err)
		}
	}
	if _, others, err := listed(strings.NewReader(`{"items":null}`)); err != nil || strings.Join(others, "") != "items=null" {
		t.Errorf("%q %v", others, err)
	}
	large := `{"items":["` + strings.Repeat("é", 1<<20) + `"]}`
	if items, _, err := listed(strings.NewReader(large)); err != nil || len(items[0]) != 2<<20+2 {
		t.Errorf("a large item: %v", err)
	}
}

func TestStreamOfEvents(t *testing.T) {
	t.Parallel()
	s := rawjson.NewStream(iotest.HalfReader(strings.NewReader("{\"a\":1}\n{\"b\":\"\\n\"}\n 12 3")), 16)
	var got []string
	for {
		raw, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(raw))
	}
	if strings.Join(got, "|") != `{"a":1}|{"b":"\n"}|12|3` {
		t.Errorf("%q", got)
	}
}

func FuzzDocument(f *testing.F) {
	for _, raw := range append(odd, broken...) {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		check(t, raw)
		_, _, _ = listed(bytes.NewReader(raw)) // no panic, and it ends
		if _, err := decoded(raw); err == nil {
			got, err := rawjson.NewStream(bytes.NewReader(raw), 0).Next()
			if err != nil || !bytes.Equal(bytes.TrimSpace(raw), got) {
				t.Errorf("%q: cut out %q, %v", raw, got, err)
			}
		}
	})
}

func BenchmarkCanonical(b *testing.B) {
	raw := []byte(`{"metadata":{"name":"object-000001","namespace":"pop-1","uid":"0d6e3d9e-95a0-4b9a-8a6f-3c5f0a2a5b11","resourceVersion":"1234","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"population","tier":"1"},"managedFields":[{"manager":"lifeboat","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{".":{},"f:application.properties":{}},"f:metadata":{"f:labels":{".":{},"f:app":{},"f:tier":{}}}}}]},"data":{"application.properties":"` + strings.Repeat(`server.cache.level=83a0b7c2d9e1f004\n`, 28) + `"}}`)
	var d rawjson.Doc
	var out []byte
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if err := d.Parse(raw); err != nil {
			b.Fatal(err)
		}
		out = d.Append(out[:0], rawjson.Rewrite{In: "metadata", Drop: []string{"managedFields", "resourceVersion"}})
	}
}
