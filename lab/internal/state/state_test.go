package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("loading a state that is not there: %v", err)
	}
	want := &State{Name: "x", Dir: dir, Nodes: Processes, Sites: []Site{{Name: "east", HTTPPort: 8080}}, Notes: []string{"n"}}
	for range 2 { // the second replaces the first
		if err := Save(want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, saved %+v", got, want)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 {
		t.Errorf("saving left %v behind", files)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a torn state was loaded")
	}
}

// What other programs read of `lifeboat-lab up -o json` keeps its names.
func TestNamesThatOthersRead(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(State{Sites: []Site{{}}})
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]any
	if err := json.Unmarshal(b, &top); err != nil {
		t.Fatal(err)
	}
	site := top["sites"].([]any)[0].(map[string]any)
	for _, c := range []struct {
		in    map[string]any
		names []string
	}{
		{top, []string{"name", "dir", "nodes", "sites", "dns", "resolver", "caFile", "notes"}},
		{site, []string{"name", "region", "kubeconfig", "context", "apiServer", "ingressAddress", "ingressDomain", "httpPort", "httpsPort", "registry", "storageClass", "state"}},
		{top["dns"].(map[string]any), []string{"zone", "server", "keyFile", "software"}},
	} {
		for _, n := range c.names {
			if _, ok := c.in[n]; !ok {
				t.Errorf("no %q in %v", n, slices.Sorted(keys(c.in)))
			}
		}
	}
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
