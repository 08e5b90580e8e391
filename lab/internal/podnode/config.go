package podnode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"sigs.k8s.io/yaml"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	criService       = "unix://" + containerdSocket
)

// Addresses on which the daemons say that they are well; each site's loopback is its own.
const (
	kubeletHealth = "127.0.0.1:10248"
	proxyHealth   = "127.0.0.1:10256"
)

// containerdConfig is read by containerd 1.6 and later. The optional-software plugin is off because it makes
// a directory below /opt; restrict_oom_score_adj because runc cannot lower a score where the machine denies
// CAP_SYS_RESOURCE, and dies.
var containerdConfig = template.Must(template.New("containerd").Parse(`version = 2
root = {{printf "%q" .Root}}
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {{printf "%q" .Pause}}
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {{printf "%q" .CNIBin}}
    conf_dir = {{printf "%q" .CNIConf}}
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {{printf "%q" .Registries}}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = {{printf "%q" .Snapshotter}}
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`))

// hostsConfig tells containerd that the site's registry speaks plain HTTP.
var hostsConfig = template.Must(template.New("hosts").Parse(`server = "http://{{.}}"

[host."http://{{.}}"]
  capabilities = ["pull", "resolve"]
`))

// configure writes the files that the daemons read.
func (n Node) configure(s SiteNet) error {
	cni, err := cniDir()
	if err != nil {
		return err
	}
	snapshotter := "overlayfs"
	if !overlayWorks(n.path("containerd")) {
		snapshotter = "native"
	}
	var containerd, hosts bytes.Buffer
	err = containerdConfig.Execute(&containerd, map[string]string{
		"Root": n.path("containerd"), "Socket": containerdSocket, "Pause": n.Registry + "/" + n.PauseImage,
		"CNIBin": cni, "CNIConf": n.path("cni.d"), "Registries": n.path("registries"), "Snapshotter": snapshotter,
	})
	if err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	if err := hostsConfig.Execute(&hosts, n.Registry); err != nil {
		return fmt.Errorf("write containerd's configuration of the registry: %w", err)
	}
	network, err := json.MarshalIndent(cniConfig(s), "", "  ")
	if err != nil {
		return fmt.Errorf("write the configuration of the pods' network: %w", err)
	}
	kubelet, err := yaml.Marshal(n.kubeletConfig(s))
	if err != nil {
		return fmt.Errorf("write kubelet's configuration: %w", err)
	}
	proxy, err := yaml.Marshal(n.proxyConfig(s))
	if err != nil {
		return fmt.Errorf("write kube-proxy's configuration: %w", err)
	}
	return writeAll(map[string][]byte{
		n.path("containerd.toml"):                      containerd.Bytes(),
		n.path("registries", n.Registry, "hosts.toml"): hosts.Bytes(),
		n.path("cni.d", "10-pods.conflist"):            network,
		n.path("kubelet.yaml"):                         kubelet,
		n.path("kube-proxy.yaml"):                      proxy,
	})
}

func writeAll(files map[string][]byte) error {
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// cniConfig joins pods by a bridge in the site's namespace. Their way out is hidden behind the site's address
// by NetUp; host ports are not offered, as the plugin for them needs iptables.
func cniConfig(s SiteNet) map[string]any {
	return map[string]any{
		"cniVersion": "0.4.0",
		"name":       "pods",
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type":   "host-local",
				"ranges": []any{[]any{map[string]any{"subnet": s.Pods.String()}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				// Not on disk: a site that was killed gives nothing back, and starts with no pod.
				"dataDir": "/run/cni",
			},
		}},
	}
}

func (n Node) kubeletConfig(s SiteNet) map[string]any {
	c := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"failCgroupV1":             false,
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + n.cgroup(),
		"enforceNodeAllocatable":   []string{"pods"},
		"containerRuntimeEndpoint": criService,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": n.ClientCA},
		},
		"authorization":               map[string]any{"mode": "Webhook"},
		"address":                     s.Address.String(),
		"clusterDNS":                  []string{s.Address.String()},
		"clusterDomain":               "cluster.local",
		"resolvConf":                  n.path("resolv.conf"),
		"failSwapOn":                  false,
		"oomScoreAdj":                 0,
		"podPidsLimit":                -1,
		"makeIPTablesUtilChains":      false,
		"volumePluginDir":             n.path("kubelet", "volume-plugins"),
		"serializeImagePulls":         false,
		"registryPullQPS":             0,
		"imageGCHighThresholdPercent": 100, // never: the disk is the machine's, not the site's
		"evictionHard":                map[string]string{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"registerNode":                true,
		"shutdownGracePeriod":         "0s",
	}
	if n.ServingCert != "" {
		c["tlsCertFile"], c["tlsPrivateKeyFile"] = n.ServingCert, n.ServingKey
	}
	return c
}

func (n Node) proxyConfig(s SiteNet) map[string]any {
	return map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"clientConnection":   map[string]any{"kubeconfig": n.ProxyKubeconfig},
		"clusterCIDR":        s.Pods.String(),
		"mode":               "nftables",
		"nftables":           map[string]any{"minSyncPeriod": "100ms", "syncPeriod": "30s"},
		"hostnameOverride":   n.Site,
		"healthzBindAddress": proxyHealth,
		"metricsBindAddress": "127.0.0.1:10249",
		"oomScoreAdj":        0,
		// The limits on tracked connections are the machine's, not a namespace's.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}
