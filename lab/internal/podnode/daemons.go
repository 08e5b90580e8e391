package podnode

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"lifeboat.dev/lifeboat/lab/internal/site"
)

// Daemons writes the daemons' configuration and returns them in the order of their start. It is called after
// Prepare, by the same process.
func Daemons(n Node) ([]site.Daemon, error) {
	s, err := n.check()
	if err != nil {
		return nil, err
	}
	if err := n.configure(s); err != nil {
		return nil, fmt.Errorf("set up the node of site %s: %w", n.Site, err)
	}
	containerd, err := lookPath("containerd")
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=" + searchPath}
	labels := ""
	if n.Region != "" {
		labels = fmt.Sprintf("topology.kubernetes.io/region=%[1]s,topology.kubernetes.io/zone=%[1]s-1", n.Region)
	}
	return []site.Daemon{
		{
			Name:  "containerd",
			Argv:  []string{containerd, "--config", n.path("containerd.toml")},
			Env:   env,
			Ready: answers,
		},
		{
			Name: "kubelet",
			Argv: []string{n.Kube, "kubelet", "--config=" + n.path("kubelet.yaml"), "--kubeconfig=" + n.KubeletKubeconfig,
				"--hostname-override=" + n.Site, "--node-ip=" + s.Address.String(), "--node-labels=" + labels},
			Env:   env,
			Ready: healthy(kubeletHealth),
		},
		{
			Name:  "kube-proxy",
			Argv:  []string{n.Kube, "kube-proxy", "--config=" + n.path("kube-proxy.yaml")},
			Env:   env,
			Ready: healthy(proxyHealth),
		},
	}, nil
}

// answers tries containerd's socket.
func answers(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", containerdSocket)
	if err != nil {
		return fmt.Errorf("containerd does not answer yet: %w", err)
	}
	return c.Close()
}

// healthy asks a daemon how it is.
func healthy(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // a detail of the error below
			return fmt.Errorf("%s answers %s: %s", address, resp.Status, said)
		}
		return nil
	}
}
