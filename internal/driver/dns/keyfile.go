package dns

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
)

// key is a TSIG key; its secret must not reach a log or an error.
type key struct {
	name      string // fully qualified, lower case
	algorithm string // as miekg/dns names it
	secret    string // base64
}

// readKeyFile reads a file in BIND's syntax that holds exactly one key statement.
func readKeyFile(path string) (key, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		class, next := dr.ClassUsage, "Give the path of a key file as tsig-keygen writes it."
		if errors.Is(err, fs.ErrPermission) {
			class, next = dr.ClassDenied, "Make the key file readable for this user."
		}
		return key{}, dr.Errorf(class, err, next, "cannot read DNS key file")
	}
	p := keyParser{file: path, tokens: tokenize(string(raw))}
	k, err := p.parse()
	if err != nil {
		return key{}, dr.Errorf(dr.ClassUsage, err, `Write it as tsig-keygen does: key "name" { algorithm hmac-sha256; secret "…"; };`, "cannot use DNS key file")
	}
	return k, nil
}

// token is a word, a quoted string or one of { } ; with the line that it stands on.
type token struct {
	text   string
	line   int
	quoted bool
	open   bool // a quoted string or a comment that does not end
}

// tokenize follows BIND's lexer: # and // comment out a line, /* */ a stretch.
func tokenize(s string) []token {
	var out []token
	line := 1
	for i := 0; i < len(s); {
		rest := s[i:]
		n := 1
		switch {
		case rest[0] == '\n':
			line++
		case strings.ContainsRune(" \t\r", rune(rest[0])):
		case rest[0] == '#' || strings.HasPrefix(rest, "//"):
			n = upTo(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return append(out, token{text: "comment", line: line, open: true})
			}
			n = end + 4
			line += strings.Count(rest[:n], "\n")
		case rest[0] == '"':
			end := strings.IndexAny(rest[1:], "\"\n")
			if end < 0 || rest[1+end] == '\n' {
				return append(out, token{text: "quoted string", line: line, open: true})
			}
			out = append(out, token{text: rest[1 : 1+end], line: line, quoted: true})
			n = end + 2
		case strings.ContainsRune("{};", rune(rest[0])):
			out = append(out, token{text: rest[:1], line: line})
		default:
			if n = strings.IndexAny(rest, " \t\r\n{};\"#"); n < 0 {
				n = len(rest)
			}
			out = append(out, token{text: rest[:n], line: line})
		}
		i += n
	}
	return out
}

func upTo(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i
	}
	return len(s)
}

type keyParser struct {
	file   string
	tokens []token
	last   int // line of the last token taken
}

func (p *keyParser) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.file, max(line, 1), fmt.Sprintf(format, args...))
}

// next takes a token; want is what should stand there, for the error where the file ends before.
func (p *keyParser) next(want string) (token, error) {
	if len(p.tokens) == 0 {
		return token{}, p.errorf(p.last, "the file ends where %s should follow", want)
	}
	t := p.tokens[0]
	if t.open {
		return token{}, p.errorf(t.line, "%s is not closed", t.text)
	}
	p.tokens, p.last = p.tokens[1:], t.line
	return t, nil
}

// expect takes one fixed word or sign. What stands there instead is not repeated: it might be secret.
func (p *keyParser) expect(text, after string) error {
	want := fmt.Sprintf("%q", text)
	t, err := p.next(want)
	if err != nil {
		return err
	}
	if t.quoted || t.text != text {
		return p.errorf(t.line, "%s is missing %s", want, after)
	}
	return nil
}

func (p *keyParser) parse() (key, error) {
	var k key
	if err := p.expect("key", "at the beginning"); err != nil {
		return k, err
	}
	name, err := p.next("the key's name")
	if err != nil {
		return k, err
	}
	if _, ok := mdns.IsDomainName(name.text); !ok || name.text == "" || !name.quoted && strings.Contains("{};", name.text) {
		return k, p.errorf(name.line, "the key's name is missing or no domain name")
	}
	k.name = mdns.CanonicalName(name.text)
	if err := p.expect("{", "after the key's name"); err != nil {
		return k, err
	}
	for {
		t, err := p.next(`"}"`)
		if err != nil {
			return k, err
		}
		if t.text == "}" && !t.quoted {
			break
		}
		if err := p.clause(&k, t); err != nil {
			return k, err
		}
	}
	closed := p.last
	if err := p.expect(";", `after "}"`); err != nil {
		return k, err
	}
	switch {
	case len(p.tokens) > 0:
		return k, p.errorf(p.tokens[0].line, "more follows the key; the file should hold one key and nothing else")
	case k.algorithm == "":
		return k, p.errorf(closed, "the key has no algorithm")
	case k.secret == "":
		return k, p.errorf(closed, "the key has no secret")
	}
	return k, nil
}

// clause reads `algorithm NAME;` or `secret "BASE64";`, of which t is the first word.
func (p *keyParser) clause(k *key, t token) error {
	if t.quoted || t.text != "algorithm" && t.text != "secret" {
		return p.errorf(t.line, `only "algorithm" and "secret" may stand in a key`)
	}
	v, err := p.next("the " + t.text)
	if err != nil {
		return err
	}
	if !v.quoted && strings.Contains("{};", v.text) {
		return p.errorf(v.line, "the %s is missing", t.text)
	}
	if t.text == "algorithm" {
		if k.algorithm, err = algorithm(v.text); err != nil {
			return p.errorf(v.line, "%v", err)
		}
	} else {
		if b, err := base64.StdEncoding.DecodeString(v.text); err != nil || len(b) == 0 {
			return p.errorf(v.line, "the secret is not base64")
		}
		k.secret = v.text
	}
	return p.expect(";", "after the "+t.text)
}

func algorithm(name string) (string, error) {
	switch a := mdns.CanonicalName(name); a {
	case mdns.HmacSHA1, mdns.HmacSHA224, mdns.HmacSHA256, mdns.HmacSHA384, mdns.HmacSHA512:
		return a, nil
	}
	return "", fmt.Errorf("algorithm %q is not one of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384, hmac-sha512", name)
}
