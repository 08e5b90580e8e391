package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"lifeboat.dev/lifeboat/internal/dr"
)

// connectTimeout is how long a site may take to say its version before it counts as unreachable.
const connectTimeout = 5 * time.Second

// UserAgent is what API servers see in their audit logs.
const UserAgent = "lifeboat"

// Client reaches the API of one site.
type Client struct {
	Site      string
	Version   string // the API server's, as in "v1.36.3"
	Config    *rest.Config
	Typed     kubernetes.Interface
	Dynamic   dynamic.Interface
	Discovery discovery.DiscoveryInterface // asks anew each time
	Mapper    meta.ResettableRESTMapper    // remembers; Reset after a CRD was made
}

// Connect reads the site's kubeconfig and asks its API server for its version within 5 s. Errors are
// *dr.Error: usage (file or context), unreachable, or denied (credentials, certificates).
func Connect(ctx context.Context, site dr.Site) (*Client, error) {
	config, err := loadConfig(site)
	if err != nil {
		return nil, err
	}
	c, err := newClient(site.Name, config)
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "Correct the kubeconfig file of this site.",
			"cannot use the kubeconfig of site %s (%s)", site.Name, site.Cluster.Kubeconfig)
	}
	if c.Version, err = c.askVersion(ctx); err != nil {
		return nil, connectError(site, config, err)
	}
	return c, nil
}

// loadConfig reads the site's context, and names the contexts there are when it is missing.
func loadConfig(site dr.Site) (*rest.Config, error) {
	path := site.Cluster.Kubeconfig
	if path == "" {
		return nil, dr.Errorf(dr.ClassUsage, nil, "Set spec.cluster.kubeconfig of the site.",
			"site %s has no kubeconfig", site.Name)
	}
	file, err := clientcmd.LoadFromFile(path)
	if os.IsNotExist(err) {
		return nil, dr.Errorf(dr.ClassUsage, err, "Write the file, or correct spec.cluster.kubeconfig of the site.",
			"the kubeconfig of site %s does not exist", site.Name)
	}
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "Correct the file, or point spec.cluster.kubeconfig at another.",
			"cannot read the kubeconfig of site %s (%s)", site.Name, path)
	}
	name := site.Cluster.Context
	if name == "" {
		name = file.CurrentContext
	}
	if _, ok := file.Contexts[name]; !ok {
		return nil, missingContext(site, name, file)
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*file, name, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, dr.Errorf(dr.ClassUsage, err, "Correct the file, or point spec.cluster.kubeconfig at another.",
			"context %s in the kubeconfig of site %s (%s) is not usable", name, site.Name, path)
	}
	config.QPS, config.Burst = -1, 0 // the server's own flow control decides
	config.UserAgent = UserAgent
	config.WarningHandler = rest.NoWarnings{} // stderr belongs to the command line
	return config, nil
}

func missingContext(site dr.Site, name string, file *clientcmdapi.Config) error {
	names := make([]string, 0, len(file.Contexts))
	for n := range file.Contexts {
		names = append(names, n)
	}
	slices.Sort(names)
	next := "The file has no contexts; log in to the cluster first."
	if len(names) > 0 {
		next = "Set spec.cluster.context of the site to one that the file has: " + strings.Join(names, ", ") + "."
	}
	if name == "" {
		return dr.Errorf(dr.ClassUsage, nil, next, "the kubeconfig of site %s (%s) has no current context",
			site.Name, site.Cluster.Kubeconfig)
	}
	return dr.Errorf(dr.ClassUsage, nil, next, "the kubeconfig of site %s (%s) has no context %q",
		site.Name, site.Cluster.Kubeconfig, name)
}

func newClient(site string, config *rest.Config) (*Client, error) {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	disco := typed.Discovery()
	return &Client{
		Site: site, Config: config, Typed: typed, Dynamic: dyn, Discovery: disco,
		Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco)),
	}, nil
}

func (c *Client) askVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("no answer within %s", connectTimeout))
	defer cancel()
	raw, err := c.Discovery.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", err
	}
	var v version.Info
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("what answers at %s is not a Kubernetes API server: %w", c.Config.Host, err)
	}
	return v.GitVersion, nil
}
