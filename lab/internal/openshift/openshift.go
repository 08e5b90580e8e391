// Package openshift installs the OpenShift API that the lab serves: Routes.
package openshift

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// establishTimeout bounds the wait for the API server to serve Routes.
const establishTimeout = 30 * time.Second

//go:embed routes.crd.yaml
var routeCRD []byte

// RouteResource returns where Routes are found.
func RouteResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "route.openshift.io", Version: "v1", Resource: "routes"}
}

// Install creates or updates the Route CRD and returns when it is established.
func Install(ctx context.Context, cfg *rest.Config) error {
	client, err := clientset.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("connecting to install Routes: %w", err)
	}
	data, err := yaml.YAMLToJSON(routeCRD)
	if err != nil {
		return fmt.Errorf("reading the Route CRD: %w", err)
	}
	crds := client.ApiextensionsV1().CustomResourceDefinitions()
	name := RouteResource().GroupResource().String()
	force := true
	if _, err := crds.Patch(ctx, name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: "lifeboat-lab", Force: &force}); err != nil {
		return fmt.Errorf("applying CustomResourceDefinition %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, establishTimeout)
	defer cancel()
	for {
		crd, err := crds.Get(ctx, name, metav1.GetOptions{})
		if err == nil && established(crd) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for CustomResourceDefinition %s to be established: %w", name, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}
