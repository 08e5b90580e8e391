package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/capture/rawjson"
	"lifeboat.dev/lifeboat/internal/kube"
)

// explicitFields says which node ports and addresses of a Service its owner asked for. Only the managed
// fields tell (what the API server allots has no manager), and those are not kept.
func explicitFields(o rawjson.Value) string {
	found := map[string]bool{}
	for entry := range o.Get("metadata", "managedFields").Items() {
		if fields := entry.Get("fieldsV1"); entry.Get("subresource").Text() == "" {
			managedFields(fields.Get("f:spec"), found)
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), ",")
}

// managedFields reads one manager's fields, which are a tree with keys such as f:ports and
// k:{"port":80,"protocol":"TCP"}.
func managedFields(spec rawjson.Value, found map[string]bool) {
	for _, field := range []string{"clusterIP", "healthCheckNodePort", "ipFamilies", "loadBalancerIP"} {
		if spec.Get("f:" + field).Exists() {
			found[field] = true
		}
	}
	for key, fields := range spec.Get("f:ports").Members() {
		if !fields.Get("f:nodePort").Exists() {
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

// markExplicit writes a Service with a note of what was asked for.
func markExplicit(dst []byte, o rawjson.Value, explicit string) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(o.Raw()))
	d.UseNumber() // whole numbers stay whole
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	m["apiVersion"], m["kind"] = "v1", "Service"
	meta, _ := m["metadata"].(map[string]any)
	for _, field := range []string{"managedFields", "resourceVersion", "selfLink"} {
		delete(meta, field)
	}
	annotations, _ := meta["annotations"].(map[string]any)
	if annotations == nil {
		annotations = map[string]any{}
		meta["annotations"] = annotations
	}
	annotations[kube.AnnotationExplicit] = explicit
	doc, err := encode(m)
	return append(dst, doc...), err
}
