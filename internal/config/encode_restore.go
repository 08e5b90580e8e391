package config

import (
	"encoding/json"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// The shapes of an application's rules for restores.
type (
	outRestore struct {
		Transforms []outTransform `yaml:"transforms,omitempty"`
		Hooks      []outHook      `yaml:"hooks,omitempty"`
	}
	outSelector struct {
		Namespaces []string `yaml:"namespaces,omitempty,flow"`
		Kinds      []string `yaml:"kinds,omitempty,flow"`
		Names      []string `yaml:"names,omitempty,flow"`
		Labels     string   `yaml:"labels,omitempty"`
	}
	outTransform struct {
		Name   string         `yaml:"name"`
		Select outSelector    `yaml:"select,omitempty"`
		Sites  []string       `yaml:"sites,omitempty,flow"`
		When   string         `yaml:"when,omitempty"`
		Patch  []outOperation `yaml:"patch,omitempty"`
		Set    []outSetting   `yaml:"set,omitempty"`
	}
	outOperation struct {
		Op    string     `yaml:"op"`
		Path  string     `yaml:"path"`
		From  string     `yaml:"from,omitempty"`
		Value *yaml.Node `yaml:"value,omitempty"`
	}
	outSetting struct {
		Path  string `yaml:"path"`
		Value string `yaml:"value"`
	}
	outHook struct {
		Name       string   `yaml:"name"`
		When       string   `yaml:"when"`
		Timeout    string   `yaml:"timeout"`
		OnFailure  string   `yaml:"onFailure"`
		Repeatable bool     `yaml:"repeatable,omitempty"`
		Exec       *outExec `yaml:"exec,omitempty"`
		Job        *outJob  `yaml:"job,omitempty"`
	}
	outExec struct {
		Namespace string   `yaml:"namespace"`
		Pods      string   `yaml:"pods"`
		Container string   `yaml:"container,omitempty"`
		Command   []string `yaml:"command,flow"`
	}
	outJob struct {
		Namespace string            `yaml:"namespace"`
		Image     string            `yaml:"image"`
		Command   []string          `yaml:"command,omitempty,flow"`
		Env       map[string]string `yaml:"env,omitempty"`
		Account   string            `yaml:"serviceAccount,omitempty"`
	}
)

func restoreOf(r dr.RestoreRules) outRestore {
	var out outRestore
	for _, t := range r.Transforms {
		o := outTransform{Name: t.Name, Select: outSelector(t.Select), Sites: t.Sites, When: t.When}
		for _, op := range t.Patch {
			o.Patch = append(o.Patch, outOperation{op.Op, op.Path, op.From, valueOf(op.Value)})
		}
		for _, s := range t.Set {
			o.Set = append(o.Set, outSetting(s))
		}
		out.Transforms = append(out.Transforms, o)
	}
	for _, h := range r.Hooks {
		o := outHook{Name: h.Name, When: string(h.When), Timeout: span(h.Timeout), OnFailure: string(h.OnFailure), Repeatable: h.Repeatable}
		if h.Exec != nil {
			e := outExec(*h.Exec)
			o.Exec = &e
		}
		if h.Job != nil {
			j := outJob(*h.Job)
			o.Job = &j
		}
		out.Hooks = append(out.Hooks, o)
	}
	return out
}

// valueOf writes JSON, of which YAML holds every value, so that a number stays as it was written.
func valueOf(raw json.RawMessage) *yaml.Node {
	if raw == nil {
		return nil
	}
	var doc yaml.Node
	if yaml.Unmarshal(raw, &doc) != nil || len(doc.Content) == 0 {
		return nil // Parse let nothing else in
	}
	return doc.Content[0]
}
