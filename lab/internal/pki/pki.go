// Package pki issues the certificates of a lab: short-lived, ECDSA, from CAs that never leave the
// lab's directory.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// backdate tolerates a machine whose clock steps back a little after `up`.
const backdate = 5 * time.Minute

// CA signs certificates.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Pair is a certificate with its key, both PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// NewCA makes a CA valid for ttl.
func NewCA(cn string, ttl time.Duration) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of CA %s: %w", cn, err)
	}
	t, err := template(cn, nil, ttl)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA %s: %w", cn, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse CA %s: %w", cn, err)
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// Load reads a CA that Save wrote as base.crt and base.key.
func Load(base string) (*CA, error) {
	pair, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return nil, fmt.Errorf("load CA %s: %w", base, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load CA %s: its key is %T, not ECDSA", base, pair.PrivateKey)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("load CA %s: %w", base, err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("load CA %s: the certificate is not a CA's", base)
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}, nil
}

// LoadOrNew loads the CA at base, or makes and saves one when there is none.
func LoadOrNew(base, cn string, ttl time.Duration) (*CA, error) {
	ca, err := Load(base)
	if !errors.Is(err, os.ErrNotExist) {
		return ca, err
	}
	if ca, err = NewCA(cn, ttl); err != nil {
		return nil, err
	}
	return ca, ca.Save(base)
}

// PEM is the CA's certificate.
func (ca *CA) PEM() []byte { return append([]byte(nil), ca.pem...) }

// Save writes base.crt and base.key, readable by the owner alone.
func (ca *CA) Save(base string) error {
	key, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	return Pair{Cert: ca.pem, Key: key}.Save(base)
}

// IssueServer signs a certificate for a server that answers at these names and addresses.
func (ca *CA) IssueServer(names []string, ips []net.IP, ttl time.Duration) (Pair, error) {
	if len(names)+len(ips) == 0 {
		return Pair{}, errors.New("issue a server certificate: it needs a name or an address")
	}
	var cn string
	if len(names) > 0 {
		cn = names[0]
	} else {
		cn = ips[0].String()
	}
	t, err := template(cn, nil, ttl)
	if err != nil {
		return Pair{}, err
	}
	t.DNSNames, t.IPAddresses = names, ips
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return ca.issue(t)
}

// IssueClient signs a certificate for a client: Kubernetes reads cn as the user, orgs as groups.
// It is valid as long as the CA is.
func (ca *CA) IssueClient(cn string, orgs []string) (Pair, error) {
	t, err := template(cn, orgs, time.Until(ca.cert.NotAfter))
	if err != nil {
		return Pair{}, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return ca.issue(t)
}

func (ca *CA) issue(t *x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make the key of %s: %w", t.Subject.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the certificate of %s: %w", t.Subject.CommonName, err)
	}
	k, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: k}, nil
}

// Save writes base.crt and base.key, readable by the owner alone.
func (p Pair) Save(base string) error {
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		return fmt.Errorf("save %s: %w", base, err)
	}
	if err := os.WriteFile(base+".key", p.Key, 0o600); err != nil {
		return fmt.Errorf("save %s: %w", base, err)
	}
	if err := os.WriteFile(base+".crt", p.Cert, 0o600); err != nil {
		return fmt.Errorf("save %s: %w", base, err)
	}
	return nil
}

// TLS is the pair as crypto/tls wants it.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Cert, p.Key) }

func template(cn string, orgs []string, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choose the serial number of %s: %w", cn, err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(ttl),
	}, nil
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
