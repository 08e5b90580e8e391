package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	mdns "github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
)

// udpTry bounds one question over UDP; a lost packet is asked again, then over TCP.
const udpTry = time.Second

// fudge is the difference of clocks, in seconds, that a signature tolerates (RFC 8945's recommendation).
const fudge = 300

// query asks the authority for one type of record and returns an authoritative answer: the records, or
// that there are none. Everything else is an error.
func (d *Driver) query(ctx context.Context, name string, qtype uint16) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(name, qtype)
	m.RecursionDesired = false
	m.SetEdns0(1232, false)
	answer, err := d.ask(ctx, m)
	what := "lookup of " + bare(name)
	if err != nil {
		return nil, d.unreachable(ctx, what, err)
	}
	if len(answer.Question) != 1 || mdns.CanonicalName(answer.Question[0].Name) != name || answer.Question[0].Qtype != qtype {
		return nil, d.unreachable(ctx, what, errors.New("it answered another question"))
	}
	if answer.Rcode != mdns.RcodeSuccess && answer.Rcode != mdns.RcodeNameError {
		return nil, d.refusal(what, answer.Rcode)
	}
	if !answer.Authoritative {
		return nil, dr.Errorf(dr.ClassDenied, nil, d.serverRemedy(), "server %s is no authority for %s", d.server, bare(name))
	}
	return answer, nil
}

// ask sends a question over UDP and, where that brings no whole answer, over TCP.
func (d *Driver) ask(ctx context.Context, m *mdns.Msg) (*mdns.Msg, error) {
	for range 2 {
		try, cancel := context.WithTimeout(ctx, udpTry)
		answer, err := d.exchange(try, "udp", m)
		cancel()
		if err == nil && !answer.Truncated {
			return answer, nil
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return d.exchange(ctx, "tcp", m)
}

// signed sends an update over TCP, signed, and returns an answer that the server signed as well.
func (d *Driver) signed(ctx context.Context, m *mdns.Msg) (*mdns.Msg, error) {
	name := bare(m.Ns[0].Header().Name)
	m.SetTsig(d.key.name, d.key.algorithm, fudge, d.now().Unix())
	answer, err := d.exchange(ctx, "tcp", m)
	if answer == nil {
		return nil, d.unreachable(ctx, "update of "+name+" (whether it was made is not known)", err)
	}
	sig := answer.IsTsig()
	if answer.Rcode == mdns.RcodeNotAuth {
		return nil, d.notAuth(name, sig)
	}
	switch {
	case answer.Rcode == mdns.RcodeRefused || answer.Rcode == mdns.RcodeNotZone || answer.Rcode == mdns.RcodeFormatError:
		return nil, d.refusal("update of "+name, answer.Rcode)
	case err != nil:
		return nil, dr.Errorf(dr.ClassDenied, err, d.keyRemedy(), "answer of %s to the update of %s does not bear out its signature", d.server, name)
	case sig == nil:
		return nil, dr.Errorf(dr.ClassDenied, nil, d.serverRemedy(), "server %s did not sign its answer to the update of %s", d.server, name)
	}
	return answer, nil
}

// exchange sends m and waits for the answer until ctx is done. Where the answer's signature is wrong,
// both the answer and an error are returned.
func (d *Driver) exchange(ctx context.Context, network string, m *mdns.Msg) (*mdns.Msg, error) {
	timeout := limit
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	client := &mdns.Client{Net: network, Timeout: timeout, TsigSecret: map[string]string{d.key.name: d.key.secret}}
	conn, err := client.DialContext(ctx, d.server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answer, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	// The socket has ctx's deadline and may be a moment faster: it is ctx that says why a try ended.
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) && time.Until(deadline) < 10*time.Millisecond {
		<-ctx.Done()
	}
	return answer, err
}

func (d *Driver) unreachable(ctx context.Context, what string, err error) error {
	class := dr.ClassUnreachable
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
		if errors.Is(ctx.Err(), context.Canceled) {
			class = dr.ClassInterrupted
		}
	}
	return dr.Errorf(class, err, "Check that the server runs and that UDP and TCP to it are open.",
		"DNS server %s does not answer: %s", d.server, what)
}

// refusal words the codes that mean the same for questions and updates.
func (d *Driver) refusal(what string, rcode int) error {
	code := errors.New(mdns.RcodeToString[rcode])
	switch rcode {
	case mdns.RcodeRefused:
		return dr.Errorf(dr.ClassDenied, code, fmt.Sprintf("Check that the server serves zone %s and allows key %s to update it.", bare(d.zone), bare(d.key.name)),
			"DNS server %s refuses: %s", d.server, what)
	case mdns.RcodeNotAuth, mdns.RcodeNotZone:
		return dr.Errorf(dr.ClassDenied, code, d.serverRemedy(), "server %s is no authority for zone %s: %s", d.server, bare(d.zone), what)
	}
	return dr.Errorf(dr.ClassUnreachable, code, "Look into the DNS server's log.", "DNS server %s failed: %s", d.server, what)
}

// notAuth tells apart the reasons for which a server does not accept a signature.
func (d *Driver) notAuth(name string, sig *mdns.TSIG) error {
	var code uint16
	if sig != nil {
		code = sig.Error
	}
	why := errors.New("NOTAUTH")
	if s, ok := mdns.RcodeToString[int(code)]; ok && code != 0 {
		why = errors.New(s)
	}
	switch code {
	case mdns.RcodeBadKey:
		return dr.Errorf(dr.ClassDenied, why, d.keyRemedy(), "server %s does not know key %s, so %s was not changed", d.server, bare(d.key.name), name)
	case mdns.RcodeBadSig:
		return dr.Errorf(dr.ClassDenied, why, d.keyRemedy(), "server %s has another secret for key %s, so %s was not changed", d.server, bare(d.key.name), name)
	case mdns.RcodeBadTime:
		return dr.Errorf(dr.ClassDenied, why, "Set this machine's clock and the server's; they may differ by 5 minutes at most.",
			"clocks of server %s and of this machine differ too much, so %s was not changed", d.server, name)
	}
	return d.refusal("update of "+name, mdns.RcodeNotAuth)
}

func (d *Driver) keyRemedy() string {
	return fmt.Sprintf("Compare key file %s with the server's configuration.", d.file)
}

func (d *Driver) serverRemedy() string {
	return fmt.Sprintf("Name the primary server of zone %s in the zone's rfc2136 settings.", bare(d.zone))
}
