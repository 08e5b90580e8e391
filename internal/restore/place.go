package restore

import (
	"fmt"
	"slices"
	"strings"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Image is what an image of one site is called at another.
func Image(image string, from, to dr.Site) string {
	name, _ := rewriteImage(image, from.Registry, to.Registry)
	return name
}

// placing is the part of a transform that is about where something runs.
type placing struct{ *transform }

// all maps what an object asks of a site's nodes and routers to what there is at the target. The fields
// are known by their names, so that templates inside of custom resources follow too.
func (t placing) all() {
	if t.opts.From.Name == t.opts.To.Name || t.item.key.GroupKind == crdKind {
		return
	}
	if t.item.key.GroupKind == ingressKind {
		t.ingressClass(dig(t.obj.Object, "spec"), "ingressClassName")
		t.ingressClass(dig(t.obj.Object, "metadata", "annotations"), "kubernetes.io/ingress.class")
	}
	if spec, ok := t.obj.Object["spec"]; ok {
		t.demands("spec", spec)
	}
}

func (t placing) ingressClass(m map[string]any, field string) {
	class, _ := m[field].(string)
	to, ok := t.opts.To.IngressClasses[class]
	if !ok {
		to, ok = t.opts.To.IngressClasses["*"]
	}
	if ok && class != "" && to != class {
		m[field] = to
		t.note("ingress class %s becomes %s", class, to)
	}
}

// demands looks for what is said of nodes, at any depth.
func (t placing) demands(path string, v any) {
	switch x := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(x) {
			p := path + field(k)
			switch k {
			case "nodeSelector":
				if m, ok := x[k].(map[string]any); ok {
					if t.nodeSelector(p, m); len(m) == 0 {
						delete(x, k)
					}
				}
				continue
			case "nodeAffinity":
				if m, ok := x[k].(map[string]any); ok {
					t.nodeAffinity(p, m)
				}
				continue
			case "topologyKey":
				t.topologyKey(p, x)
				continue
			}
			t.demands(p, x[k])
		}
	case []any:
		for i, e := range x {
			t.demands(fmt.Sprintf("%s[%d]", path, i), e)
		}
	}
}

func (t placing) nodeSelector(path string, m map[string]any) {
	for _, k := range sortedKeys(m) {
		value, ok := m[k].(string)
		if !ok {
			continue
		}
		key, to, keep := t.nodeLabel(k, value)
		switch {
		case !keep:
			delete(m, k)
			t.note("%s: %s=%s is dropped", path, k, value)
		case key != k || to != value:
			delete(m, k)
			m[key] = to
			t.note("%s: %s=%s becomes %s=%s", path, k, value, key, to)
		}
	}
}

// nodeAffinity: a term that loses all that it demands would match no node, and goes.
func (t placing) nodeAffinity(path string, m map[string]any) {
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if r := dig(m, required); r != nil {
		before := len(maps(r, "nodeSelectorTerms"))
		filter(r, func(term map[string]any) bool { return t.term(path, term) }, "nodeSelectorTerms")
		if before > 0 && len(maps(r, "nodeSelectorTerms")) == 0 {
			delete(m, required)
			t.note("%s demands nothing any more", path)
		}
	}
	filter(m, func(weighted map[string]any) bool { return t.term(path, dig(weighted, "preference")) }, preferred)
}

// term maps one term, and says whether anything is left of it.
func (t placing) term(path string, term map[string]any) bool {
	before := len(maps(term, "matchExpressions"))
	filter(term, func(e map[string]any) bool { return t.expression(path, e) }, "matchExpressions")
	return before == 0 || len(maps(term, "matchExpressions")) > 0 || len(maps(term, "matchFields")) > 0
}

func (t placing) expression(path string, e map[string]any) bool {
	key, _ := e["key"].(string)
	values, _ := e["values"].([]any)
	if len(values) == 0 {
		to, _, keep := t.nodeLabel(key, "")
		if keep && to != key {
			e["key"] = to
			t.note("%s: %s becomes %s", path, key, to)
		}
		return keep
	}
	var out []any
	for _, v := range values {
		value, _ := v.(string)
		k, to, keep := t.nodeLabel(key, value)
		switch {
		case !keep:
			t.note("%s: %s=%s is dropped", path, key, value)
			continue
		case k != key || to != value:
			t.note("%s: %s=%s becomes %s=%s", path, key, value, k, to)
			e["key"] = k
		}
		if !slices.Contains(out, any(to)) {
			out = append(out, to)
		}
	}
	e["values"] = out
	return len(out) > 0
}

func (t placing) topologyKey(path string, m map[string]any) {
	key, _ := m["topologyKey"].(string)
	if to, keep := t.opts.To.NodeLabels[key]; keep && to != "" && to != key {
		m["topologyKey"] = to
		t.note("%s: %s becomes %s", path, key, to)
	}
}

// nodeLabel is what a label of the old site's nodes is at the target; keep is false where it is to be dropped.
func (t placing) nodeLabel(key, value string) (toKey, toValue string, keep bool) {
	to := &t.opts.To
	if pair, ok := to.NodeLabels[key+"="+value]; ok {
		k, v, _ := strings.Cut(pair, "=")
		return k, v, pair != ""
	}
	if k, ok := to.NodeLabels[key]; ok {
		return k, value, k != ""
	}
	switch key {
	case "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone":
		zone, ok := to.Zones[value]
		if !ok {
			zone, ok = to.Zones["*"]
		}
		if ok && value != "" {
			return key, zone, true
		}
	case "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region":
		if value != "" && value == t.opts.From.Region && to.Region != "" {
			return key, to.Region, true
		}
	}
	return key, value, true
}
