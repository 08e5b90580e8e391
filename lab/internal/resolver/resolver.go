// Package resolver is a caching DNS resolver that honours TTLs, standing where a user's would.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"lifeboat.dev/lifeboat/lab/internal/ports"
)

const (
	askDeadline = 2 * time.Second // for one question to an upstream server
	maxCached   = 10_000          // answers kept; beyond it some are dropped early
)

// Options say what is resolved and where.
type Options struct {
	Address  string
	Port     int               // 53 if zero; port+8000 where it may not be bound
	Zones    map[string]string // zone → ip:port of its authoritative server
	Upstream []string          // ip:port of resolvers for everything else; none: REFUSED
	Log      *slog.Logger
	Ready    func(server string) // called once with ip:port
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.Port == 0 {
		o.Port = 53
	}
	l, p, port, err := ports.ListenBoth(ctx, o.Address, o.Port)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	c := &cache{options: o, kept: map[key]kept{}, asking: map[key]*asking{}, now: time.Now}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(c.answer(ctx, q, w.RemoteAddr().Network())) // the asker went away: nobody to tell
	})
	return Serve(ctx, l, p, handler, nil, func() {
		if o.Ready != nil {
			o.Ready(net.JoinHostPort(o.Address, strconv.Itoa(port)))
		}
	})
}

// Serve answers DNS on both listeners until ctx is done; ready is called when both answer.
func Serve(ctx context.Context, l net.Listener, p net.PacketConn, h dns.Handler, keys map[string]string, ready func()) error {
	up := make(chan struct{}, 2)
	started := func() { up <- struct{}{} }
	tcp := &dns.Server{Listener: l, Handler: h, TsigSecret: keys, NotifyStartedFunc: started, MsgAcceptFunc: accept}
	udp := &dns.Server{PacketConn: p, Handler: h, TsigSecret: keys, NotifyStartedFunc: started, MsgAcceptFunc: accept}
	ended := make(chan error, 2)
	for _, s := range []*dns.Server{tcp, udp} {
		go func() { ended <- s.ActivateAndServe() }()
	}
	for range 2 {
		select {
		case <-up:
		case err := <-ended:
			return errors.Join(err, l.Close(), p.Close())
		}
	}
	ready()
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	// Closing the sockets ends both servers; what they say about it is of no use.
	_, _ = tcp.Shutdown(), udp.Shutdown()
	return err
}

// accept lets updates in beside queries, which the library refuses by default.
func accept(h dns.Header) dns.MsgAcceptAction {
	if opcode := int(h.Bits>>11) & 0xF; opcode == dns.OpcodeUpdate {
		return dns.MsgAccept
	}
	return dns.DefaultMsgAcceptFunc(h)
}

type key struct {
	name         string
	qtype, class uint16
}

type kept struct {
	msg   *dns.Msg
	since time.Time
	ttl   time.Duration // until the first record of the answer runs out
}

// asking is a question under way that several askers may wait for.
type asking struct {
	done chan struct{}
	msg  *dns.Msg
}

type cache struct {
	options Options
	now     func() time.Time

	mu     sync.Mutex
	kept   map[key]kept
	asking map[key]*asking
}

func (c *cache) answer(ctx context.Context, q *dns.Msg, network string) *dns.Msg {
	reply := new(dns.Msg)
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return reply.SetRcode(q, dns.RcodeNotImplemented)
	}
	k := key{strings.ToLower(q.Question[0].Name), q.Question[0].Qtype, q.Question[0].Qclass}
	got := c.look(k)
	if got == nil {
		got = c.ask(ctx, k)
	}
	reply = got.Copy()
	reply.Id, reply.Question = q.Id, q.Question
	reply.Response, reply.Authoritative, reply.RecursionAvailable, reply.RecursionDesired = true, false, true, q.RecursionDesired
	reply.Truncate(limit(q, network))
	return reply
}

// limit is how large an answer the asker takes.
func limit(q *dns.Msg, network string) int {
	if network == "tcp" {
		return dns.MaxMsgSize
	}
	if opt := q.IsEdns0(); opt != nil {
		return max(int(opt.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// look returns a kept answer with what is left of its TTLs, or nil.
func (c *cache) look(k key) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept[k]
	if !ok {
		return nil
	}
	age := c.now().Sub(e.since)
	if age >= e.ttl {
		delete(c.kept, k)
		return nil
	}
	m := e.msg.Copy()
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, uint32(age/time.Second))
			}
		}
	}
	return m
}

// ask asks upstream, once for all who ask the same at the same time.
func (c *cache) ask(ctx context.Context, k key) *dns.Msg {
	c.mu.Lock()
	a := c.asking[k]
	if a != nil {
		c.mu.Unlock()
		<-a.done
		return a.msg
	}
	a = &asking{done: make(chan struct{})}
	c.asking[k] = a
	c.mu.Unlock()

	a.msg = c.upstream(ctx, k)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asking, k)
	if ttl := lifetime(a.msg); ttl > 0 {
		if len(c.kept) >= maxCached {
			for old := range c.kept { // any one: the map's order is random enough
				delete(c.kept, old)
				break
			}
		}
		c.kept[k] = kept{msg: a.msg.Copy(), since: c.now(), ttl: ttl}
	}
	close(a.done)
	return a.msg
}

func (c *cache) upstream(ctx context.Context, k key) *dns.Msg {
	q := new(dns.Msg)
	q.Id, q.RecursionDesired = uint16(rand.Uint32()), true
	q.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: k.class}}
	servers := c.servers(k.name)
	if len(servers) == 0 {
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	}
	for _, s := range servers {
		for _, network := range []string{"udp", "tcp"} {
			client := &dns.Client{Net: network, Timeout: askDeadline}
			m, _, err := client.ExchangeContext(ctx, q, s)
			if err == nil && !m.Truncated {
				return m
			}
			if err != nil {
				if c.options.Log != nil {
					c.options.Log.Debug("no answer", "server", s, "name", k.name, "error", err)
				}
				break
			}
		}
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}

// servers are those of the longest zone that holds a name, or the resolvers for everything else.
func (c *cache) servers(name string) []string {
	best, server := "", ""
	for zone, s := range c.options.Zones {
		if z := dns.Fqdn(strings.ToLower(zone)); dns.IsSubDomain(z, name) && len(z) > len(best) {
			best, server = z, s
		}
	}
	if server != "" {
		return []string{server}
	}
	return c.options.Upstream
}

// lifetime is how long an answer may be kept: as long as its shortest-lived record; a "no" as long as the
// zone's SOA says (RFC 2308); a failure not at all.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
			}
		}
		return 0
	}
	shortest := m.Answer[0].Header().Ttl
	for _, rr := range m.Answer {
		shortest = min(shortest, rr.Header().Ttl)
	}
	return time.Duration(shortest) * time.Second
}
