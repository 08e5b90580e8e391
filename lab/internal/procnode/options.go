// Package procnode is a Kubernetes node whose pods are plain processes of this machine: no container
// runtime and no root, and therefore no isolation either.
//
// It behaves towards the API server as a kubelet does (node, lease, pod status, logs, exec, port
// forwarding), so that controllers and clients cannot tell; what a pod sees of the machine is the
// machine itself, with its volumes and a hosts file of its own where mount namespaces are allowed.
package procnode

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// RuntimeVersion is what the Node object gives as its container runtime.
const RuntimeVersion = "processes://0 (not containers)"

// Environment variables that every process of a pod carries, so that it can be told from others.
const (
	envPod       = "LIFEBOAT_LAB_POD"       // the pod's UID
	envContainer = "LIFEBOAT_LAB_CONTAINER" // the container's name
	envNode      = "LIFEBOAT_LAB_NODE"      // the agent's directory
	envAddress   = "LIFEBOAT_LAB_ADDRESS"   // the pod's own address
	envPodIP     = "POD_IP"
)

// Program is what an image name stands for: a program of this machine.
type Program struct {
	// Entrypoint is the command that runs when the container names none.
	Entrypoint []string
	// Cmd are the arguments used when the container gives neither a command nor arguments.
	Cmd []string
	// Address are arguments added whenever Entrypoint is used, to tell the program where to listen:
	// pods share the machine's network, so listening on every address would clash. $(POD_IP) is expanded.
	Address []string
	// Env are NAME=value settings that the container's own env overrides; $(POD_IP) is expanded.
	Env []string
	// Path are directories searched before the usual ones for the container's commands. A command
	// given by an absolute path that does not exist is looked for here by its last element.
	Path []string
	// User (name or number) runs the program when the agent is root and the pod names no user.
	User string
	// StopSignal asks the program to end; zero is SIGTERM.
	StopSignal syscall.Signal
}

// Options describe one node.
type Options struct {
	Config   *rest.Config
	NodeName string
	// NodeIP is the node's address, where the kubelet API listens.
	NodeIP string
	// KubeletPort is 10250 when zero.
	KubeletPort int
	// PodCIDR is the range pod addresses come from; all of it must be local to the machine.
	PodCIDR netip.Prefix
	// Dir holds the pods' volumes, logs and hosts files. One agent per directory.
	Dir string
	// HostsDir holds a hosts file per Kubernetes namespace; Dir/hosts when empty.
	HostsDir string
	// Nameserver, when set, is named in each pod's resolv.conf (an address, port 53).
	Nameserver string
	// Programs maps an image repository's base name (no registry, path, tag or digest) to its program.
	Programs map[string]Program
	// ServerTLS is the kubelet API's certificate; ClientCA signs those who may call it.
	ServerTLS tls.Certificate
	ClientCA  *x509.CertPool
	// Region and Zone become the node's topology labels; Labels are added to them.
	Region, Zone string
	Labels       map[string]string
	// APIServer is host:port given to pods as KUBERNETES_SERVICE_HOST and _PORT; Config.Host when empty.
	APIServer string
	// Launcher is the command that reaches ExecMain; this program with "proc-exec" when empty.
	Launcher []string
	// StopGrace bounds how long pods get to end when the agent stops; 3 s when zero.
	StopGrace time.Duration
	// Log receives the agent's messages; discarded when nil.
	Log *slog.Logger
}

// complete checks the options and fills in what was left out.
func (o Options) complete() (Options, error) {
	switch {
	case o.Config == nil:
		return o, errors.New("process node: no client configuration")
	case o.NodeName == "" || o.NodeIP == "":
		return o, errors.New("process node: a node needs a name and an address")
	case o.Dir == "":
		return o, errors.New("process node: no directory")
	case !o.PodCIDR.IsValid() || !o.PodCIDR.Addr().Is4():
		return o, fmt.Errorf("process node: pod range %q is no IPv4 prefix", o.PodCIDR)
	case o.ClientCA == nil || len(o.ServerTLS.Certificate) == 0:
		return o, errors.New("process node: the kubelet API needs a certificate and a client CA")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("process node: directory %s: %w", o.Dir, err)
	}
	o.Dir = dir
	if o.HostsDir == "" {
		o.HostsDir = filepath.Join(dir, "hosts")
	}
	if o.KubeletPort == 0 {
		o.KubeletPort = 10250
	}
	if o.StopGrace == 0 {
		o.StopGrace = 3 * time.Second
	}
	if o.APIServer == "" {
		o.APIServer = strings.TrimSuffix(strings.TrimPrefix(o.Config.Host, "https://"), "/")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Launcher) == 0 {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("process node: finding our own program: %w", err)
		}
		o.Launcher = []string{self, "proc-exec"}
	}
	return o, nil
}

// programKey is the table's key for an image reference: its repository's last element.
func programKey(image string) string {
	image, _, _ = strings.Cut(image, "@")
	base := image[strings.LastIndexByte(image, '/')+1:]
	base, _, _ = strings.Cut(base, ":")
	return base
}
