package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/internal/dr"
)

// kubeconfig writes a file with contexts east and west, both of the server.
func kubeconfig(t *testing.T, server string, ca []byte, user *clientcmdapi.AuthInfo) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{"c": {Server: server, CertificateAuthorityData: ca}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": user},
		Contexts:  map[string]*clientcmdapi.Context{"east": {Cluster: "c", AuthInfo: "u"}, "west": {Cluster: "c", AuthInfo: "u"}},
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// expired makes a client certificate whose time is over.
func expired(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"}, NotAfter: time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","message":"Unauthorized","code":401}`))
			return
		}
		_, _ = w.Write([]byte(`{"gitVersion":"v1.36.3"}`))
	}))
	t.Cleanup(api.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	cert, key := expired(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "https://" + dead.Addr().String()
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	good := &clientcmdapi.AuthInfo{Token: "good"}
	for name, c := range map[string]struct {
		cluster dr.Cluster
		class   dr.Class // empty: it connects
		says    []string
	}{
		"it connects":      {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, ca, good), Context: "east"}, "", nil},
		"no kubeconfig":    {dr.Cluster{}, dr.ClassUsage, []string{"has no kubeconfig"}},
		"no such file":     {dr.Cluster{Kubeconfig: "/nowhere/config"}, dr.ClassUsage, []string{"does not exist", "/nowhere/config"}},
		"no such context":  {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, ca, good), Context: "north"}, dr.ClassUsage, []string{`no context "north"`, "east, west"}},
		"no context named": {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, ca, good)}, dr.ClassUsage, []string{"no current context", "east, west"}},
		"nobody answers":   {dr.Cluster{Kubeconfig: kubeconfig(t, nobody, ca, good), Context: "east"}, dr.ClassUnreachable, []string{"cannot reach site east", nobody}},
		"an unknown CA":    {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, nil, good), Context: "east"}, dr.ClassDenied, []string{"CA that its kubeconfig does not trust"}},
		"a rejected token": {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, ca, &clientcmdapi.AuthInfo{Token: "old"}), Context: "east"}, dr.ClassDenied, []string{"rejects the credentials", "Log in"}},
		"an expired certificate": {dr.Cluster{Kubeconfig: kubeconfig(t, api.URL, ca, &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}), Context: "east"},
			dr.ClassDenied, []string{`certificate of "alice" expired at 2020-01-02`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := Connect(t.Context(), dr.Site{Name: "east", Cluster: c.cluster})
			if c.class == "" {
				if err != nil || client.Version != "v1.36.3" || client.Config.QPS != -1 {
					t.Errorf("client %+v, error %v", client, err)
				}
				return
			}
			var e *dr.Error
			if !errors.As(err, &e) || e.Class != c.class || e.Next == "" {
				t.Fatalf("error %#v, want class %s and a next step", err, c.class)
			}
			for _, part := range c.says {
				if !strings.Contains(e.Error()+" "+e.Next, part) {
					t.Errorf("%q does not say %q", e.Error()+" "+e.Next, part)
				}
			}
		})
	}
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	t.Run("done at the third look", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		looks := 0
		err := WaitFor(ctx, "x", time.Millisecond, func(context.Context) (bool, string, error) { looks++; return looks == 3, "", nil })
		if err != nil || looks != 3 {
			t.Errorf("%d looks, %v", looks, err)
		}
	})
	t.Run("the deadline passes", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := WaitFor(ctx, "the kettle to boil", time.Millisecond, func(context.Context) (bool, string, error) { return false, "60 degrees", nil })
		if err == nil || !strings.Contains(err.Error(), "the kettle to boil") || !strings.Contains(err.Error(), "60 degrees") ||
			dr.ClassOf(err) != dr.ClassIncomplete || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the lease is lost", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ctx, lose := context.WithCancelCause(ctx)
		err := WaitFor(ctx, "x", time.Hour, func(context.Context) (bool, string, error) { lose(dr.ErrLeaseLost); return false, "s", nil })
		if !errors.Is(err, dr.ErrLeaseLost) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the condition fails", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		broken := errors.New("broken")
		if err := WaitFor(ctx, "x", time.Hour, func(context.Context) (bool, string, error) { return false, "", broken }); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no deadline", func(t *testing.T) {
		t.Parallel()
		if err := WaitFor(t.Context(), "x", time.Hour, func(context.Context) (bool, string, error) { return true, "", nil }); err == nil {
			t.Error("a wait without a deadline began")
		}
	})
}
