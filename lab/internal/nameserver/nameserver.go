// Package nameserver is the authoritative DNS server of a lab's zone, which takes RFC 2136 updates signed
// with its TSIG key: BIND where it is installed, an embedded server otherwise.
package nameserver

import (
	"context"
	"log/slog"
)

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
	<-ctx.Done()
	return nil
}
