package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func document(t *testing.T, doc string) *unstructured.Unstructured {
	t.Helper()
	o, err := decode([]byte(doc))
	if err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return o
}

// managed is an object whose fields were set by some, each "manager/operation fields".
func managed(t *testing.T, doc string, by ...string) *unstructured.Unstructured {
	t.Helper()
	o := document(t, doc)
	var entries []any
	for _, b := range by {
		who, fields, _ := strings.Cut(b, " ")
		manager, op, _ := strings.Cut(who, "/")
		entries = append(entries, map[string]any{"manager": manager, "operation": op, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": document(t, fields).Object})
	}
	meta, _ := o.Object["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		o.Object["metadata"] = meta
	}
	meta["managedFields"] = entries
	return o
}

// What several writes come to is what a real server made of them one after the other.
func TestWritesTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		before, last *unstructured.Unstructured
		fence, want  string
		becomes      string
	}{
		{"what is not applied any more goes",
			managed(t, `{"data":{"a":"1","goes":"1","theirs":"1"}}`, `lifeboat/Update {"f:data":{".":{},"f:a":{},"f:goes":{}}}`, `kubectl/Update {"f:data":{"f:theirs":{}}}`),
			managed(t, `{"data":{"a":"2","goes":"1","theirs":"1"}}`, `lifeboat/Apply {"f:data":{"f:a":{}}}`, `lifeboat/Update {"f:data":{".":{},"f:goes":{}}}`, `kubectl/Update {"f:data":{"f:theirs":{}}}`),
			"", `{}`, `{"data":{"a":"2","theirs":"1"}}`},
		{"an element of a list goes with what the server filled in",
			managed(t, `{"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80},{"port":81,"protocol":"TCP","targetPort":81}]}}`,
				`lifeboat/Update {"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{}},"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{}}}}}`),
			managed(t, `{"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80},{"port":81,"protocol":"TCP","targetPort":81}]}}`,
				`lifeboat/Apply {"f:spec":{"f:ports":{"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}`),
			"", `{}`, `{"spec":{"ports":[{"port":81,"targetPort":81}]}}`}, // the protocol is filled in again
		{"a value of a set goes, an atomic map goes whole",
			managed(t, `{"metadata":{"finalizers":["a/b","c/d"]},"spec":{"selector":{"a":"b"}}}`, `lifeboat/Update {"f:metadata":{"f:finalizers":{".":{},"v:\"a/b\"":{}}},"f:spec":{"f:selector":{}}}`),
			managed(t, `{"metadata":{"finalizers":["a/b","c/d"]},"spec":{"selector":{"a":"b"}}}`, `other/Update {"f:metadata":{"f:finalizers":{"v:\"c/d\"":{}}}}`),
			"", `{}`, `{"metadata":{"finalizers":["c/d"]},"spec":{}}`},
		{"a fence is undone where nothing is wanted", managed(t, `{"spec":{"replicas":0}}`), managed(t, `{"metadata":{"annotations":{"fence":"2"}},"spec":{"replicas":3,"nodes":{"fence":"y"}}}`),
			`{"metadata":{"annotations":{"fence":null}},"spec":{"replicas":2,"nodes":{"fence":null}}}`, `{"spec":{"replicas":3}}`, `{"metadata":{},"spec":{"replicas":3}}`},
		{"a last write that is refused by itself",
			managed(t, `{"spec":{"ports":[{"port":80,"targetPort":80}],"theirs":"1"},"list":[1]}`, `lifeboat/Update {"f:list":{},"f:spec":{"f:ports":{".":{},"k:{\"port\":80}":{".":{},"f:port":{}}}}}`, `other/Update {"f:spec":{"f:theirs":{}}}`), nil,
			"", `{"spec":{"ports":[{"port":81}],"new":{"a":1}},"list":[2]}`, `{"spec":{"ports":[{"port":81}],"theirs":"1","new":{"a":1}},"list":[2]}`},
	} {
		f := &foresight{before: c.before, adopted: c.fence == ""}
		if c.fence != "" {
			f.fence = document(t, c.fence).Object
		}
		got, err := f.together(document(t, c.want), c.last)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if meta := got.Object["metadata"]; len(dig(got.Object, "metadata")) == 0 && !strings.Contains(c.becomes, "metadata") && meta != nil {
			delete(got.Object, "metadata")
		}
		a, _ := json.Marshal(got.Object)
		b, _ := json.Marshal(document(t, c.becomes).Object)
		if string(a) != string(b) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, a, b)
		}
	}
}

// Of a refusal a person is told, but not what the object holds; what cannot be asked for is not a refusal.
func TestFailuresOfADryRun(t *testing.T) {
	t.Parallel()
	d := &dryRun{applier: &applier{site: &site{prepared: &Prepared{all: []item{{key: key{GroupKind: priorityKind, Name: "high"}}}}}}, coming: map[int]bool{0: true}}
	pod := &item{needs: []edge{{to: 0}}}
	jobs := schema.GroupResource{Group: "batch", Resource: "jobs"}
	invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "Job"}, "j", nil)
	invalid.ErrStatus.Message = `Job "j" is invalid: spec.template: Invalid value: core.PodTemplateSpec{Spec:core.PodSpec{Env:"aardvark"}}: field is immutable`
	there := &foresight{before: &unstructured.Unstructured{}}
	for _, c := range []struct {
		name    string
		dry     *foresight
		err     error
		outcome Outcome
		says    string
	}{
		{"refused", there, invalid, Refused, "core.PodTemplateSpec{…}: field is immutable"},
		{"forbidden", there, apierrors.NewForbidden(jobs, "j", errors.New("no")), Refused, "forbidden"},
		{"may pass", there, apierrors.NewServiceUnavailable("starting"), Waits, "starting"},
		{"slow", there, fmt.Errorf("asking: %w", context.DeadlineExceeded), Waits, "deadline"},
		{"cannot be asked, new", &foresight{}, apierrors.NewBadRequest(`admission webhook "a" does not support dry run`), Created, "does not support dry run"},
		{"cannot be asked, there", there, apierrors.NewBadRequest(`admission webhook "a" does not support dry run`), Changed, "does not support dry run"},
		{"needs what comes too", &foresight{}, apierrors.NewForbidden(jobs, "j", errors.New("no PriorityClass with name high was found")), Created, "what it needs is not there yet"},
		{"needs what is not there", there, apierrors.NewForbidden(jobs, "j", errors.New("no PriorityClass with name low was found")), Refused, "low"},
		{"being deleted", there, errDeleting, Created, "is being deleted"},
	} {
		f := Foreseen{}
		if err := d.fails(t.Context(), pod, c.dry, &f, c.err); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if f.Outcome != c.outcome || !strings.Contains(f.Reason+f.Untried, c.says) || strings.Contains(f.Reason, "aardvark") {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
	if err := d.fails(t.Context(), pod, there, &Foreseen{}, fmt.Errorf("connect: %w", syscall.ECONNREFUSED)); err == nil {
		t.Error("a site that does not answer is taken for one object's trouble")
	}
}

// What a problem or a note says of a difference holds no secret.
func TestDifferencesHideSecrets(t *testing.T) {
	t.Parallel()
	want := document(t, `{"kind":"Deployment","spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"DB_PASSWORD","value":"aardvark"},{"name":"MODE","value":"x"}]}]}},"list":[{"value":"aardvark"}]}}`)
	live := document(t, `{"kind":"Deployment","spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"DB_PASSWORD","value":"aardwolf"},{"name":"MODE","value":"y"}]}]}}}}`)
	got := strings.Join(compare(want, live), "; ")
	if strings.Contains(got, "aard") || !strings.Contains(got, "env[DB_PASSWORD].value differs") || !strings.Contains(got, "env[MODE].value is y, should be x") {
		t.Errorf("got %s", got)
	}
}
