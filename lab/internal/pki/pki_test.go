package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestIssuedCertificatesServeAndAuthenticate(t *testing.T) {
	t.Parallel()
	ca, err := NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.IssueServer([]string{"api.test"}, []net.IP{net.IPv4(127, 66, 10, 1)}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.IssueClient("admin", []string{"system:masters"})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.PEM()) {
		t.Fatal("the CA's PEM holds no certificate")
	}
	for _, name := range []string{"api.test", "127.66.10.1"} {
		peer, err := handshake(t, server, client, roots, name)
		if err != nil {
			t.Errorf("handshake as %s: %v", name, err)
			continue
		}
		if peer.Subject.CommonName != "admin" || len(peer.Subject.Organization) != 1 || peer.Subject.Organization[0] != "system:masters" {
			t.Errorf("the server sees the client as %v", peer.Subject)
		}
	}
	if _, err := handshake(t, server, client, roots, "other.test"); err == nil {
		t.Error("a name that the certificate does not hold was accepted")
	}
	if _, err := handshake(t, client, client, roots, "admin"); err == nil {
		t.Error("a client's certificate was accepted as a server's")
	}
}

// handshake returns the client's certificate as the server saw it.
func handshake(t *testing.T, server, client Pair, roots *x509.CertPool, name string) (*x509.Certificate, error) {
	t.Helper()
	sc, err := server.TLS()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := client.TLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	end := time.Now().Add(5 * time.Second)
	if err := errors.Join(a.SetDeadline(end), b.SetDeadline(end)); err != nil {
		t.Fatal(err)
	}
	ts := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{sc}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	served := make(chan error, 1)
	go func() { served <- ts.Handshake() }()
	tc := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{cc}, RootCAs: roots, ServerName: name})
	err = tc.Handshake()
	if err = errors.Join(err, <-served); err != nil {
		return nil, err
	}
	return ts.ConnectionState().PeerCertificates[0], nil
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "pki", "ca")
	if _, err := Load(base); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("loading a CA that is not there: %v", err)
	}
	ca, err := LoadOrNew(base, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrNew(base, "other", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca.PEM(), again.PEM()) {
		t.Error("a saved CA was not the one that was loaded")
	}
	for _, f := range []string{base + ".crt", base + ".key"} {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, st.Mode())
		}
	}
	pair, err := again.IssueClient("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(t.TempDir(), "leaf")
	if err := pair.Save(leaf); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(leaf); err == nil {
		t.Error("a certificate that is no CA's was loaded as one")
	}
}

func TestServerCertificateNeedsAName(t *testing.T) {
	t.Parallel()
	ca, err := NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.IssueServer(nil, nil, time.Hour); err == nil {
		t.Error("a server certificate for nobody was issued")
	}
}
