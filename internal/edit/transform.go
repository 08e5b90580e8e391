package edit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/dr"
)

// Context is what an expression may know besides the object.
type Context struct {
	Application string
	From, To    dr.Site
}

// Transforms are declared changes, ready to be carried out in their order.
type Transforms []*transform

type transform struct {
	dr.Transform
	match *Matcher
	when  cel.Program
	patch jsonpatch.Patch
	set   []cel.Program
}

// Compile checks a declaration. The error says which part of it is wrong.
func Compile(declared []dr.Transform) (Transforms, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	out := make(Transforms, 0, len(declared))
	for _, d := range declared {
		t, err := compileOne(env, d)
		if err != nil {
			return nil, fmt.Errorf("transform %s: %w", d.Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// Problem says what is wrong with one part of a declaration: "select", "when", "patch[1]", "set[0].value";
// empty: the whole.
type Problem struct {
	Part string
	Err  error
}

func (p *Problem) Error() string {
	if p.Part == "" {
		return p.Err.Error()
	}
	return p.Part + ": " + p.Err.Error()
}

func (p *Problem) Unwrap() error { return p.Err }

func compileOne(env *cel.Env, d dr.Transform) (*transform, error) {
	t := &transform{Transform: d}
	var err error
	if t.match, err = NewMatcher(d.Select); err != nil {
		return nil, &Problem{"select", err}
	}
	if d.When != "" {
		if t.when, err = compile(env, d.When, true); err != nil {
			return nil, &Problem{"when", err}
		}
	}
	if (len(d.Patch) == 0) == (len(d.Set) == 0) {
		return nil, &Problem{"", fmt.Errorf("give either patch or set")}
	}
	for i, op := range d.Patch {
		if err := checkOperation(op); err != nil {
			return nil, &Problem{fmt.Sprintf("patch[%d]", i), err}
		}
	}
	if len(d.Patch) > 0 {
		raw, err := json.Marshal(d.Patch)
		if err != nil {
			return nil, &Problem{"patch", err}
		}
		if t.patch, err = jsonpatch.DecodePatch(raw); err != nil {
			return nil, &Problem{"patch", err}
		}
	}
	for i, s := range d.Set {
		if err := checkPointer(s.Path); err != nil {
			return nil, &Problem{fmt.Sprintf("set[%d].path", i), err}
		}
		program, err := compile(env, s.Value, false)
		if err != nil {
			return nil, &Problem{fmt.Sprintf("set[%d].value", i), err}
		}
		t.set = append(t.set, program)
	}
	return t, nil
}

func checkOperation(op dr.PatchOperation) error {
	needsValue, needsFrom := false, false
	switch op.Op {
	case "add", "replace", "test":
		needsValue = true
	case "move", "copy":
		needsFrom = true
	case "remove":
	default:
		return fmt.Errorf("unknown op %q; there are add, remove, replace, move, copy and test", op.Op)
	}
	if needsValue && op.Value == nil {
		return fmt.Errorf("%s needs a value", op.Op)
	}
	if needsFrom && !strings.HasPrefix(op.From, "/") {
		return fmt.Errorf("from: %q is not a JSON pointer; write it like /spec/replicas", op.From)
	}
	return checkPointer(op.Path)
}

// checkPointer: what names an object is not a matter of taste.
func checkPointer(p string) error {
	if !strings.HasPrefix(p, "/") {
		return fmt.Errorf("%q is not a JSON pointer; write it like /spec/replicas", p)
	}
	switch strings.TrimSuffix(p, "/") {
	case "", "/apiVersion", "/kind", "/metadata", "/metadata/name", "/metadata/namespace":
		return fmt.Errorf("%s says which object it is and cannot be changed", p)
	}
	return nil
}

// Apply carries out those that mean this object, and says what they changed. An error names the transform;
// the object is then not fit to be used.
func (ts Transforms) Apply(obj *unstructured.Unstructured, c Context) (notes []string, err error) {
	for _, t := range ts {
		if len(t.Sites) > 0 && !slices.Contains(t.Sites, c.To.Name) {
			continue
		}
		if !t.match.Matches(obj.GroupVersionKind().GroupKind(), obj.GetNamespace(), obj.GetName(), obj.GetLabels()) {
			continue
		}
		changed, err := t.apply(obj, c)
		if err != nil && obj.GetKind() == "Secret" {
			err = fmt.Errorf("it does not fit this Secret") // what CEL says may hold values
		}
		if err != nil {
			return notes, fmt.Errorf("transform %s: %w", t.Name, err)
		}
		notes = append(notes, changed...)
	}
	return notes, nil
}

func (t *transform) apply(obj *unstructured.Unstructured, c Context) ([]string, error) {
	vars := map[string]any{"object": obj.Object, "application": c.Application, "from": site(c.From), "to": site(c.To)}
	if t.when != nil {
		v, err := evaluate(t.when, vars)
		if err != nil {
			return nil, &Problem{"when", err}
		}
		is, ok := v.(bool)
		if !ok {
			return nil, &Problem{"when", fmt.Errorf("it gives %v where true or false is expected", v)}
		}
		if !is {
			return nil, nil
		}
	}
	before := obj.DeepCopy()
	if t.patch != nil {
		if err := t.patched(obj); err != nil {
			return nil, err
		}
	}
	for i, program := range t.set {
		v, err := evaluate(program, vars)
		if err != nil {
			return nil, &Problem{fmt.Sprintf("set[%d].value", i), err}
		}
		if err := put(obj.Object, t.Set[i].Path, v); err != nil {
			return nil, &Problem{fmt.Sprintf("set[%d].path", i), err}
		}
	}
	if obj.GetName() != before.GetName() || obj.GetNamespace() != before.GetNamespace() || obj.GroupVersionKind() != before.GroupVersionKind() {
		return nil, fmt.Errorf("it makes another object of %s %s", before.GetKind(), before.GetName())
	}
	var notes []string
	for _, f := range diff.Fields(before.Object, obj.Object, diff.Options{Status: true}) {
		notes = append(notes, f.String()+" by transform "+t.Name)
	}
	return notes, nil
}

func (t *transform) patched(obj *unstructured.Unstructured) error {
	raw, err := json.Marshal(obj.Object)
	if err != nil {
		return &Problem{"patch", err}
	}
	if raw, err = t.patch.Apply(raw); err != nil {
		return &Problem{"patch", err}
	}
	var m map[string]any
	if err := utiljson.Unmarshal(raw, &m); err != nil { // whole numbers stay whole
		return &Problem{"patch", err}
	}
	obj.Object = m
	return nil
}

// evaluate runs an expression.
func evaluate(p cel.Program, vars map[string]any) (any, error) {
	v, _, err := p.Eval(vars)
	if err != nil {
		return nil, fmt.Errorf("%s", firstLine(err.Error()))
	}
	return native(v, 0)
}

func site(s dr.Site) map[string]string {
	return map[string]string{"name": s.Name, "region": s.Region, "domain": s.Ingress.Domain, "registry": s.Registry}
}

// put sets a field, making the maps on the way to it; nil removes it. In a list, "-" is behind the end.
func put(m map[string]any, pointer string, value any) error {
	parts := strings.Split(pointer[1:], "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	_, err := set(m, parts, value)
	return err
}

// set returns the container with the value in it: a list that grows is a new one.
func set(container any, parts []string, value any) (any, error) {
	key, last := parts[0], len(parts) == 1
	switch c := container.(type) {
	case map[string]any:
		switch {
		case last && value == nil:
			delete(c, key)
			return c, nil
		case last:
			c[key] = value
			return c, nil
		}
		inner, there := c[key]
		if !there || inner == nil {
			if value == nil {
				return c, nil
			}
			inner = map[string]any{}
		}
		now, err := set(inner, parts[1:], value)
		if err == nil {
			c[key] = now
		}
		return c, err
	case []any:
		return setInList(c, key, parts, value)
	}
	return nil, fmt.Errorf("%s leads through what is neither a set of fields nor a list", key)
}

func setInList(list []any, key string, parts []string, value any) (any, error) {
	i, err := strconv.Atoi(key)
	if key == "-" {
		i, err = len(list), nil
	}
	if err != nil || i < 0 || i > len(list) || i == len(list) && key != "-" {
		return nil, fmt.Errorf("%s is no place in a list of %d", key, len(list))
	}
	if i == len(list) {
		if len(parts) > 1 || value == nil {
			return nil, fmt.Errorf("there is nothing behind the end of a list")
		}
		return append(slices.Clip(list), value), nil
	}
	if len(parts) == 1 {
		if value == nil {
			return slices.Delete(list, i, i+1), nil
		}
		list[i] = value
		return list, nil
	}
	list[i], err = set(list[i], parts[1:], value)
	return list, err
}
