package dns

import (
	"path/filepath"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestKeyFile(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0IHRoYXQgbm9ib2R5IG1heSBzZWU="
	for _, c := range []struct{ name, file, says string }{ // says: part of the error; empty: it is good
		{"as tsig-keygen writes it", goodKey, ""},
		{"on one line, unquoted", `key k.example { algorithm "HMAC-SHA512"; secret ` + secret + `; };`, ""},
		{"with comments", "/* one\ntwo */ key k { // x\n secret \"" + secret + "\"; # y\n algorithm hmac-sha1; };\n", ""},
		{"empty", "", `:1: the file ends where "key" should follow`},
		{"no key", "\n\nkie k {};", `:3: "key" is missing`},
		{"no name", "key {", ":1: the key's name is missing"},
		{"no brace", "key k\n algorithm hmac-sha256;", `:2: "{" is missing`},
		{"unknown clause", "key k {\n id 7;\n};", `:2: only "algorithm" and "secret"`},
		{"md5", "key k {\n\n algorithm hmac-md5;", `:3: algorithm "hmac-md5" is not one of`},
		{"no base64", "key k {\n secret \"" + secret[:7] + "\";", ":2: the secret is not base64"},
		{"no semicolon", "key k {\n secret \"" + secret + "\"\n};", `:3: ";" is missing after the secret`},
		{"no end", "key k {\n secret \"" + secret + "\";\n", `:2: the file ends where "}" should follow`},
		{"no last semicolon", "key k { secret \"" + secret + "\"; algorithm hmac-sha256;\n}", `:2: the file ends where ";" should follow`},
		{"no secret", "key k { algorithm hmac-sha256;\n};", ":2: the key has no secret"},
		{"no algorithm", "key k { secret \"" + secret + "\";\n};", ":2: the key has no algorithm"},
		{"open string", "key \"k {\n", ":1: quoted string is not closed"},
		{"open comment", "key k {\n/* ", ":2: comment is not closed"},
		{"two keys", goodKey + goodKey, ":7: more follows the key"},
	} {
		path := filepath.Join(t.TempDir(), "tsig.key")
		write(t, path, c.file)
		k, err := readKeyFile(path)
		switch {
		case c.says == "" && (err != nil || k.name == "" || k.algorithm == "" || k.secret == ""):
			t.Errorf("%s: got error %v", c.name, err)
		case c.says != "" && (err == nil || dr.ClassOf(err) != dr.ClassUsage || !strings.Contains(err.Error(), path+c.says)):
			t.Errorf("%s: got error %v, want one that says %q", c.name, err, c.says)
		case err != nil && strings.Contains(err.Error(), secret[:7]):
			t.Errorf("%s: the error holds the secret: %v", c.name, err)
		}
	}
}

func TestKeyFileIsMissing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none")
	_, err := New(dr.Zone{Name: "example.com", RFC2136: &dr.RFC2136{Server: "127.0.0.1:53", Key: dr.KeySource{File: path}}})
	if dr.ClassOf(err) != dr.ClassUsage || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want one of class usage that names the file", err)
	}
}
