package statetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// ducks is an API server of one group, which keeps ducks in memory.
type ducks struct {
	t     *testing.T
	group string
	mu    sync.Mutex
	flock map[string]map[string]any // by namespace/name
	n     int
}

// ServeHTTP implements http.Handler.
func (d *ducks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	root := "/apis/" + d.group + "/v1"
	if r.URL.Path == root {
		d.answer(w, http.StatusOK, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: d.group + "/v1",
			APIResources: []metav1.APIResource{{Name: "ducks", SingularName: "duck", Namespaced: true, Kind: "Duck", Verbs: metav1.Verbs{"create", "get", "list", "patch", "delete"}}}})
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, root+"/namespaces/")
	if !ok {
		d.answer(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
		return
	}
	ns, name, _ := strings.Cut(path, "/ducks")
	key := ns + name
	switch {
	case r.Method == http.MethodGet && name == "":
		items := []map[string]any{}
		for k, duck := range d.flock {
			if strings.HasPrefix(k, ns+"/") {
				items = append(items, duck)
			}
		}
		d.answer(w, http.StatusOK, map[string]any{"kind": "DuckList", "apiVersion": d.group + "/v1", "metadata": map[string]any{"resourceVersion": fmt.Sprint(d.n)}, "items": items})
	case r.Method == http.MethodGet && d.flock[key] == nil:
		d.answer(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
	case r.Method == http.MethodGet:
		d.answer(w, http.StatusOK, d.flock[key])
	default:
		duck := map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&duck); err != nil {
			d.t.Error(err)
		}
		meta, _ := duck["metadata"].(map[string]any)
		d.n++
		meta["resourceVersion"], meta["uid"] = fmt.Sprint(d.n), fmt.Sprintf("00000000-0000-0000-0000-%012d", d.n)
		d.flock[ns+"/"+fmt.Sprint(meta["name"])] = duck
		d.answer(w, http.StatusCreated, duck)
	}
}

func (d *ducks) answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.t.Error(err)
	}
}

func (d *ducks) fly() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flock = map[string]map[string]any{}
}

// aggregated makes an aggregated API of a site, served by a backend through a Service of a namespace.
func aggregated(group string, b *backend) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: api, namespace: @NS@}, spec: {type: ExternalName, externalName: localhost, selector: {app: api}, ports: [{port: %[2]s}]}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.%[1]s}, spec: {group: %[1]s, version: v1, groupPriorityMinimum: 100, versionPriority: 10, insecureSkipTLSVerify: true, service: {namespace: @NS@, name: api, port: %[2]s}}}`, group, b.port())
}

// retire takes an aggregated API away again, so that no other test misses it.
func retire(t *testing.T, group string, clients ...*kube.Client) {
	t.Helper()
	for _, c := range clients {
		remove(t, c, "", "apiregistration.k8s.io/v1/APIService/v1."+group)
		eventually(t, group+" to be forgotten", func() (bool, string) {
			_, _, err := c.Discovery.ServerGroupsAndResources()
			return err == nil, fmt.Sprint(err)
		})
	}
}

// An API server that does not answer at the target holds up what is of its group, and nothing else. Not
// parallel: it would make the captures of others incomplete.
func TestAggregatedServerDownAtTheTarget(t *testing.T) {
	east, west := connect(t)
	const ns, group = "ducks", "ducks.example.com"
	up, down := newBackend(t, ns, "api"), newBackend(t, "duck-server", "api")
	pond := &ducks{t: t, group: group, flock: map[string]map[string]any{}}
	up.start(pond)
	create(t, east, ns, emptyNamespace+"---\n"+settings+"\n---\n"+aggregated(group, up))
	served(t, east, group+"/v1")
	create(t, east, ns, `{apiVersion: ducks.example.com/v1, kind: Duck, metadata: {name: donald, namespace: @NS@}, spec: {color: white}}`)
	v := moving(t, east, west, ns)
	retire(t, group, east)
	delete(v.m.docs, "cluster/apiregistration.k8s.io/apiservices/v1."+group+".json") // at the target it is somebody else's
	v.recount()
	pond.fly()

	create(t, west, "duck-server", `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
`+aggregated(group, down))
	defer retire(t, group, west)
	eventually(t, "the target to miss the group", func() (bool, string) {
		found, err := v.set.Preflight(deadline(t), west, v.opts)
		return err == nil && len(found) == 1 && strings.Contains(found[0], group) && strings.Contains(found[0], "at the moment"), fmt.Sprint(found, err)
	})
	v.opts.GateTimeout = 2 * time.Second
	v.refused("Duck "+ns+"/donald", "API group "+group, "2s")
	if !v.there("v1/ConfigMap/settings") {
		t.Error("the rest did not go on")
	}
	down.start(pond)
	v.opts.GateTimeout = 30 * time.Second
	out := v.apply()
	if out.Created != 1 || pond.flock[ns+"/donald"] == nil {
		t.Errorf("created %d, %v", out.Created, pond.flock)
	}
	v.verify()
}

// An aggregated API of the application's own comes once its server runs, and what is of it after that.
func TestAggregatedServerOfOnesOwn(t *testing.T) {
	east, west := connect(t)
	const ns, group = "own-ducks", "own-ducks.example.com"
	b := newBackend(t, ns, "api")
	pond := &ducks{t: t, group: group, flock: map[string]map[string]any{}}
	b.start(pond)
	create(t, east, ns, emptyNamespace+"---\n"+settings+"\n---\n"+aggregated(group, b)+`
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: api, namespace: @NS@}, spec: {replicas: 1, selector: {matchLabels: {app: api}}, template: {metadata: {labels: {app: api}}, spec: {containers: [{name: a, image: a}]}}}}`)
	served(t, east, group+"/v1")
	create(t, east, ns, `{apiVersion: own-ducks.example.com/v1, kind: Duck, metadata: {name: daisy, namespace: @NS@}, spec: {color: white}}`)
	v := moving(t, east, west, ns)
	retire(t, group, east)
	pond.fly()
	whenThere(t, west, ns, "apps/v1/Deployment/api", func() { readyDeployment(t, west, ns, "api") })
	v.opts.GateTimeout = 30 * time.Second
	v.apply()
	defer retire(t, group, west)
	if pond.flock[ns+"/daisy"] == nil {
		t.Errorf("the flock: %v", pond.flock)
	}
	v.verify()
}

// A namespace that does not go away: the restore waits for it, names what keeps it, and goes on when that is
// gone.
func TestNamespaceThatIsBeingDeleted(t *testing.T) {
	t.Parallel()
	north := withControllers(t)
	east, _ := connect(t)
	const ns = "terminating"
	v := move(t, east, north, ns, emptyNamespace+"---\n"+settings)
	create(t, north, ns, `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: clings, namespace: @NS@, finalizers: [nobody.example.com/hold]}}`)
	remove(t, north, "", "v1/Namespace/"+ns)
	eventually(t, "the namespace controller to name the blocker", func() (bool, string) {
		found, err := v.set.Preflight(deadline(t), north, v.opts)
		return err == nil && len(found) == 1 && strings.Contains(found[0], "nobody.example.com/hold"), fmt.Sprint(found, err)
	})
	v.opts.GateTimeout = time.Second
	began := time.Now()
	_, err := v.set.Apply(deadline(t), north, v.opts, nil)
	if dr.ClassOf(err) != dr.ClassBlocked || !strings.Contains(err.Error(), "nobody.example.com/hold") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it waited %s", took)
	}
	time.AfterFunc(time.Second, func() { patch(t, north, ns, "v1/ConfigMap/clings", "metadata: {finalizers: null}") })
	v.opts.GateTimeout = 30 * time.Second
	v.apply()
	if !v.there("v1/ConfigMap/settings") || v.there("v1/ConfigMap/clings") {
		t.Error("it was not restored into a namespace of its own")
	}
	v.verify()
}

// Admission policies of the application's own come along; those of others do not.
func TestAdmissionPoliciesOfOnesOwn(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "policies"
	policy := func(name, selected string) string {
		return fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: @NS@-%[1]s}, spec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]},
  validations: [{expression: "object.metadata.name != 'bad'"}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: @NS@-%[1]s}, spec: {policyName: @NS@-%[1]s, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {%[2]s}}}}}`, name, selected)
	}
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+"\n---\n"+policy("own", "kubernetes.io/metadata.name: policies")+"\n---\n"+policy("others", "team: others"))
	v.apply()
	const g = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
	for what, want := range map[string]bool{g + "/policies-own": true, g + "Binding/policies-own": true, g + "/policies-others": false, g + "Binding/policies-others": false} {
		if got := get(t, west, "", what) != nil; got != want {
			t.Errorf("%s is there: %t, want %t", what, got, want)
		}
	}
	v.verify()
	v.twice()
}
