// Package nameserver is the authoritative DNS server of a lab's zone, which takes RFC 2136 updates signed
// with its TSIG key: BIND where it is installed, an embedded server otherwise.
package nameserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/miekg/dns"
)

// KeyName is the name of the TSIG key that may update the zone.
const KeyName = "lifeboat-lab"

// Options say what is served and where.
type Options struct {
	Dir            string // zone, journal, key and configuration; survives restarts
	Zone           string // "lab.test"
	Address        string
	Port           int  // 53 if zero; port+8000 where it may not be bound
	PreferEmbedded bool // never use BIND
	Log            *slog.Logger
	Ready          func(Info) // called once, when queries are answered
}

// Info describes a running name server.
type Info struct {
	Zone     string
	Server   string // ip:port
	KeyFile  string // TSIG key in BIND's syntax
	Software string // "BIND 9.18.41" or "embedded"
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.Port == 0 {
		o.Port = 53
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Ready == nil {
		o.Ready = func(Info) {}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	secret, err := key(o.keyFile())
	if err != nil {
		return err
	}
	if bind := findBIND(); bind != "" && !o.PreferEmbedded {
		return runBIND(ctx, o, bind)
	}
	return runEmbedded(ctx, o, secret)
}

func (o Options) keyFile() string { return filepath.Join(o.Dir, "tsig.key") }

func findBIND() string {
	if p, err := exec.LookPath("named"); err == nil {
		return p
	}
	const debian = "/usr/sbin/named" // not on an ordinary account's PATH
	if st, err := os.Stat(debian); err == nil && st.Mode().IsRegular() {
		return debian
	}
	return ""
}

var secretLine = regexp.MustCompile(`secret "([^"]+)"`)

// key returns the TSIG secret in a file of BIND's syntax, which it makes when there is none.
func key(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		m := secretLine.FindSubmatch(text)
		if m == nil {
			return "", fmt.Errorf("name server: no secret in %s", path)
		}
		return string(m[1]), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("name server: %w", err)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret := base64.StdEncoding.EncodeToString(raw)
	conf := fmt.Sprintf("key %q {\n\talgorithm hmac-sha256;\n\tsecret %q;\n};\n", KeyName, secret)
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return "", fmt.Errorf("name server: %w", err)
	}
	return secret, nil
}

// fresh is a zone as it is before anything was added to it. "no" is remembered for a second only, so that
// a name that is about to exist is found soon.
func fresh(zone string, address string) string {
	z := dns.Fqdn(zone)
	return fmt.Sprintf("$TTL 5\n%s 5 IN SOA ns.%s hostmaster.%s 1 60 30 86400 1\n%s 5 IN NS ns.%s\nns.%s 5 IN A %s\n", z, z, z, z, z, z, address)
}
