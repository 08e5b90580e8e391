package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"lifeboat.dev/lifeboat/internal/dr"
)

// connectError words the reasons why a site does not let us in; each has its own remedy.
func connectError(site dr.Site, config *rest.Config, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("connecting to site %s: %w", site.Name, err)
	}
	login := fmt.Sprintf("Log in to the cluster again, so that %s holds fresh credentials.", site.Cluster.Kubeconfig)
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return dr.Errorf(dr.ClassDenied, err, "Put the cluster's CA certificate into certificate-authority-data of the kubeconfig.",
			"the certificate of site %s's API server (%s) is signed by a CA that its kubeconfig does not trust", site.Name, config.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return dr.Errorf(dr.ClassDenied, err, "Renew the API server's certificate, or correct this machine's clock.",
			"the certificate of site %s's API server (%s) has expired or is not valid yet", site.Name, config.Host)
	case errors.As(err, &host), errors.As(err, &verify):
		return dr.Errorf(dr.ClassDenied, err, "Correct the server address or the CA in the kubeconfig.",
			"the certificate of site %s's API server (%s) is not valid for it", site.Name, config.Host)
	case apierrors.IsUnauthorized(err):
		return dr.Errorf(dr.ClassDenied, withExpiry(config, err), login, "site %s rejects the credentials in its kubeconfig", site.Name)
	case apierrors.IsForbidden(err):
		return dr.Errorf(dr.ClassDenied, err, login, "site %s does not let this user ask for its version", site.Name)
	case isExecCredential(config, err):
		return dr.Errorf(dr.ClassDenied, err, login, "the credential command in the kubeconfig of site %s failed", site.Name)
	}
	return dr.Errorf(dr.ClassUnreachable, err, "Check that the cluster is up and that this machine can reach its API server.",
		"cannot reach site %s (%s)", site.Name, config.Host)
}

// withExpiry adds to a rejection that the client certificate is out of date, which the server does not say.
func withExpiry(config *rest.Config, err error) error {
	raw := config.CertData
	if len(raw) == 0 && config.CertFile != "" {
		raw, _ = os.ReadFile(config.CertFile) // unreadable: the rejection itself is the news
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return err
	}
	cert, perr := x509.ParseCertificate(block.Bytes)
	if perr != nil || time.Now().Before(cert.NotAfter) {
		return err
	}
	return fmt.Errorf("the client certificate of %q expired at %s: %w",
		cert.Subject.CommonName, cert.NotAfter.UTC().Format(time.RFC3339), err)
}

// isExecCredential says whether err comes from the credential plugin rather than from the wire.
func isExecCredential(config *rest.Config, err error) bool {
	if config.ExecProvider == nil {
		return false
	}
	// client-go gives no type for it; its text starts with the request and holds this.
	return containsAny(err.Error(), "getting credentials: exec")
}
