package population_test

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/lab/internal/apiserver"
	"lifeboat.dev/lifeboat/lab/internal/population"
)

func TestPopulationIsDeterministicAndMixed(t *testing.T) {
	t.Parallel()
	s := population.Spec{Objects: 600}
	counts, names := map[string]int{}, map[string]bool{}
	for i := range s.Objects {
		a, b := s.At(i), s.At(i)
		x, _ := json.Marshal(a.Body)
		y, _ := json.Marshal(b.Body)
		if string(x) != string(y) {
			t.Fatalf("object %d differs from itself", i)
		}
		counts[a.Resource.Resource]++
		names[a.Body.GetNamespace()] = true
	}
	if counts["configmaps"] != 300 || counts["secrets"] != 120 || counts["widgets"] != 30 || counts["deployments"] != 30 || len(counts) != 8 || len(names) != 5 {
		t.Errorf("%v in %v", counts, names)
	}
}

func TestMakeAndChange(t *testing.T) {
	t.Parallel()
	binary, err := apiserver.Binary()
	if errors.Is(err, apiserver.ErrNoBinary) && os.Getenv("LIFEBOAT_CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.Start(t.Context(), binary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := kube.Connect(t.Context(), dr.Site{Name: "one", Cluster: dr.Cluster{Kubeconfig: server.Kubeconfig}})
	if err != nil {
		t.Fatal(err)
	}
	s := population.Spec{Objects: 300, Namespaces: 3}
	if err := population.Make(t.Context(), c, s); err != nil {
		t.Fatal(err)
	}
	if n, err := population.Change(t.Context(), c, s, 10, 1); err != nil || n != 30 {
		t.Fatalf("%d changed, %v", n, err)
	}
	found, changed := 0, 0
	for i := range s.Objects {
		o := s.At(i)
		is, err := c.Dynamic.Resource(o.Resource).Namespace(o.Body.GetNamespace()).Get(t.Context(), o.Body.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found++
		if is.GetAnnotations()["population.example.com/round"] == "1" {
			changed++
		}
		if phase, _, _ := unstructured.NestedString(is.Object, "status", "phase"); o.Status && phase != "Ready" {
			t.Errorf("%s has status %v", o.Body.GetName(), is.Object["status"])
		}
	}
	if found != 300 || changed != 30 {
		t.Errorf("%d found, %d changed", found, changed)
	}
}
