package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
)

// DefaultHookTimeout is how long a hook may take that says nothing of it.
const DefaultHookTimeout = 5 * time.Minute

// restoring reads what holds for every restore of an application.
func restoring(a *dr.Application, o *object) {
	r, ok := o.object("restore", optional)
	if !ok {
		return
	}
	lines := map[string]int{}
	r.objects("transforms", optional, func(c *object) {
		a.Restore.Transforms = append(a.Restore.Transforms, transform(a, c, lines))
	})
	lines = map[string]int{}
	r.objects("hooks", optional, func(c *object) {
		a.Restore.Hooks = append(a.Restore.Hooks, hook(a, c, lines))
	})
	r.end()
}

// transform reads one, and has it compiled: what is wrong with an expression is said with its line.
func transform(a *dr.Application, c *object, lines map[string]int) dr.Transform {
	before := len(c.d.problems)
	t := dr.Transform{Name: c.unique("transform", lines).value, Select: selector(a, c), When: c.text("when", optional).value}
	for _, s := range c.texts("sites", optional) {
		c.d.siteExists(c, s, "sites")
		t.Sites = append(t.Sites, s.value)
	}
	parts := map[string]*yaml.Node{"": c.node, "select": c.value["select"], "when": c.value["when"]}
	c.objects("set", optional, func(s *object) {
		part := fmt.Sprintf("set[%d]", len(t.Set))
		t.Set = append(t.Set, dr.Setting{Path: s.text("path", required).value, Value: s.text("value", required).value})
		parts[part+".path"], parts[part+".value"] = s.value["path"], s.value["value"]
	})
	c.objects("patch", optional, func(p *object) {
		parts[fmt.Sprintf("patch[%d]", len(t.Patch))] = p.node
		t.Patch = append(t.Patch, dr.PatchOperation{Op: p.text("op", required).value, Path: p.text("path", required).value,
			From: p.text("from", optional).value, Value: p.anything("value")})
	})
	if len(c.d.problems) > before {
		return t // its parts are not worth looking at together
	}
	if _, err := edit.Compile([]dr.Transform{t}); err != nil {
		at, what := c.node, err
		var p *edit.Problem
		if errors.As(err, &p) {
			what = p.Err
			if n := parts[p.Part]; n != nil {
				at = n
			}
		}
		c.say(at, "see docs/choices.md for what may be written here", "%v", what)
	}
	return t
}

// selector reads `select`, the way in which everything names objects.
func selector(a *dr.Application, c *object) dr.Selector {
	s, ok := c.object("select", optional)
	if !ok {
		return dr.Selector{}
	}
	var out dr.Selector
	for _, ns := range s.texts("namespaces", optional) {
		applicationNamespace(a, s, ns)
		out.Namespaces = append(out.Namespaces, ns.value)
	}
	out.Kinds, out.Names = values(s.texts("kinds", optional)), values(s.texts("names", optional))
	out.Labels = s.text("labels", optional).value
	s.end()
	return out
}

func values(list []text) []string {
	var out []string
	for _, t := range list {
		out = append(out, t.value)
	}
	return out
}

func applicationNamespace(a *dr.Application, o *object, ns text) {
	if ns.ok() && !slices.Contains(a.Namespaces, ns.value) {
		o.say(ns.node, known("namespace of the application", ns.value, a.Namespaces), "namespace %q is not one of the application's", ns.value)
	}
}

func hook(a *dr.Application, c *object, lines map[string]int) dr.Hook {
	h := dr.Hook{Name: c.unique("hook", lines).value, Timeout: c.duration("timeout", optional, DefaultHookTimeout), OnFailure: dr.FailureStops, Repeatable: c.flag("repeatable")}
	if len(h.Name) > 40 {
		c.say(c.value["name"], "choose a name of at most 40 characters", "the hook's name is part of its Job's")
	}
	h.When = dr.HookMoment(c.oneOf("when", required, string(dr.HookBefore), string(dr.HookBeforeWorkloads), string(dr.HookAfter)))
	if f := c.oneOf("onFailure", optional, string(dr.FailureStops), string(dr.FailureWarns)); f != "" {
		h.OnFailure = dr.OnFailure(f)
	}
	if e, ok := c.object("exec", optional); ok {
		h.Exec = &dr.ExecHook{Namespace: namespaceIn(a, e), Pods: e.text("pods", required).value, Container: e.text("container", optional).value,
			Command: values(e.texts("command", required))}
		if _, err := edit.NewMatcher(dr.Selector{Labels: h.Exec.Pods}); err != nil {
			e.say(e.value["pods"], "write it like app=orders-db", "exec.pods: %v", err)
		}
		e.end()
	}
	if j, ok := c.object("job", optional); ok {
		h.Job = &dr.JobHook{Namespace: namespaceIn(a, j), Image: j.text("image", required).value, Command: values(j.texts("command", optional)),
			Env: j.textMap("env"), Account: j.text("serviceAccount", optional).value}
		j.end()
	}
	switch {
	case h.Exec != nil && h.Job != nil:
		c.say(c.node, "make two hooks of it", "hook %s has both exec and job", h.Name)
	case !c.has("exec") && !c.has("job"):
		c.say(c.node, "add exec: to run a command in a pod, or job: to run a pod of its own", "hook %s does nothing", h.Name)
	}
	return h
}

// nodeLabels reads a map from labels to labels, or to nothing.
func (o *object) nodeLabels(key string) map[string]string {
	c, ok := o.object(key, optional)
	if !ok {
		return nil
	}
	out := make(map[string]string, len(c.value))
	for k, v := range c.value {
		c.used[k] = true
		to := ""
		if !isNull(v) {
			to = c.scalar(v, c.path+k, optional).value
		}
		if to != "" && strings.Contains(k, "=") != strings.Contains(to, "=") {
			c.say(v, "write both as key=value, or both as a key alone", "%s%s: %q is not of the same form", c.path, k, to)
		}
		out[k] = to
	}
	return out
}

// oneOf reads one of a few words.
func (o *object) oneOf(key string, n need, words ...string) string {
	t := o.text(key, n)
	if t.ok() && !slices.Contains(words, t.value) {
		remedy := "use " + strings.Join(words, ", ")
		if near := nearest(t.value, words); near != "" {
			remedy = fmt.Sprintf("did you mean %s?", near)
		}
		o.say(t.node, remedy, "%s%s: unknown %q", o.path, key, t.value)
	}
	return t.value
}

// flag reads true or false; left out it is false.
func (o *object) flag(key string) bool {
	v := o.take(key, optional)
	if v == nil {
		return false
	}
	is, err := strconv.ParseBool(v.Value)
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!bool" || err != nil {
		o.say(v, "write true or false", "%s%s is %s where true or false is expected", o.path, key, describe(v))
	}
	return is
}

// anything reads a value of whatever shape, null included, as JSON; nil: it is not there.
func (o *object) anything(key string) json.RawMessage {
	o.take(key, optional)
	v, there := o.value[key]
	if !there {
		return nil
	}
	var value any
	err := v.Decode(&value)
	raw, jsonErr := json.Marshal(value)
	if err = errors.Join(err, jsonErr); err != nil {
		o.say(v, "write a value that JSON can hold", "%s%s: %v", o.path, key, err)
		return nil
	}
	return raw
}
