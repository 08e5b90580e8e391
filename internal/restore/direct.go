package restore

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"lifeboat.dev/lifeboat/internal/kube"
)

// direct is the way to a site's API for what is done for every object of a set: bodies go out as they are,
// and of an answer no more is read than is asked for.
type direct struct{ rest rest.Interface }

// newDirect opens a way with connections for so many requests at once. Each has a connection of its own:
// on one that all share, as HTTP/2 has it, they wait for each other, and both ends have more to do.
func newDirect(c *kube.Client, workers int) (*direct, error) {
	config := rest.CopyConfig(c.Config)
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.NextProtos = []string{"http/1.1"}
	settings, err := config.TransportConfig()
	if err != nil {
		return nil, fmt.Errorf("connecting to site %s: %w", c.Site, err)
	}
	tls, err := transport.TLSConfigFor(settings)
	if err != nil {
		return nil, fmt.Errorf("connecting to site %s: %w", c.Site, err)
	}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tls, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: workers, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	if config.Proxy != nil {
		base.Proxy = config.Proxy
	}
	if settings.DialHolder != nil {
		base.DialContext = settings.DialHolder.Dial
	}
	wrapped, err := transport.HTTPWrappersForConfig(settings, base)
	if err != nil {
		return nil, fmt.Errorf("connecting to site %s: %w", c.Site, err)
	}
	client, err := rest.UnversionedRESTClientForConfigAndClient(config, &http.Client{Transport: wrapped, Timeout: config.Timeout})
	if err != nil {
		return nil, fmt.Errorf("connecting to site %s: %w", c.Site, err)
	}
	return &direct{client}, nil
}

// place is a collection of objects, or with a name one of them.
type place struct {
	resource        schema.GroupVersionResource
	namespace, name string
	sub             string // subresource
}

func (p place) path() string {
	parts := []string{"/apis", p.resource.Group, p.resource.Version}
	if p.resource.Group == "" {
		parts = []string{"/api", p.resource.Version}
	}
	if p.namespace != "" {
		parts = append(parts, "namespaces", p.namespace)
	}
	parts = append(parts, p.resource.Resource)
	if p.name != "" {
		parts = append(parts, p.name)
	}
	if p.sub != "" {
		parts = append(parts, p.sub)
	}
	return strings.Join(parts, "/")
}

// send makes one request with a JSON body, and returns the answer's.
func (d *direct) send(ctx context.Context, verb string, to place, body []byte, params ...string) ([]byte, error) {
	return d.do(ctx, verb, "application/json", to, body, params)
}

// patch sends a merge patch.
func (d *direct) patch(ctx context.Context, to place, body []byte, params ...string) ([]byte, error) {
	return d.do(ctx, http.MethodPatch, string(types.MergePatchType), to, body, params)
}

func (d *direct) do(ctx context.Context, verb, kind string, to place, body []byte, params []string) ([]byte, error) {
	r := d.rest.Verb(verb).AbsPath(to.path()).SetHeader("Accept", "application/json")
	for i := 0; i < len(params); i += 2 {
		r.Param(params[i], params[i+1])
	}
	if body != nil {
		r.SetHeader("Content-Type", kind).Body(body)
	}
	answer := r.Do(ctx)
	if err := answer.Error(); err != nil {
		return nil, err
	}
	return answer.Raw()
}
