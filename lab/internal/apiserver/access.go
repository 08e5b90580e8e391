package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/lab/internal/pki"
)

// certificates makes a CA, the server's pair and an administrator's kubeconfig.
func (s *Server) certificates() error {
	ca, err := pki.NewCA("test", 24*time.Hour)
	if err != nil {
		return err
	}
	s.CA = ca
	if err := os.WriteFile(s.file("ca.crt"), ca.PEM(), 0o600); err != nil {
		return fmt.Errorf("writing the CA: %w", err)
	}
	server, err := ca.IssueServer([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, 24*time.Hour)
	if err != nil {
		return err
	}
	if err := server.Save(s.file("server")); err != nil {
		return err
	}
	proxy, err := ca.IssueClient("front-proxy", nil) // as which it calls aggregated API servers
	if err != nil {
		return err
	}
	if err := proxy.Save(s.file("front-proxy")); err != nil {
		return err
	}
	if err := s.accountKeys(); err != nil {
		return err
	}
	s.Kubeconfig = s.file("kubeconfig")
	return s.WriteKubeconfig(s.Kubeconfig, "admin", []string{"system:masters"})
}

// accountKeys makes the pair that ServiceAccount tokens are signed and verified with.
func (s *Server) accountKeys() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the key of ServiceAccounts: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the key of ServiceAccounts: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding the key of ServiceAccounts: %w", err)
	}
	return errors.Join(
		os.WriteFile(s.file("sa.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(s.file("sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
}

// WriteKubeconfig makes a user known to the API server, with context "admin" whatever its name.
func (s *Server) WriteKubeconfig(path, user string, groups []string) error {
	client, err := s.CA.IssueClient(user, groups)
	if err != nil {
		return err
	}
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: s.URL, CertificateAuthorityData: s.CA.PEM()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"user": {ClientCertificateData: client.Cert, ClientKeyData: client.Key}},
		Contexts:       map[string]*clientcmdapi.Context{"admin": {Cluster: "test", AuthInfo: "user"}},
		CurrentContext: "admin",
	}, path)
	if err != nil {
		return fmt.Errorf("writing the kubeconfig of %s: %w", user, err)
	}
	return nil
}

// ready asks until the API server serves, or one of the processes ends.
func (s *Server) ready(ctx context.Context) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA.PEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for {
		if err := s.alive(); err != nil {
			return err
		}
		last := ask(ctx, client, s.URL+"/readyz")
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the API server: %w (%w)", context.Cause(ctx), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ask(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // nothing was written
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}
