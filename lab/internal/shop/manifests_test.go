package shop

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestManifests(t *testing.T) {
	t.Parallel()
	out, err := Manifests(Params{Registry: "127.66.10.3:5000", StorageClass: "premium-east", Host: "shop.lab.test", Site: "east"})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for doc := range strings.SplitSeq(string(out), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(strings.TrimPrefix(doc, "---\n")), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		kinds = append(kinds, o.Kind)
	}
	want := "Namespace CustomResourceDefinition ConfigMap Secret ServiceAccount Role RoleBinding PersistentVolumeClaim Deployment Service Route CronJob Discount"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("kinds\n%s, want\n%s", got, want)
	}
	for _, part := range []string{`image: "127.66.10.3:5000/shop:1"`, `storageClassName: "premium-east"`, `host: "shop.lab.test"`} {
		if !strings.Contains(string(out), part) {
			t.Errorf("no %s in the manifests", part)
		}
	}
	if _, err := Manifests(Params{Registry: "r"}); err == nil {
		t.Error("manifests without a storage class")
	}
}
