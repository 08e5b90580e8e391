package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"lifeboat.dev/lifeboat/lab/internal/layout"
)

func config(t *testing.T, endpoints bool) Config {
	t.Helper()
	return Config{
		Site:      layout.Dir(t.TempDir()).Site("east"),
		Context:   "east",
		Kube:      "/bin/lab-kube",
		Bind:      netip.MustParseAddr("127.66.10.4"),
		Public:    "127.66.10.1:6443",
		Services:  netip.MustParsePrefix("127.66.14.0/24"),
		Node:      netip.MustParseAddr("127.66.10.10"),
		Endpoints: endpoints,
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	c := config(t, false)
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(string(c.Site), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, st.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, c.Site.PKI(apiBase)+".crt")
	for _, name := range []string{"127.66.10.1", "127.66.10.4", "127.66.14.1", "kubernetes.default.svc"} {
		if err := cert.VerifyHostname(name); err != nil {
			t.Errorf("the API server's certificate: %v", err)
		}
	}
	if err := certificate(t, c.Site.PKI(kubeletBase)+".crt").VerifyHostname("127.66.10.10"); err != nil {
		t.Errorf("the kubelet API's certificate: %v", err)
	}
	for path, server := range map[string]string{c.Site.Kubeconfig(): "https://127.66.10.1:6443", c.Site.InnerKubeconfig(): "https://127.66.10.4:6443"} {
		k, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if k.CurrentContext != "east" || k.Clusters["east"].Server != server {
			t.Errorf("%s leads to %s in context %s", path, k.Clusters["east"].Server, k.CurrentContext)
		}
	}
	before, err := os.ReadFile(c.Site.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(c.Site.Kubeconfig()); err != nil || string(after) != string(before) {
		t.Errorf("a site that starts again has other credentials (%v)", err)
	}
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestDaemons(t *testing.T) {
	t.Parallel()
	for _, endpoints := range []bool{false, true} {
		c := config(t, endpoints)
		if err := c.Prepare(); err != nil {
			t.Fatal(err)
		}
		daemons, err := c.Daemons()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		argv := map[string]string{}
		for _, d := range daemons {
			names = append(names, d.Name)
			argv[d.Name] = strings.Join(d.Argv, " ")
		}
		if want := []string{Etcd, APIServer, Controller, Scheduler}; !slices.Equal(names, want) {
			t.Errorf("daemons start in the order %v", names)
		}
		off := strings.Contains(argv[Controller], "-endpointslice-controller")
		none := strings.Contains(argv[APIServer], "--endpoint-reconciler-type=none")
		if off == endpoints || none == endpoints {
			t.Errorf("endpoints %v: controllers off %v, reconciler off %v", endpoints, off, none)
		}
		for name, line := range argv {
			if strings.Contains(line, "--leader-elect") && !strings.Contains(line, "--leader-elect=false") {
				t.Errorf("%s elects a leader among one", name)
			}
		}
	}
}
