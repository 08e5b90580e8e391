package edit

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lifeboat.dev/lifeboat/internal/dr"
)

// Matcher tells which objects a selector means.
type Matcher struct {
	selector dr.Selector
	kinds    []kindName
	labels   labels.Selector
}

// kindName is a kind as a person writes it: in any case, singular or plural, with its group or without.
type kindName struct{ name, group string }

// NewMatcher refuses selectors that cannot mean anything: a pattern or label selector that is not one.
func NewMatcher(s dr.Selector) (*Matcher, error) {
	m := &Matcher{selector: s, labels: labels.Everything()}
	for _, k := range s.Kinds {
		name, group, _ := strings.Cut(strings.ToLower(k), ".")
		if name == "" || strings.ContainsAny(name, "/* ") {
			return nil, fmt.Errorf("%q is not a kind; write it like Deployment, deployments or deployments.apps", k)
		}
		if full, ok := abbreviations()[name]; ok {
			name = full
		}
		m.kinds = append(m.kinds, kindName{name, group})
	}
	for _, n := range s.Names {
		if _, err := path.Match(n, ""); err != nil || n == "" {
			return nil, fmt.Errorf("%q is not a name with * and ?", n)
		}
	}
	if s.Labels != "" {
		sel, err := labels.Parse(s.Labels)
		if err != nil {
			return nil, fmt.Errorf("%q is not a label selector: %w", s.Labels, err)
		}
		m.labels = sel
	}
	return m, nil
}

// abbreviations are those that every cluster knows.
func abbreviations() map[string]string {
	return map[string]string{
		"cm": "configmap", "deploy": "deployment", "ds": "daemonset", "sts": "statefulset", "rs": "replicaset", "po": "pod",
		"svc": "service", "sa": "serviceaccount", "ns": "namespace", "pvc": "persistentvolumeclaim", "ing": "ingress",
		"cj": "cronjob", "hpa": "horizontalpodautoscaler", "pdb": "poddisruptionbudget", "netpol": "networkpolicy",
		"crd": "customresourcedefinition", "ep": "endpoints", "quota": "resourcequota", "limits": "limitrange",
	}
}

// Matches says whether an object is meant. A cluster-scoped one is in no namespace.
func (m *Matcher) Matches(kind schema.GroupKind, namespace, name string, set map[string]string) bool {
	s := m.selector
	if len(s.Namespaces) > 0 && !slices.Contains(s.Namespaces, namespace) && !(namespace == "" && kind == schema.GroupKind{Kind: "Namespace"} && slices.Contains(s.Namespaces, name)) {
		return false
	}
	if len(m.kinds) > 0 && !slices.ContainsFunc(m.kinds, func(k kindName) bool { return k.means(kind) }) {
		return false
	}
	if len(s.Names) > 0 && !slices.ContainsFunc(s.Names, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
		return false // NewMatcher tried every pattern
	}
	return m.labels.Matches(labels.Set(set))
}

// NamesKind says whether the selector names this kind, so that objects of it are asked for outright.
func (m *Matcher) NamesKind(kind schema.GroupKind) bool {
	return slices.ContainsFunc(m.kinds, func(k kindName) bool { return k.means(kind) })
}

func (k kindName) means(kind schema.GroupKind) bool {
	if k.group != "" && k.group != strings.ToLower(kind.Group) && !(kind.Group == "" && k.group == "core") {
		return false
	}
	plural, singular := meta.UnsafeGuessKindToResource(kind.WithVersion(""))
	return k.name == singular.Resource || k.name == plural.Resource
}
