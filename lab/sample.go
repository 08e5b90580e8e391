package lab

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/miekg/dns"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/shop"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// SampleNamespace is where the sample application lives.
const SampleNamespace = "shop"

// sampleWithin bounds the wait for the sample to be ready, with its volume and, on pods, its image.
const sampleWithin = 2 * time.Minute

// Sample installs the sample application shop on a site, waits until it is ready, and makes host (a name
// in the lab's zone) lead there by an A record of that TTL.
func (l *Lab) Sample(ctx context.Context, name, host string, ttl time.Duration, progress func(string)) error {
	progress = oneAtATime(progress)
	st, err := l.State()
	if err != nil {
		return err
	}
	s, err := find(st, name)
	if err != nil {
		return err
	}
	if s.State != state.Running {
		return dr.Errorf(dr.ClassUsage, nil, "Start it: lifeboat-lab start "+name, "site %s does not run", name)
	}
	if !dns.IsSubDomain(dns.Fqdn(st.DNS.Zone), dns.Fqdn(host)) {
		return dr.Errorf(dr.ClassUsage, nil, "Choose a name that ends in ."+st.DNS.Zone+".", "the host %s is not in the lab's zone", host)
	}
	yaml, err := shop.Manifests(shop.Params{Registry: s.Registry, StorageClass: s.StorageClass, Host: host, Site: name})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sampleWithin, fmt.Errorf("the sample was not ready within %s", sampleWithin))
	defer cancel()
	progress("installing the sample application on " + name)
	if err := apply(ctx, st, s, yaml); err != nil {
		return err
	}
	if err := setRecord(ctx, st, host, s.IngressAddress, ttl); err != nil {
		return err
	}
	progress("waiting for the sample application to be ready")
	_, err = kubectl(ctx, st, s, nil, "-n", SampleNamespace, "rollout", "status", "deployment/shop", "--timeout="+sampleWithin.String())
	return err
}

// apply applies manifests, again while custom resources precede their definitions' being served, and
// then their status, which only its subresource takes.
func apply(ctx context.Context, st *State, s *Site, yaml []byte) error {
	for {
		_, err := kubectl(ctx, st, s, yaml, "apply", "--server-side", "-f", "-")
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "no matches for kind") {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	var withStatus []byte
	for doc := range bytes.SplitSeq(yaml, []byte("\n---\n")) {
		if regexp.MustCompile(`(?m)^status:`).Match(doc) {
			withStatus = append(append(withStatus, "\n---\n"...), doc...)
		}
	}
	if withStatus == nil {
		return nil
	}
	_, err := kubectl(ctx, st, s, withStatus, "apply", "--server-side", "--subresource=status", "-f", "-")
	return err
}

func kubectl(ctx context.Context, st *State, s *Site, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, st.Binaries.Kube, append([]string{"kubectl", "--kubeconfig", s.Kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, dr.Errorf(dr.ClassIncomplete, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String())),
			"Look at the site: export KUBECONFIG="+s.Kubeconfig, "kubectl %s on site %s failed", args[0], s.Name)
	}
	return out.Bytes(), nil
}

// setRecord points host at address with an update signed by the zone's key.
func setRecord(ctx context.Context, st *State, host, address string, ttl time.Duration) error {
	key, err := readTSIG(st.DNS.KeyFile)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("set %s: %w", host, err)
	}
	header := dns.RR_Header{Name: dns.Fqdn(host), Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(st.DNS.Zone))
	m.RemoveRRset([]dns.RR{&dns.A{Hdr: header}})
	m.Insert([]dns.RR{&dns.A{Hdr: header, A: addr.AsSlice()}})
	m.SetTsig(key.name, key.algorithm, 300, time.Now().Unix())
	client := &dns.Client{Net: "tcp", Timeout: 5 * time.Second, TsigSecret: map[string]string{key.name: key.secret}}
	answer, _, err := client.ExchangeContext(ctx, m, st.DNS.Server)
	if err == nil && answer.Rcode != dns.RcodeSuccess {
		err = errors.New(dns.RcodeToString[answer.Rcode])
	}
	if err != nil {
		return dr.Errorf(dr.ClassUnreachable, err, "See lifeboat-lab status.", "cannot set %s in zone %s at %s", host, st.DNS.Zone, st.DNS.Server)
	}
	return nil
}

type tsigKey struct{ name, algorithm, secret string }

var tsigSyntax = regexp.MustCompile(`(?s)key\s+"?([^"\s{]+)"?\s*\{.*?algorithm\s+"?([^";\s]+)"?\s*;.*?secret\s+"?([^";\s]+)"?\s*;`)

// readTSIG reads a key in BIND's syntax.
func readTSIG(path string) (tsigKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return tsigKey{}, fmt.Errorf("read the zone's key: %w", err)
	}
	m := tsigSyntax.FindSubmatch(b)
	if m == nil {
		return tsigKey{}, fmt.Errorf("read the zone's key: %s is not in BIND's syntax", path)
	}
	if _, err := base64.StdEncoding.DecodeString(string(m[3])); err != nil {
		return tsigKey{}, fmt.Errorf("read the zone's key: the secret in %s is not base64", path)
	}
	return tsigKey{name: dns.CanonicalName(string(m[1])), algorithm: dns.Fqdn(string(m[2])), secret: string(m[3])}, nil
}

// SampleHost is the name by which the sample application is reached.
const SampleHost = "shop." + layout.Zone
