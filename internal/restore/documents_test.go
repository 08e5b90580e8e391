package restore

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// stock is a Source and a Reader.
type stock struct {
	objects int
	large   func(i int) bool
	reads   []string
}

func (s *stock) doc(i int) []byte {
	body := make([]byte, 400)
	if s.large(i) {
		body = make([]byte, largeDocument)
	}
	r := rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // the same each time
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","type":"Opaque","metadata":{"name":"s%d","namespace":"shop","labels":{"app":"shop"},"uid":"u%d"},"data":{"a":%q}}`,
		i, i, base64.StdEncoding.EncodeToString(body))
}

func (s *stock) Walk(_ context.Context, fn func(string, []byte) error) error {
	for i := range s.objects {
		if err := fn(fmt.Sprint(i), s.doc(i)); err != nil {
			return err
		}
	}
	return fn(metaPath, fmt.Appendf(nil, `{"objects":%d}`, s.objects))
}

func (s *stock) Read(_ context.Context, path string) ([]byte, error) {
	var i int
	if _, err := fmt.Sscan(path, &i); err != nil {
		return nil, err
	}
	s.reads = append(s.reads, path)
	return s.doc(i), nil
}

func TestDocumentsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	source := &stock{objects: 5000, large: func(i int) bool { return i%1000 == 3 }} // more than the sample holds
	s, err := Load(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	for i := range source.objects {
		at := s.find(key{secretKind, "shop", fmt.Sprintf("s%d", i)})
		if at < 0 {
			t.Fatalf("s%d is not found", i)
		}
		doc, err := s.docs.get(t.Context(), s.entries[at].ref)
		if err != nil || string(doc) != string(source.doc(i)) {
			t.Fatalf("document %d came back as %.100s, error %v", i, doc, err)
		}
	}
	if len(source.reads) != 5 {
		t.Errorf("read again: %v; want the large ones alone", source.reads)
	}
	o := s.lookup(key{secretKind, "shop", "s3"})
	if o == nil || o.Object["type"] != "Opaque" || o.GetLabels()["app"] != "shop" || o.Object["data"] != nil {
		t.Errorf("the outline of a large one: %.200v", o)
	}
}

func TestWhatIsAlikeTakesNoRoom(t *testing.T) {
	t.Parallel()
	source := &stock{objects: 5000, large: func(int) bool { return false }}
	s, err := Load(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	packed := 0
	for _, e := range s.entries {
		packed += int(e.ref.packed)
	}
	// 400 random bytes, in base64, are the body of each.
	if each := packed / len(s.entries); each > 500 {
		t.Errorf("%d bytes each, of %d", each, len(source.doc(0)))
	}
}

func TestLoadRefusesAnObjectThatIsThereTwice(t *testing.T) {
	t.Parallel()
	doc := `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}`
	if _, err := Load(t.Context(), docs{doc, doc}); err == nil || !strings.Contains(err.Error(), "ConfigMap shop/a") {
		t.Errorf("error %v", err)
	}
}
