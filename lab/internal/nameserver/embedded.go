package nameserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"lifeboat.dev/lifeboat/lab/internal/ports"
	"lifeboat.dev/lifeboat/lab/internal/resolver"
)

// maxAliases bounds a chain of CNAMEs, which may be a ring.
const maxAliases = 8

// runEmbedded serves the zone from memory and keeps it on disk after each update.
func runEmbedded(ctx context.Context, o Options, secret string) error {
	z := &zone{name: strings.ToLower(dns.Fqdn(o.Zone)), file: filepath.Join(o.Dir, "zone"), keyName: dns.Fqdn(KeyName)}
	if err := z.load(o.Address); err != nil {
		return err
	}
	l, p, port, err := ports.ListenBoth(ctx, o.Address, o.Port)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	return resolver.Serve(ctx, l, p, z, map[string]string{z.keyName: secret}, func() {
		o.Ready(Info{Zone: o.Zone, Server: net.JoinHostPort(o.Address, strconv.Itoa(port)), KeyFile: o.keyFile(), Software: "embedded"})
	})
}

// zone is an authoritative zone that takes updates.
type zone struct {
	name, file, keyName string

	mu      sync.RWMutex
	records []dns.RR
}

func (z *zone) load(address string) error {
	text, err := os.ReadFile(z.file)
	if os.IsNotExist(err) {
		text = []byte(fresh(z.name, address))
	} else if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	p := dns.NewZoneParser(strings.NewReader(string(text)), z.name, z.file)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.records = append(z.records, rr)
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	if z.soa(z.records) == nil {
		return fmt.Errorf("name server: zone file %s has no SOA record", z.file)
	}
	return nil
}

// save replaces the zone's file, so that a crash leaves the old zone or the new one.
func (z *zone) save(records []dns.RR) error {
	var b strings.Builder
	for _, rr := range records {
		b.WriteString(rr.String() + "\n")
	}
	temp := z.file + ".new"
	if err := os.WriteFile(temp, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, z.file)
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	reply := new(dns.Msg).SetReply(q)
	switch {
	case q.Opcode == dns.OpcodeUpdate:
		reply.Rcode = z.update(w, q)
		if sig := q.IsTsig(); sig != nil && w.TsigStatus() == nil {
			reply.SetTsig(sig.Hdr.Name, sig.Algorithm, 300, int64(sig.TimeSigned))
		}
	case q.Opcode == dns.OpcodeQuery && len(q.Question) == 1:
		z.query(reply, q.Question[0])
	default:
		reply.Rcode = dns.RcodeNotImplemented
	}
	_ = w.WriteMsg(reply) // the asker went away: nobody to tell
}

func (z *zone) query(reply *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	if !dns.IsSubDomain(z.name, name) {
		reply.Rcode = dns.RcodeRefused
		return
	}
	reply.Authoritative = true
	z.mu.RLock()
	defer z.mu.RUnlock()
	for range maxAliases {
		found, exists := z.lookup(name, q.Qtype)
		reply.Answer = append(reply.Answer, found...)
		if len(found) == 0 {
			if !exists {
				reply.Rcode = dns.RcodeNameError
			}
			reply.Ns = append(reply.Ns, z.soa(z.records))
			return
		}
		alias, ok := found[0].(*dns.CNAME)
		if !ok || q.Qtype == dns.TypeCNAME || q.Qtype == dns.TypeANY || !dns.IsSubDomain(z.name, strings.ToLower(alias.Target)) {
			return
		}
		name = strings.ToLower(alias.Target)
	}
}

// lookup returns a name's records of a type, or its alias; exists says whether it or a name below it is there.
func (z *zone) lookup(name string, qtype uint16) (found []dns.RR, exists bool) {
	for _, rr := range z.records {
		h := rr.Header()
		if h.Name == name && (h.Rrtype == qtype || h.Rrtype == dns.TypeCNAME || qtype == dns.TypeANY) {
			found = append(found, rr)
		}
		exists = exists || dns.IsSubDomain(name, h.Name)
	}
	return found, exists
}

func (z *zone) soa(records []dns.RR) *dns.SOA {
	for _, rr := range records {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil // load refuses a zone without one
}

// update does what RFC 2136 section 3 says: all prerequisites, then all changes, or nothing.
func (z *zone) update(w dns.ResponseWriter, q *dns.Msg) int {
	sig := q.IsTsig()
	if sig == nil {
		return dns.RcodeRefused
	}
	if w.TsigStatus() != nil || sig.Hdr.Name != z.keyName {
		return dns.RcodeNotAuth
	}
	if len(q.Question) != 1 || q.Question[0].Qtype != dns.TypeSOA {
		return dns.RcodeFormatError
	}
	if strings.ToLower(q.Question[0].Name) != z.name {
		return dns.RcodeNotAuth
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if rcode := prerequisites(z.name, z.records, q.Answer); rcode != dns.RcodeSuccess {
		return rcode
	}
	next, rcode := change(z.name, z.records, q.Ns)
	if rcode != dns.RcodeSuccess {
		return rcode
	}
	soa := z.soa(next)
	if soa == nil {
		return dns.RcodeServerFailure
	}
	bumped := dns.Copy(soa).(*dns.SOA)
	bumped.Serial++
	next[slices.Index(next, dns.RR(soa))] = bumped
	if err := z.save(next); err != nil {
		return dns.RcodeServerFailure
	}
	z.records = next
	return dns.RcodeSuccess
}
