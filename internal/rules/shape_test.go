package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The budgets. Tests are free of those for files and functions: a table is as long as it needs to be.
const (
	maxFileLines = 500
	maxFuncLines = 60
	maxMethods   = 25
	maxInterface = 7
)

// TestShape covers both modules: the lab lies below the root.
func TestShape(t *testing.T) {
	t.Parallel()
	found := 0
	methods := map[string]int{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "../.." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		found++
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		for _, problem := range shapeProblems(fset, file, name, methods) {
			t.Error(problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 50 {
		t.Errorf("only %d files found", found)
	}
	for typ, n := range methods {
		if n > maxMethods {
			t.Errorf("%s has %d methods, more than %d: it does too much", typ, n, maxMethods)
		}
	}
}

// shapeProblems looks at one file, and counts methods by "directory.Type".
func shapeProblems(fset *token.FileSet, file *ast.File, name string, methods map[string]int) []string {
	if ast.IsGenerated(file) {
		return nil
	}
	s := &shape{fset: fset, file: file, name: name, test: strings.HasSuffix(name, "_test.go")}
	if slices.Contains([]string{"utils", "util", "common", "helpers", "helper", "misc"}, file.Name.Name) {
		s.say(file.Name, "package %s says nothing of what is in it", file.Name.Name)
	}
	if n := fset.File(file.Pos()).LineCount(); n > maxFileLines && !s.test {
		s.say(file.Name, "the file has %d lines, more than %d", n, maxFileLines)
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			s.function(d)
			if d.Recv != nil && !s.test {
				methods[filepath.Dir(name)+"."+receiver(d)]++
			}
		case *ast.GenDecl:
			s.variables(d)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.InterfaceType:
			if got := n.Methods.NumFields(); got > maxInterface {
				s.say(n, "an interface of %d methods, more than %d", got, maxInterface)
			}
		case *ast.SelectorExpr:
			s.selector(n)
		}
		return true
	})
	return s.problems
}

type shape struct {
	fset     *token.FileSet
	file     *ast.File
	name     string
	test     bool
	problems []string
}

func (s *shape) line(p token.Pos) int { return s.fset.Position(p).Line }

func (s *shape) say(at ast.Node, format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf("%s:%d: %s", s.name, s.line(at.Pos()), fmt.Sprintf(format, args...)))
}

func (s *shape) function(d *ast.FuncDecl) {
	if n := s.line(d.End()) - s.line(d.Pos()) + 1; n > maxFuncLines && !s.test {
		s.say(d, "%s has %d lines, more than %d", d.Name.Name, n, maxFuncLines)
	}
	if d.Name.Name == "init" && d.Recv == nil {
		s.say(d, "init() acts at a distance: call what it does where it is needed")
	}
}

// variables refuses package-level state. What cannot sensibly change passes: sentinel errors, compiled
// expressions, embedded files and tables.
func (s *shape) variables(d *ast.GenDecl) {
	if d.Tok != token.VAR || s.test {
		return
	}
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || embedded(d, v) {
			continue
		}
		for i, name := range v.Names {
			if name.Name != "_" && (i >= len(v.Values) || !fixed(v.Values[i])) {
				s.say(name, "package-level variable %s: pass it to those who need it", name.Name)
			}
		}
	}
}

func embedded(d *ast.GenDecl, v *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{d.Doc, v.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

func fixed(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CompositeLit:
		return true
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok {
			if p, ok := f.X.(*ast.Ident); ok {
				call := p.Name + "." + f.Sel.Name
				return slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "strings.NewReplacer", "template.Must"}, call)
			}
		}
	}
	return false
}

// selector refuses contexts that nothing can cancel, and clocks in what must not have one.
func (s *shape) selector(e *ast.SelectorExpr) {
	p, ok := e.X.(*ast.Ident)
	if !ok || s.test {
		return
	}
	switch call := p.Name + "." + e.Sel.Name; call {
	case "context.Background", "context.TODO":
		if s.file.Name.Name != "main" && !s.explained(s.line(e.Pos())) {
			s.say(e, "%s without a comment that says why, and what bounds it", call)
		}
	case "time.Now", "time.Since", "time.Sleep", "time.After", "rand.Int":
		if slices.Contains(pure, filepath.ToSlash(filepath.Dir(s.name))) {
			s.say(e, "%s in a package that must stay pure", call)
		}
	}
}

// explained says whether a comment stands on the line or on the one before it.
func (s *shape) explained(line int) bool {
	for _, group := range s.file.Comments {
		if end := s.line(group.End()); end == line || end == line-1 {
			return true
		}
	}
	return false
}

func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return "?"
		}
	}
}

func TestShapeRulesBite(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\n", maxFuncLines)
	for _, c := range []struct{ name, source, want string }{
		{"plan/a.go", "package a\nfunc f() {}\nvar x = []int{1}\nvar e = errors.New(``)\nvar _ I = T(0)", ""},
		{"a/a.go", "package a\nfunc f() {" + long + "}", "a/a.go:2: f has 61 lines, more than 60"},
		{"a/a_test.go", "package a\nfunc f() {" + long + "}", ""},
		{"a/a.go", "package a\n" + strings.Repeat("\n", maxFileLines), "the file has 501 lines"},
		{"a/a.go", "package utils", "package utils says nothing"},
		{"a/a.go", "package a\nfunc init() {}", "init() acts at a distance"},
		{"a/a.go", "package a\nfunc (t T) init() {}", ""},
		{"a/a.go", "package a\nvar count int", "package-level variable count"},
		{"a/a.go", "package a\nvar a, b = []int{}, make(map[string]int)", "package-level variable b"},
		{"a/a.go", "package a\n//go:embed x\nvar x string", ""},
		{"a/a.go", "package a\ntype I interface{ A(); B(); C(); D(); E(); F(); G(); H() }", "an interface of 8 methods"},
		{"a/a.go", "package a\nfunc f() { g(context.Background()) }", "context.Background without a comment"},
		{"a/a.go", "package a\nfunc f() {\n// bounded by g\ng(context.Background()) }", ""},
		{"a/a.go", "package main\nfunc f() { g(context.Background()) }", ""},
		{"internal/plan/a.go", "package plan\nfunc f() { g(time.Now()) }", "time.Now in a package that must stay pure"},
		{"a/a.go", "// Code generated by x. DO NOT EDIT.\n\npackage utils", ""},
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, c.name, c.source, parser.ParseComments)
		if err != nil {
			t.Fatalf("%s: %v", c.source, err)
		}
		got := strings.Join(shapeProblems(fset, file, c.name, map[string]int{}), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%.40q in %s: got %q, want %q", c.source, c.name, got, c.want)
		}
	}
	methods := map[string]int{}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "a.go", "package a\nfunc (t *T[X]) a() {}\nfunc (t T[X]) b() {}", 0)
	if err != nil {
		t.Fatal(err)
	}
	if shapeProblems(fset, file, "x/a.go", methods); methods["x.T"] != 2 {
		t.Errorf("counted %v, want 2 methods of x.T", methods)
	}
}
