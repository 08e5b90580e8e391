package config

import (
	"strconv"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// mostKept bounds the counts of a retention; more is a slip of the finger.
const mostKept = 100_000

// retention reads which recovery points are kept; nil when it is not said.
func (o *object) retention() *dr.Retention {
	c, ok := o.object("retention", optional)
	if !ok {
		return nil
	}
	r := &dr.Retention{
		Last: c.count("last"), Hourly: c.count("hourly"), Daily: c.count("daily"), Weekly: c.count("weekly"),
		Monthly: c.count("monthly"), Yearly: c.count("yearly"), Within: c.duration("within", optional, 0),
	}
	if len(c.value) == 0 {
		c.say(c.node, "write what is kept, such as {daily: 14, weekly: 8}, or leave it out to keep everything", "retention has no rule")
	}
	c.end()
	return r
}

// count reads a number of things of which there is at least one.
func (o *object) count(key string) int {
	v := o.take(key, optional)
	if v == nil {
		return 0
	}
	n, err := strconv.Atoi(v.Value)
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!int" || err != nil || n < 1 || n > mostKept {
		o.say(v, "write a whole number from 1 on, or leave it out", "%s%s is %s where a count is expected", o.path, key, describe(v))
		return 0
	}
	return n
}

type outRetention struct {
	Last    int    `yaml:"last,omitempty"`
	Hourly  int    `yaml:"hourly,omitempty"`
	Daily   int    `yaml:"daily,omitempty"`
	Weekly  int    `yaml:"weekly,omitempty"`
	Monthly int    `yaml:"monthly,omitempty"`
	Yearly  int    `yaml:"yearly,omitempty"`
	Within  string `yaml:"within,omitempty"`
}

func retentionOf(r *dr.Retention) *outRetention {
	if r == nil {
		return nil
	}
	out := &outRetention{r.Last, r.Hourly, r.Daily, r.Weekly, r.Monthly, r.Yearly, ""}
	if r.Within > 0 {
		out.Within = span(r.Within)
	}
	return out
}
