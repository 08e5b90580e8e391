package dr

import (
	"strings"
	"testing"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	step := func(id string, needs ...string) Step { return Step{ID: id, Needs: needs} }
	for _, c := range []struct {
		name  string
		steps []Step
		want  string
		err   string
	}{
		{"nothing", nil, "", ""},
		{"kept", []Step{step("a"), step("b", "a"), step("c")}, "a b c", ""},
		{"turned round", []Step{step("c", "b"), step("b", "a"), step("a")}, "a b c", ""},
		{"same id", []Step{step("a"), step("a")}, "", `"a" is empty or not unique`},
		{"no id", []Step{step("")}, "", "empty"},
		{"missing", []Step{step("a", "z")}, "", "step a needs z, which is not in the plan"},
		{"circle", []Step{step("a", "b"), step("b", "a"), step("c")}, "", "circle: a, b"},
		{"itself", []Step{step("a", "a")}, "", "circle: a"},
	} {
		p := Plan{Steps: c.steps}
		got, err := p.Order()
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got error %v, want %q", c.name, err, c.err)
		}
		ids := make([]string, len(got))
		for i, s := range got {
			ids[i] = s.ID
		}
		if strings.Join(ids, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, ids, c.want)
		}
	}
}
