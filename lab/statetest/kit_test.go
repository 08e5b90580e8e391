package statetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/lab/internal/apiserver"
	"lifeboat.dev/lifeboat/lab/internal/openshift"
)

// startNorth starts a third API server, which has controllers.
var startNorth = sync.OnceValues(func() (*apiserver.Server, error) {
	binary, err := apiserver.Binary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "statetest-north-")
	if err != nil {
		return nil, err
	}
	s, err := apiserver.Start(context.Background(), binary, dir) // it outlives the test that happens to start it
	if err == nil {
		err = s.StartControllers()
	}
	cleanUpNorth = func() error {
		if s == nil {
			return os.RemoveAll(dir)
		}
		return errors.Join(s.Stop(), os.RemoveAll(filepath.Clean(dir)))
	}
	return s, err
})

var cleanUpNorth = func() error { return nil }

// withControllers returns a client of a site at which the controllers of Kubernetes run; there are no nodes.
func withControllers(t *testing.T) *kube.Client {
	t.Helper()
	connect(t) // skips where there are no parts
	s, err := startNorth()
	if err != nil {
		t.Fatal(err)
	}
	return client(t, "north", s.Kubeconfig)
}

// withRoutes makes sites serve Routes.
func withRoutes(t *testing.T, clients ...*kube.Client) {
	t.Helper()
	for _, c := range clients {
		if err := openshift.Install(deadline(t), c.Config); err != nil {
			t.Fatal(err)
		}
	}
}

// A moved is an application that was captured at one site, to be restored at another.
type moved struct {
	t    *testing.T
	ns   string
	to   *kube.Client
	m    *memory
	set  *restore.Set
	opts restore.Options
}

// move makes the documents at a site and captures their namespace.
func move(t *testing.T, from, to *kube.Client, ns, docs string) *moved {
	t.Helper()
	create(t, from, ns, docs)
	return moving(t, from, to, ns)
}

// moving captures a namespace as it is.
func moving(t *testing.T, from, to *kube.Client, ns string) *moved {
	t.Helper()
	m, result := captured(t, from, ns)
	if len(result.Missing) > 0 {
		t.Errorf("missing: %q", result.Missing)
	}
	opts := options(ns)
	opts.To.Name = to.Site
	return &moved{t: t, ns: ns, to: to, m: m, set: loaded(t, m), opts: opts}
}

// apply restores, and expects that nothing is wrong.
func (v *moved) apply() dr.RestoreOutput {
	v.t.Helper()
	out, err := v.set.Apply(deadline(v.t), v.to, v.opts, nil)
	if err != nil {
		v.t.Fatalf("%v\n%s", err, strings.Join(out.Problems, "\n"))
	}
	return out
}

// refused restores, and expects that it ends incomplete with one problem, which names all of parts.
func (v *moved) refused(parts ...string) dr.RestoreOutput {
	v.t.Helper()
	out, err := v.set.Apply(deadline(v.t), v.to, v.opts, nil)
	if dr.ClassOf(err) != dr.ClassIncomplete || len(out.Problems) != 1 {
		v.t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	names(v.t, out.Problems, parts...)
	return out
}

// blocked restores, and expects that it is stopped before anything is changed.
func (v *moved) blocked(parts ...string) {
	v.t.Helper()
	out, err := v.set.Apply(deadline(v.t), v.to, v.opts, nil)
	if dr.ClassOf(err) != dr.ClassBlocked {
		v.t.Fatalf("error %v, problems %q", err, out.Problems)
	}
	names(v.t, out.Problems, parts...)
	if out.Created+out.Updated > 0 || get(v.t, v.to, "", "v1/Namespace/"+v.ns) != nil {
		v.t.Error("something was changed")
	}
	found, err := v.set.Preflight(deadline(v.t), v.to, v.opts)
	if err != nil {
		v.t.Fatal(err)
	}
	names(v.t, found, parts...)
}

// verify compares, and expects exactly these problems.
func (v *moved) verify(want ...string) {
	v.t.Helper()
	out, err := v.set.Verify(deadline(v.t), v.to, v.opts)
	if err != nil {
		v.t.Fatal(err)
	}
	if !slices.Equal(out.Problems, want) {
		v.t.Errorf("problems %q, want %q", out.Problems, want)
	}
}

// twice applies again, and expects that nothing is written.
func (v *moved) twice() {
	v.t.Helper()
	nothingChanges(v.t, v.set, v.to, v.opts)
}

// get reads an object at the target; see get.
func (v *moved) field(what, path string) any { return field(get(v.t, v.to, v.ns, what), path) }

func (v *moved) there(what string) bool { return get(v.t, v.to, v.ns, what) != nil }

// names expects one of the lines to have all of parts in it.
func names(t *testing.T, lines []string, parts ...string) {
	t.Helper()
	if !slices.ContainsFunc(lines, func(l string) bool {
		return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(l, p) })
	}) {
		t.Errorf("none of %q names %q", lines, parts)
	}
}

// eventually waits for something that a controller does.
func eventually(t *testing.T, what string, cond func() (bool, string)) {
	t.Helper()
	err := kube.WaitFor(deadline(t), what, 100*time.Millisecond, func(context.Context) (bool, string, error) {
		done, state := cond()
		return done, state, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// remove deletes an object, and does not wait for it to go.
func remove(t *testing.T, c *kube.Client, ns, what string) {
	t.Helper()
	r, name := resource(t, c, ns, what)
	if err := r.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// definition is a CRD of a namespace's own group, with a spec and a status of any form.
func definition(ns, kind string, versions ...string) string {
	plural := strings.ToLower(kind) + "s"
	list := make([]string, 0, len(versions))
	for i, v := range versions {
		list = append(list, fmt.Sprintf(`{name: %s, served: true, storage: %t, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, properties: {
			spec: {type: object, x-kubernetes-preserve-unknown-fields: true}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}`, v, i == 0))
	}
	return fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %[1]s.%[2]s.example.com}, spec: {group: %[2]s.example.com, scope: Namespaced,
		names: {kind: %[3]s, listKind: %[3]sList, plural: %[1]s, singular: %[4]s}, versions: [%[5]s]}}`, plural, ns, kind, strings.ToLower(kind), strings.Join(list, ", "))
}

// foreign is a CRD of somebody else's kind, as far as the tests need it: any spec, any status.
func foreign(group, version, kind, plural, scope string) string {
	return fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %[4]s.%[1]s, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes/enhancements/pull/1111"}}, spec: {group: %[1]s, scope: %[5]s,
		names: {kind: %[3]s, listKind: %[3]sList, plural: %[4]s, singular: %[6]s}, versions: [{name: %[2]s, served: true, storage: true, subresources: {status: {}},
		schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`, group, version, kind, plural, scope, strings.ToLower(kind))
}

// serveKinds makes sites serve foreign kinds, each "group/version/Kind/plural", cluster-scoped with a "!" before it.
func serveKinds(t *testing.T, kinds []string, clients ...*kube.Client) {
	t.Helper()
	for _, c := range clients {
		for _, k := range kinds {
			k, cluster := strings.CutPrefix(k, "!")
			scope := "Namespaced"
			if cluster {
				scope = "Cluster"
			}
			p := strings.Split(k, "/")
			if get(t, c, "", "apiextensions.k8s.io/v1/CustomResourceDefinition/"+p[3]+"."+p[0]) == nil {
				create(t, c, "", foreign(p[0], p[1], p[2], p[3], scope))
			}
			eventually(t, k+" to be served", func() (bool, string) {
				crd := get(t, c, "", "apiextensions.k8s.io/v1/CustomResourceDefinition/"+p[3]+"."+p[0])
				ready, state := kube.Ready(crd)
				return ready, state
			})
		}
	}
}

// recount loads the checkpoint anew after its documents were changed.
func (v *moved) recount() {
	v.t.Helper()
	v.m.docs["meta.json"] = []byte(fmt.Sprintf(`{"application":%q,"namespaces":[%q],"objects":%d}`, v.ns, v.ns, len(v.m.docs)-1))
	v.set = loaded(v.t, v.m)
}

func asJSON(t *testing.T, doc string) []byte {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, doc)
	}
	return raw
}

var listAll = metav1.ListOptions{}

// portField reads a field of the port of a Service that has a name.
func portField(service *unstructured.Unstructured, name, what string) any {
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	for _, p := range ports {
		if m, ok := p.(map[string]any); ok && m["name"] == name {
			return m[what]
		}
	}
	return nil
}

// served waits until a site says that it serves a group's version.
func served(t *testing.T, c *kube.Client, groupVersion string) {
	t.Helper()
	eventually(t, groupVersion+" to be served", func() (bool, string) {
		list, err := c.Discovery.ServerResourcesForGroupVersion(groupVersion)
		return err == nil && len(list.APIResources) > 0, fmt.Sprint(err)
	})
}

var dryRun = metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
