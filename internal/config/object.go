package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

type need bool

const (
	required need = true
	optional need = false
)

// text is a scalar and where it stands; node is nil where it is missing or was already reported.
type text struct {
	value string
	node  *yaml.Node
}

func (t text) ok() bool { return t.node != nil }

// object reads the fields of one mapping, and in the end reports those that nobody asked for.
type object struct {
	d     *decoder
	node  *yaml.Node
	title string // "Application shop"
	path  string // "sites.", inside the object of that title
	keys  map[string]*yaml.Node
	value map[string]*yaml.Node
	asked []string
	used  map[string]bool
}

// object reads n as a mapping; where it is none it reports that and returns false.
func (d *decoder) object(n *yaml.Node, title string) (*object, bool) {
	n = follow(n)
	o := &object{d: d, node: n, title: title, keys: map[string]*yaml.Node{}, value: map[string]*yaml.Node{}, used: map[string]bool{}}
	if n.Kind != yaml.MappingNode {
		d.add(n, fmt.Sprintf("%s is %s where fields are expected", title, describe(n)), "write `field: value` lines")
		return nil, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.add(key, title+": a field's name must be plain text", "write `field: value` lines")
			continue
		}
		if first, twice := o.keys[key.Value]; twice {
			d.add(key, fmt.Sprintf("%s: field %s is given twice, first at line %d", title, key.Value, first.Line), "keep one of the two")
			continue
		}
		o.keys[key.Value], o.value[key.Value] = key, val
	}
	return o, true
}

func (o *object) say(at *yaml.Node, remedy, format string, args ...any) {
	o.d.add(at, o.title+": "+fmt.Sprintf(format, args...), remedy)
}

// take returns the value of a field, or nil; an empty value counts as missing.
func (o *object) take(key string, n need) *yaml.Node {
	o.asked = append(o.asked, key)
	o.used[key] = true
	v, there := o.value[key]
	if there && !isNull(v) {
		return follow(v)
	}
	if n == required {
		at := o.node
		if there {
			at = v
		}
		o.say(at, "add it", "field %s%s is missing", o.path, key)
	}
	return nil
}

// ignore accepts fields that mean nothing to Lifeboat.
func (o *object) ignore(keys ...string) {
	for _, k := range keys {
		o.take(k, optional)
	}
}

// later reports fields that the design has and this version has not.
func (o *object) later(keys ...string) {
	for _, k := range keys {
		if o.has(k) {
			o.say(o.keys[k], "remove it", "%s%s is not in this version", o.path, k)
		}
		o.used[k] = true
	}
}

func (o *object) has(key string) bool { _, ok := o.value[key]; return ok }

func (o *object) object(key string, n need) (*object, bool) {
	v := o.take(key, n)
	if v == nil {
		return nil, false
	}
	return o.child(v, o.path+key)
}

func (o *object) child(v *yaml.Node, path string) (*object, bool) {
	c, ok := o.d.object(v, o.title+": "+path)
	if ok {
		c.title, c.path = o.title, path+"."
	}
	return c, ok
}

func (o *object) text(key string, n need) text {
	v := o.take(key, n)
	if v == nil {
		return text{}
	}
	return o.scalar(v, o.path+key, n)
}

func (o *object) scalar(v *yaml.Node, path string, n need) text {
	v = follow(v)
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" {
		remedy := "write text"
		if v.Kind == yaml.ScalarNode {
			remedy = fmt.Sprintf("put it in quotes: %q", v.Value)
		}
		o.say(v, remedy, "%s is %s where text is expected", path, describe(v))
		return text{}
	}
	if v.Value == "" {
		if n == required {
			o.say(v, "give it a value", "%s is empty", path)
		}
		return text{}
	}
	return text{value: v.Value, node: v}
}

func (o *object) list(key string, n need) []*yaml.Node {
	v := o.take(key, n)
	if v == nil {
		return nil
	}
	if v.Kind != yaml.SequenceNode {
		o.say(v, "write a list: `- item` lines or [item, item]", "%s%s is %s where a list is expected", o.path, key, describe(v))
		return nil
	}
	if len(v.Content) == 0 && n == required {
		o.say(v, "add at least one", "%s%s is empty", o.path, key)
	}
	return v.Content
}

// objects calls read for each mapping in a list.
func (o *object) objects(key string, n need, read func(*object)) {
	for i, item := range o.list(key, n) {
		if c, ok := o.child(item, o.path+key+"["+strconv.Itoa(i)+"]"); ok {
			read(c)
			c.end()
		}
	}
}

func (o *object) texts(key string, n need) []text {
	var out []text
	for i, item := range o.list(key, n) {
		if t := o.scalar(item, fmt.Sprintf("%s%s[%d]", o.path, key, i), required); t.ok() {
			out = append(out, t)
		}
	}
	return out
}

func (o *object) textMap(key string) map[string]string {
	c, ok := o.object(key, optional)
	if !ok {
		return nil
	}
	out := make(map[string]string, len(c.value))
	for i := 0; i+1 < len(c.node.Content); i += 2 {
		k := c.node.Content[i].Value
		if c.value[k] == nil || c.used[k] {
			continue // reported already
		}
		if t := c.text(k, required); t.ok() {
			out[k] = t.value
		}
	}
	return out
}

// duration reads a length of time greater than zero.
func (o *object) duration(key string, n need, fallback time.Duration) time.Duration {
	v := o.take(key, n)
	if v == nil {
		return fallback
	}
	if v.Kind != yaml.ScalarNode {
		o.say(v, "write a duration such as 30s, 5m or 1h30m", "%s%s is %s where a duration is expected", o.path, key, describe(v))
		return fallback
	}
	span, err := time.ParseDuration(v.Value)
	if err != nil {
		remedy := "write a duration such as 30s, 5m or 1h30m"
		if _, err := strconv.Atoi(v.Value); err == nil {
			remedy = fmt.Sprintf("add the unit: %ss or %sm", v.Value, v.Value)
		}
		o.say(v, remedy, "%s%s: %q is not a duration", o.path, key, v.Value)
		return fallback
	}
	if span <= 0 {
		o.say(v, "write a duration such as 30s", "%s%s must be longer than nothing", o.path, key)
		return fallback
	}
	return span
}

// end reports the fields that nobody asked for.
func (o *object) end() {
	for name, key := range o.keys {
		if o.used[name] {
			continue
		}
		remedy := "remove it; the fields here are " + strings.Join(o.asked, ", ")
		if near := nearest(name, o.asked); near != "" {
			remedy = fmt.Sprintf("did you mean %s?", near)
		}
		o.say(key, remedy, "unknown field %s%s", o.path, name)
	}
}

// follow leads from an alias to what it stands for. An anchor cannot hold an alias to itself, so one
// step is always enough; the bound guards against a parser that thinks otherwise.
func follow(n *yaml.Node) *yaml.Node {
	for range 8 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			return n
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = follow(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a set of fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the truth value " + n.Value
	case "!!null":
		return "empty"
	case "!!timestamp":
		return "the date " + n.Value
	}
	return fmt.Sprintf("the text %q", n.Value)
}
