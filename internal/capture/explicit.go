package capture

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/kube"
)

// markExplicit notes on a Service which node ports and addresses its owner asked for. Only the managed
// fields tell (what the API server allots has no manager), and those are not kept.
func markExplicit(obj *unstructured.Unstructured) {
	if obj.GroupVersionKind().GroupKind() != (schema.GroupKind{Kind: "Service"}) {
		return
	}
	found := map[string]bool{}
	for _, entry := range obj.GetManagedFields() {
		if entry.FieldsV1 != nil && entry.Subresource == "" {
			explicitFields(entry.FieldsV1, found)
		}
	}
	if len(found) == 0 {
		return
	}
	names := make([]string, 0, len(found))
	for n := range found {
		names = append(names, n)
	}
	slices.Sort(names)
	annotations := obj.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[kube.AnnotationExplicit] = strings.Join(names, ",")
	obj.SetAnnotations(annotations)
}

// explicitFields reads one manager's fields, which are a tree with keys such as f:ports and
// k:{"port":80,"protocol":"TCP"}.
func explicitFields(raw *metav1.FieldsV1, found map[string]bool) {
	var tree struct {
		Spec map[string]json.RawMessage `json:"f:spec"`
	}
	if json.Unmarshal(raw.GetRawBytes(), &tree) != nil {
		return // not ours to judge: nothing counts as asked for
	}
	for _, field := range []string{"clusterIP", "healthCheckNodePort", "ipFamilies", "loadBalancerIP"} {
		if _, ok := tree.Spec["f:"+field]; ok {
			found[field] = true
		}
	}
	var ports map[string]map[string]json.RawMessage
	if json.Unmarshal(tree.Spec["f:ports"], &ports) != nil {
		return
	}
	for key, fields := range ports {
		if _, ok := fields["f:nodePort"]; !ok {
			continue
		}
		var k struct {
			Port     int    `json:"port"`
			Protocol string `json:"protocol"`
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(key, "k:")), &k) == nil && k.Port != 0 {
			found[fmt.Sprintf("nodePort/%d/%s", k.Port, k.Protocol)] = true
		}
	}
}
