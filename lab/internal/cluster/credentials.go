// Package cluster says how a site's control plane is run: its certificates, its kubeconfigs, and the
// command lines of etcd, the API server, the controller manager and the scheduler.
package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/pki"
)

// certTTL outlives any lab; a lab that is a year old is made anew.
const certTTL = 365 * 24 * time.Hour

// Config describes one site's control plane.
type Config struct {
	Site      layout.Site
	Context   string       // name of the context in the kubeconfigs
	Kube      string       // the multi-call binary: etcd, kube-apiserver, …
	Bind      netip.Addr   // etcd's address, and where the API server listens and is reached within the site
	Public    string       // host:port at which everybody else reaches the API server
	Services  netip.Prefix // ClusterIPs
	Node      netip.Addr   // address of the kubelet API
	ExtraSANs []netip.Addr
	// Endpoints runs the endpoint controllers. They need addresses other than loopback.
	Endpoints bool
}

// Base names of what Prepare writes in the site's pki directory.
const (
	caBase      = "ca"
	apiBase     = "apiserver"
	kubeletBase = "kubelet" // what the kubelet API serves with
	toKubelet   = "apiserver-kubelet"
	etcdBase    = "etcd"
	toEtcd      = "apiserver-etcd"
	frontProxy  = "front-proxy"
	saBase      = "service-account"
	adminBase   = "admin"
)

// Prepare makes the site's CA, certificates and kubeconfigs; those that exist are kept.
func (c Config) Prepare() error {
	if _, err := os.Stat(c.Site.Kubeconfig()); err == nil {
		return nil // written last: all the rest is there
	}
	for _, d := range []string{c.Site.Logs(), c.Site.PKI(""), c.Site.Volumes(), c.Site.Node(), c.Site.Registry()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make the directories of %s: %w", c.Site.Name(), err)
		}
	}
	ca, err := pki.LoadOrNew(c.Site.PKI(caBase), "lifeboat-lab "+c.Site.Name(), certTTL)
	if err != nil {
		return err
	}
	if err := c.issueServers(ca); err != nil {
		return err
	}
	for base, id := range map[string]struct{ cn, org string }{
		toKubelet:  {"kube-apiserver-kubelet-client", "system:masters"},
		toEtcd:     {"kube-apiserver-etcd-client", ""},
		frontProxy: {"front-proxy-client", ""},
		saBase:     {"service-account", ""}, // only the key pair is used
		adminBase:  {"lifeboat-lab:admin", "system:masters"},
	} {
		var orgs []string
		if id.org != "" {
			orgs = []string{id.org}
		}
		pair, err := ca.IssueClient(id.cn, orgs)
		if err != nil {
			return err
		}
		if err := pair.Save(c.Site.PKI(base)); err != nil {
			return err
		}
	}
	if err := c.writeKubeconfig(c.Site.InnerKubeconfig(), c.inner()); err != nil {
		return err
	}
	return c.writeKubeconfig(c.Site.Kubeconfig(), "https://"+c.Public)
}

func (c Config) inner() string {
	return "https://" + netip.AddrPortFrom(c.Bind, layout.APIPort).String()
}

func (c Config) issueServers(ca *pki.CA) error {
	public, err := netip.ParseAddrPort(c.Public)
	if err != nil {
		return fmt.Errorf("public address of %s: %w", c.Site.Name(), err)
	}
	api := []netip.Addr{public.Addr(), c.Bind, c.Services.Addr().Next(), netip.MustParseAddr("127.0.0.1")}
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	for base, s := range map[string]struct {
		names []string
		ips   []netip.Addr
	}{
		apiBase:     {names, append(api, c.ExtraSANs...)},
		etcdBase:    {[]string{"localhost"}, []netip.Addr{c.Bind, netip.MustParseAddr("127.0.0.1")}},
		kubeletBase: {[]string{c.Site.Name()}, []netip.Addr{c.Node}},
	} {
		var ips []net.IP
		for _, a := range s.ips {
			ips = append(ips, a.AsSlice())
		}
		pair, err := ca.IssueServer(s.names, ips, certTTL)
		if err != nil {
			return err
		}
		if err := pair.Save(c.Site.PKI(base)); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) writeKubeconfig(path, server string) error {
	read := func(base string) ([]byte, error) { return os.ReadFile(c.Site.PKI(base)) }
	ca, err := read(caBase + ".crt")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	cert, err := read(adminBase + ".crt")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	key, err := read(adminBase + ".key")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[c.Context] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	cfg.AuthInfos[c.Context] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	cfg.Contexts[c.Context] = &clientcmdapi.Context{Cluster: c.Context, AuthInfo: c.Context}
	cfg.CurrentContext = c.Context
	if err := clientcmd.WriteToFile(*cfg, path); err != nil { // mode 0600
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// RESTConfig is a client configuration for use inside the site, as its administrator.
func RESTConfig(s layout.Site) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", s.InnerKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.InnerKubeconfig(), err)
	}
	cfg.UserAgent = "lifeboat-lab"
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// KubeletTLS returns the base of the certificate that the kubelet API serves with, and the file of the
// CA that signs those who may call it.
func KubeletTLS(s layout.Site) (base, clientCA string) {
	return s.PKI(kubeletBase), s.PKI(caBase) + ".crt"
}
