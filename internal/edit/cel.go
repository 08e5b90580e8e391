package edit

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
)

// costLimit bounds an expression's work on one object, in CEL's own units; ordinary ones take hundreds.
const costLimit = 1_000_000

// maxDepth is deeper than any object that an API server takes.
const maxDepth = 100

// environment is what expressions may name. There is no clock in it and nothing that reaches out.
func environment() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("object", cel.DynType),
		cel.Variable("from", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("to", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("application", cel.StringType),
		cel.OptionalTypes(),
		ext.Strings(),
	)
}

// compile checks an expression; boolean says that it has to be a condition.
func compile(env *cel.Env, text string, boolean bool) (cel.Program, error) {
	ast, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("%s", firstLine(err.Error()))
	}
	if out := ast.OutputType(); boolean && !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("it gives %s where true or false is expected", out)
	}
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
}

// firstLine keeps what is wrong and where, without the drawing below it.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimPrefix(line, "ERROR: <input>:")
}

// native turns a value of CEL into one of JSON.
func native(v ref.Val, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested too deeply")
	}
	switch x := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(x), nil
	case types.Int:
		return int64(x), nil
	case types.Uint:
		return int64(x), nil
	case types.Double:
		return float64(x), nil
	case types.String:
		return string(x), nil
	case *types.Optional:
		if !x.HasValue() {
			return nil, nil
		}
		return native(x.GetValue(), depth+1)
	case traits.Mapper:
		out := map[string]any{}
		for it := x.Iterator(); it.HasNext() == types.True; {
			k, ok := it.Next().(types.String)
			if !ok {
				return nil, fmt.Errorf("a field's name has to be text")
			}
			inner, err := native(x.Get(k), depth+1)
			if err != nil {
				return nil, err
			}
			out[string(k)] = inner
		}
		return out, nil
	case traits.Lister:
		out := []any{}
		for it := x.Iterator(); it.HasNext() == types.True; {
			inner, err := native(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, inner)
		}
		return out, nil
	case *types.Err:
		return nil, x
	}
	return nil, fmt.Errorf("a value of type %s has no place in an object", v.Type().TypeName())
}
