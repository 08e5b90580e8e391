package blob

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Options are what opening needs and a location does not say.
type Options struct {
	// CredentialsFile holds the credentials of an object storage: AWS's shared credentials syntax for S3;
	// for Azure a connection string, an account key or a SAS token. Empty: the environment's usual chain.
	CredentialsFile string
	// CAFile holds the certificates, in PEM, that are trusted besides the machine's. Empty: none.
	CAFile string
	// Warn is told what a person should know and what hinders nothing. nil: nobody listens.
	Warn func(format string, args ...any)
}

func (o Options) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

// Open opens the store at a location:
//
//	file:///absolute/path
//	s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION
//	azblob://ACCOUNT/CONTAINER/PREFIX?endpoint=https://HOST:PORT
//
// Prefix, endpoint and region may be left out. It asks an object
// storage once, so that what is wrong with it is said now. Errors: those of this package from ErrScheme on.
func Open(ctx context.Context, location string, o Options) (Store, error) {
	if scheme, _, _ := strings.Cut(location, "://"); scheme == schemeS3 || scheme == schemeAzure {
		return openRemote(ctx, location, o)
	}
	dir, err := directory(location)
	if err != nil {
		return nil, err
	}
	return OpenFile(dir)
}

// Create is Open for a location that may not be there yet. Of a path, only the last element is made:
// where its parent is missing, a mount probably is, and data written below would be lost behind it. A
// bucket or container is not made: its region, its encryption and who may read it are a person's choice.
// Of an object storage it makes sure that conditions are honoured (Verify), and it warns of retention.
func Create(ctx context.Context, location string, o Options) (Store, error) {
	if scheme, _, _ := strings.Cut(location, "://"); scheme == schemeS3 || scheme == schemeAzure {
		s, err := openRemote(ctx, location, o)
		if err != nil {
			return nil, err
		}
		s.tellOfRetention(ctx, o)
		return s, Verify(ctx, s)
	}
	dir, err := directory(location)
	if err != nil {
		return nil, err
	}
	return CreateFile(dir)
}

func directory(location string) (string, error) {
	path, ok := strings.CutPrefix(location, "file://")
	if !ok {
		return "", fmt.Errorf("%q: %w: want file:///absolute/path, s3://bucket/prefix or azblob://account/container/prefix", location, ErrScheme)
	}
	if !strings.HasPrefix(path, "/") || path == "/" {
		return "", fmt.Errorf("%q: %w: want an absolute path after file://", location, ErrScheme)
	}
	return path, nil
}

const (
	schemeS3    = "s3"
	schemeAzure = "azblob"
)

// place is a parsed location of an object storage.
type place struct {
	location string
	scheme   string
	account  string   // of Azure
	bucket   string   // or container
	prefix   string   // of every key: empty, or with a slash at its end
	endpoint *url.URL // nil: the cloud's own
	region   string   // of S3; empty: found out
}

func parsePlace(location string) (place, error) {
	wrong := func(format string, args ...any) (place, error) {
		return place{}, fmt.Errorf("%q: %w: %s", location, ErrScheme, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(location)
	if err != nil || u.Host == "" || u.Fragment != "" {
		return wrong("want s3://bucket/prefix or azblob://account/container/prefix")
	}
	if u.User != nil {
		return place{}, fmt.Errorf("%w: credentials do not belong into a location", ErrScheme) // and not into this message
	}
	p := place{location: location, scheme: u.Scheme, bucket: u.Host}
	rest := strings.Trim(u.Path, "/")
	if u.Scheme == schemeAzure {
		p.account = u.Host
		p.bucket, rest, _ = strings.Cut(rest, "/")
		if p.bucket == "" {
			return wrong("want azblob://account/container/prefix")
		}
	}
	if rest != "" {
		if err := CheckName(rest); err != nil {
			return wrong("prefix %v", err)
		}
		p.prefix = rest + "/"
	}
	for key, values := range u.Query() {
		switch {
		case key == "endpoint":
			p.endpoint, err = url.Parse(values[0])
			if err != nil || p.endpoint.Host == "" || p.endpoint.Scheme != "https" && p.endpoint.Scheme != "http" {
				return wrong("endpoint is not of the form https://host:port")
			}
		case key == "region" && u.Scheme == schemeS3:
			p.region = values[0]
		default:
			return wrong("%s is not a parameter of %s", key, u.Scheme)
		}
	}
	return p, nil
}

// plain says that what is sent to the endpoint can be read on its way.
func (p place) plain() bool { return p.endpoint != nil && p.endpoint.Scheme == "http" }

// loopback says that the endpoint is on this machine.
func (p place) loopback() bool {
	if p.endpoint == nil {
		return false
	}
	host := p.endpoint.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// openRemote connects to an object storage and asks it once.
func openRemote(ctx context.Context, location string, o Options) (*remote, error) {
	p, err := parsePlace(location)
	if err != nil {
		return nil, err
	}
	if p.plain() && !p.loopback() {
		o.warn("%s is reached without TLS: what is stored is encrypted, but names and credentials can be seen and answers forged", p.endpoint.Host)
	}
	transport, err := newTransport(o.CAFile)
	if err != nil {
		return nil, err
	}
	var b backend
	if p.scheme == schemeS3 {
		b, err = newS3(p, o, transport)
	} else {
		b, err = newAzure(p, o, transport)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.location, err)
	}
	s := &remote{backend: b, location: location, prefix: p.prefix, patience: openPatience}
	if err := s.reach(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", p.location, err)
	}
	s.patience = patience
	return s, nil
}
