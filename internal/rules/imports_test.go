package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "lifeboat.dev/lifeboat"

// allowed is who may import whom, as docs/architecture.md has it; the standard library and other modules
// aside. A name that ends in /* covers what has no line of its own. Whoever adds a package adds it here,
// and thinks about which way its dependencies point.
var allowed = map[string][]string{
	"internal/dr":                  {},
	"internal/plan":                {"internal/dr"},
	"internal/check":               {"internal/dr"},
	"internal/diff":                {},
	"internal/edit":                {"internal/dr", "internal/diff"},
	"internal/report":              {"internal/dr", "internal/diff"},
	"internal/config":              {"internal/dr", "internal/edit"},
	"internal/run":                 {"internal/dr"},
	"internal/guard":               {"internal/dr"},
	"internal/vault/blob":          {},
	"internal/vault/blob/blobtest": {"internal/vault/blob"},
	"internal/vault/repo":          {"internal/vault/blob"},
	"internal/vault":               {"internal/dr", "internal/vault/blob", "internal/vault/repo"},
	"internal/vault/mover":         {"internal/dr", "internal/driver", "internal/vault/blob", "internal/vault/repo"},
	"internal/vault/archive":       {"internal/dr", "internal/driver", "internal/vault", "internal/vault/repo"},
	"internal/driver":              {"internal/dr"},
	"internal/driver/*":            {"internal/driver", "internal/dr", "internal/kube"}, // never another driver
	"internal/kube":                {"internal/dr"},
	"internal/hook":                {"internal/dr", "internal/kube"},
	"internal/capture":             {"internal/dr", "internal/kube", "internal/capture/rawjson"},
	"internal/capture/rawjson":     {},
	"internal/restore":             {"internal/dr", "internal/kube", "internal/diff", "internal/edit"},
	"internal/observe":             {"internal/dr", "internal/driver", "internal/kube", "internal/vault"},
	"internal/operator":            {"api/*", "internal/dr", "internal/plan", "internal/run", "internal/check", "internal/observe", "internal/report"},
	"internal/web":                 {"internal/dr", "internal/report"},
	"internal/wire": {
		"internal/dr", "internal/plan", "internal/check", "internal/config", "internal/run", "internal/guard", "internal/capture",
		"internal/restore", "internal/diff", "internal/edit", "internal/hook", "internal/observe", "internal/kube", "internal/driver", "internal/driver/*",
		"internal/vault", "internal/vault/archive", "internal/vault/blob", "internal/vault/repo", "internal/vault/mover",
	},
	// The commands name no driver: that is wire's part.
	"cmd/*": {
		"internal/wire", "internal/config", "internal/operator", "internal/web", "internal/report", "internal/diff", "internal/dr", "internal/plan", "internal/restore",
		"internal/check", "internal/run", "internal/observe", "internal/kube", "internal/driver", "internal/vault", "internal/vault/mover",
	},
	"internal/rules": {},
}

// pure packages decide; they may use the standard library alone, and of it nothing that reaches out.
var pure = []string{"internal/dr", "internal/plan", "internal/check", "internal/report", "internal/diff"}

var reachesOut = []string{"context", "net", "net/http", "os", "os/exec", "syscall", "math/rand", "math/rand/v2", "crypto/rand"}

const (
	maxInternalImports = 12
	contractSuite      = "test" // how the packages end that hold a contract's cases: drivertest, blobtest
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath   string
	Name         string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestImports(t *testing.T) {
	t.Parallel()
	pkgs := list(t)
	if len(pkgs) < 10 {
		t.Fatalf("only %d packages found: is this the module's root?", len(pkgs))
	}
	for _, p := range pkgs {
		for _, problem := range importProblems(p) {
			t.Error(problem)
		}
	}
}

// importProblems is apart from the test so that the rules can be tried on packages that break them.
func importProblems(p pkg) []string {
	var out []string
	name := local(p.ImportPath)
	may, known := lookup(name)
	if !known {
		return []string{name + ": this package is not in the table of internal/rules; add it, with what it may import"}
	}
	internal := 0
	for _, imp := range p.Imports {
		to := local(imp)
		switch {
		case to == "":
			if slices.Contains(pure, name) && (outside(imp) || slices.Contains(reachesOut, imp)) {
				out = append(out, name+" must stay pure, and may not import "+imp)
			}
			continue
		case to == "lab" || strings.HasPrefix(to, "lab/"):
			out = append(out, name+" may not import "+to+": nothing imports the lab")
		case !covered(may, to):
			out = append(out, name+" may not import "+to)
		}
		internal++
	}
	if internal > maxInternalImports && name != "internal/wire" && p.Name != "main" {
		out = append(out, name+" imports more than 12 packages of ours")
	}
	for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
		if strings.HasPrefix(local(imp), "lab/") {
			out = append(out, "the tests of "+name+" may not import "+local(imp))
		}
	}
	for _, imp := range p.Imports {
		if strings.HasSuffix(imp, contractSuite) && local(imp) != "" {
			out = append(out, name+" may import the contract suite "+local(imp)+" in tests alone")
		}
	}
	return out
}

// local returns a package's path inside the module, "." for its root, and "" for what is not ours.
func local(importPath string) string {
	if importPath == module {
		return "."
	}
	rest, ours := strings.CutPrefix(importPath, module+"/")
	if !ours {
		return ""
	}
	return rest
}

// outside says whether a package comes from another module: its path begins with a domain.
func outside(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return strings.Contains(first, ".")
}

func lookup(name string) ([]string, bool) {
	if may, ok := allowed[name]; ok {
		return may, true
	}
	may, ok := allowed[path.Dir(name)+"/*"]
	return may, ok
}

func covered(may []string, to string) bool {
	return slices.Contains(may, to) || slices.Contains(may, path.Dir(to)+"/*")
}

func TestImportRulesBite(t *testing.T) {
	t.Parallel()
	m := func(names ...string) []string {
		var out []string
		for _, n := range names {
			out = append(out, module+"/"+n)
		}
		return out
	}
	many := []string{"internal/dr"}
	for range maxInternalImports {
		many = append(many, "internal/dr")
	}
	for _, c := range []struct {
		p    pkg
		want string
	}{
		{pkg{ImportPath: module + "/internal/plan", Imports: append(m("internal/dr"), "time")}, ""},
		{pkg{ImportPath: module + "/internal/driver/dns", Imports: append(m("internal/dr", "internal/kube", "internal/driver"), "github.com/miekg/dns")}, ""},
		{pkg{ImportPath: module + "/internal/wire", Imports: m("internal/driver/dns")}, ""},
		{pkg{ImportPath: module + "/internal/plan", Imports: m("internal/vault")}, "internal/plan may not import internal/vault"},
		{pkg{ImportPath: module + "/internal/plan", Imports: []string{"context"}}, "must stay pure"},
		{pkg{ImportPath: module + "/internal/dr", Imports: []string{"go.yaml.in/yaml/v3"}}, "must stay pure"},
		{pkg{ImportPath: module + "/internal/driver/dns", Imports: m("internal/driver/volume")}, "may not import internal/driver/volume"},
		{pkg{ImportPath: module + "/cmd/lifeboat", Imports: m("internal/driver/dns")}, "may not import internal/driver/dns"},
		{pkg{ImportPath: module + "/internal/wire", Imports: m("lab/internal/site")}, "nothing imports the lab"},
		{pkg{ImportPath: module + "/internal/kube", Imports: m("internal/dr"), TestImports: m("lab/internal/site")}, "the tests of internal/kube may not import lab"},
		{pkg{ImportPath: module + "/internal/novel"}, "not in the table"},
		{pkg{ImportPath: module + "/internal/wire", Imports: m("internal/driver/drivertest")}, "in tests alone"},
		{pkg{ImportPath: module + "/internal/run", Imports: m(many...)}, "more than 12"},
	} {
		got := strings.Join(importProblems(c.p), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s → %v: got %q, want %q", c.p.ImportPath, c.p.Imports, got, c.want)
		}
	}
}
