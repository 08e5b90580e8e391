package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/site"
)

// Names of the daemons.
const (
	Etcd       = "etcd"
	APIServer  = "kube-apiserver"
	Controller = "kube-controller-manager"
	Scheduler  = "kube-scheduler"
)

// idle are controllers that a lab's site has no work for; each costs informers and wake-ups.
var idle = []string{
	"certificatesigningrequest-approving-controller", "certificatesigningrequest-cleaner-controller",
	"certificatesigningrequest-signing-controller", "cloud-node-lifecycle-controller",
	"device-taint-eviction-controller", "horizontal-pod-autoscaler-controller",
	"kube-apiserver-serving-clustertrustbundle-publisher-controller",
	"legacy-serviceaccount-token-cleaner-controller", "node-ipam-controller", "node-route-controller",
	"persistentvolume-attach-detach-controller", "persistentvolume-expander-controller",
	"podcertificaterequest-cleaner-controller", "podgroup-protection-controller", "resourceclaim-controller",
	"resourcepoolstatusrequest-controller", "service-cidr-controller", "service-lb-controller",
	"storage-version-migrator-controller", "storageversion-garbage-collector-controller", "ttl-controller",
	"validatingadmissionpolicy-status-controller", "volumeattributesclass-protection-controller",
}

// endpointControllers write addresses that the API server rejects where they are loopback's.
var endpointControllers = []string{"endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller"}

// Daemons returns the control plane in starting order.
func (c Config) Daemons() ([]site.Daemon, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	etcdHealth := "https://" + netip.AddrPortFrom(c.Bind, layout.EtcdPort).String() + "/health"
	// A higher GOGC spends memory to save the processor, a lower one the reverse; these were measured
	// (lifeboat-lab measure) on idle sites.
	return []site.Daemon{
		{Name: Etcd, Argv: c.etcd(), Env: []string{"GOGC=50", "GOMAXPROCS=2"}, Ready: get(client, etcdHealth)},
		{Name: APIServer, Argv: c.apiServer(), Env: []string{"GOGC=80"}, Ready: get(client, c.inner()+"/readyz")},
		{Name: Controller, Argv: c.controllerManager(), Env: []string{"GOGC=60"}},
		{Name: Scheduler, Argv: c.scheduler(), Env: []string{"GOGC=60"}},
	}, nil
}

// Healthy asks the API server, at its public address, whether it is ready.
func (c Config) Healthy(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return get(client, "https://"+c.Public+"/readyz")(ctx)
}

func (c Config) etcd() []string {
	client := "https://" + netip.AddrPortFrom(c.Bind, layout.EtcdPort).String()
	peer := "https://" + netip.AddrPortFrom(c.Bind, layout.EtcdPeerPort).String()
	cert, ca := c.Site.PKI(etcdBase), c.Site.PKI(caBase)+".crt"
	return []string{
		c.Kube, "etcd", "--name=" + c.Site.Name(), "--data-dir=" + c.Site.Etcd(),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + c.Site.Name() + "=" + peer,
		"--cert-file=" + cert + ".crt", "--key-file=" + cert + ".key", "--client-cert-auth", "--trusted-ca-file=" + ca,
		"--peer-cert-file=" + cert + ".crt", "--peer-key-file=" + cert + ".key", "--peer-client-cert-auth", "--peer-trusted-ca-file=" + ca,
		// The page cache outlives a killed process, so a killed site keeps its data without fsync.
		"--unsafe-no-fsync", "--enable-grpc-gateway=false",
		"--heartbeat-interval=100", "--election-timeout=500", // one member, which waits up to twice that at its start
		"--log-level=warn", "--snapshot-count=5000", "--max-snapshots=1", "--max-wals=1",
	}
}

func (c Config) apiServer() []string {
	pki := c.Site.PKI
	ca := pki(caBase) + ".crt"
	public, _ := netip.ParseAddrPort(c.Public) // Prepare has checked it
	args := []string{
		c.Kube, "kube-apiserver",
		"--etcd-servers=https://" + netip.AddrPortFrom(c.Bind, layout.EtcdPort).String(),
		"--etcd-cafile=" + ca, "--etcd-certfile=" + pki(toEtcd) + ".crt", "--etcd-keyfile=" + pki(toEtcd) + ".key",
		"--bind-address=" + c.bindAll(), "--advertise-address=" + public.Addr().String(), fmt.Sprintf("--secure-port=%d", layout.APIPort),
		"--tls-cert-file=" + pki(apiBase) + ".crt", "--tls-private-key-file=" + pki(apiBase) + ".key",
		"--cert-dir=" + pki(""), "--client-ca-file=" + ca, "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + ca,
		"--kubelet-client-certificate=" + pki(toKubelet) + ".crt", "--kubelet-client-key=" + pki(toKubelet) + ".key",
		"--requestheader-client-ca-file=" + ca, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki(frontProxy) + ".crt", "--proxy-client-key-file=" + pki(frontProxy) + ".key",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + pki(saBase) + ".crt", "--service-account-signing-key-file=" + pki(saBase) + ".key",
		"--service-cluster-ip-range=" + c.Services.Masked().String(),
		"--profiling=false", "--event-ttl=1h",
		"--etcd-count-metric-poll-period=0", "--etcd-db-metric-poll-interval=0",
		"--delete-collection-workers=4",
	}
	if !c.Endpoints {
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return args
}

// bindAll is every address where the site has a network of its own, else the site's inner one.
func (c Config) bindAll() string {
	if c.Endpoints {
		return "0.0.0.0"
	}
	return c.Bind.String()
}

func (c Config) controllerManager() []string {
	off := idle
	if !c.Endpoints {
		off = append(append([]string{}, idle...), endpointControllers...)
	}
	return []string{
		c.Kube, "kube-controller-manager", "--kubeconfig=" + c.Site.InnerKubeconfig(),
		"--controllers=*,-" + strings.Join(off, ",-"),
		"--root-ca-file=" + c.Site.PKI(caBase) + ".crt",
		"--service-account-private-key-file=" + c.Site.PKI(saBase) + ".key",
		"--leader-elect=false", "--secure-port=0", "--profiling=false",
		"--pvclaimbinder-sync-period=1s", // binding would otherwise wait up to 15 s
		"--kube-api-qps=100", "--kube-api-burst=200",
	}
}

func (c Config) scheduler() []string {
	return []string{
		c.Kube, "kube-scheduler", "--kubeconfig=" + c.Site.InnerKubeconfig(),
		"--leader-elect=false", "--secure-port=0", "--profiling=false",
		"--kube-api-qps=100", "--kube-api-burst=200",
	}
}

// client trusts the site's CA and shows the administrator's certificate.
func (c Config) client() (*http.Client, error) {
	cert, err := tls.LoadX509KeyPair(c.Site.PKI(adminBase)+".crt", c.Site.PKI(adminBase)+".key")
	if err != nil {
		return nil, fmt.Errorf("load the administrator's certificate of %s: %w", c.Site.Name(), err)
	}
	pem, err := os.ReadFile(c.Site.PKI(caBase) + ".crt")
	if err != nil {
		return nil, fmt.Errorf("load the CA of %s: %w", c.Site.Name(), err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load the CA of %s: no certificate in it", c.Site.Name())
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}, DisableKeepAlives: true}
	return &http.Client{Transport: tr, Timeout: 5 * time.Second}, nil
}

func get(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ask %s: %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
		}
		return nil
	}
}
