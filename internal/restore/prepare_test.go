package restore

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"lifeboat.dev/lifeboat/internal/dr"
)

// docs is a Source that makes the path of each document up.
type docs []string

func (d docs) Walk(_ context.Context, fn func(string, []byte) error) error {
	for i, doc := range d {
		raw, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			return err
		}
		if err := fn("namespaces/shop/x/y/"+string(rune('a'+i))+".json", raw); err != nil {
			return err
		}
	}
	meta, err := json.Marshal(Meta{Application: "shop", Namespaces: []string{"shop"}, Objects: len(d)})
	if err != nil {
		return err
	}
	return fn(metaPath, meta)
}

func load(t *testing.T, d ...string) *Set {
	t.Helper()
	s, err := Load(t.Context(), docs(d))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func prepare(t *testing.T, s *Set, opts Options) *Prepared {
	t.Helper()
	p, err := s.Prepare(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func formOf(t *testing.T, p *Prepared, it *item) *form {
	t.Helper()
	f, err := p.form(t.Context(), it)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func options() Options {
	return Options{
		Application: "shop", Point: "p1",
		From: dr.Site{Name: "east", Registry: "east.example/team", Ingress: dr.Ingress{Domain: "apps.east.example"}},
		To: dr.Site{Name: "west", Registry: "west.example:5000", Ingress: dr.Ingress{Domain: "apps.west.example"},
			StorageClasses: map[string]string{"fast": "premium", "*": "plain"}},
	}
}

// one prepares a set whose last object is the one looked at.
func one(t *testing.T, d ...string) (*unstructured.Unstructured, *Prepared) {
	t.Helper()
	s := load(t, d...)
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(d[len(d)-1]), &doc); err != nil {
		t.Fatal(err)
	}
	k := keyOf(&unstructured.Unstructured{Object: doc})
	p := prepare(t, s, options())
	it := p.item(k)
	if it == nil {
		return nil, p
	}
	return formOf(t, p, it).obj, p
}

func TestTransforms(t *testing.T) {
	t.Parallel()
	const meta = "{name: x, namespace: shop, uid: u1, resourceVersion: '7', creationTimestamp: '2026-01-01T00:00:00Z', generation: 4}"
	for name, c := range map[string]struct {
		with []string // other objects of the set
		in   string
		want map[string]any // path → value; nil: must not be there
	}{
		"identity is not carried over": {
			in:   "{apiVersion: v1, kind: ConfigMap, metadata: " + meta + ", data: {a: b}}",
			want: map[string]any{"metadata.uid": nil, "metadata.resourceVersion": nil, "metadata.generation": nil, "metadata.creationTimestamp": nil, "data.a": "b"},
		},
		"marks of an earlier restore and kubectl's copy go": {
			in: `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop, labels: {lifeboat.dev/application: old, keep: me},
				annotations: {lifeboat.dev/restored: p0, kubectl.kubernetes.io/last-applied-configuration: "{}", keep: me}}}`,
			want: map[string]any{"metadata.annotations.lifeboat~dev/restored": nil, "metadata.annotations.keep": "me",
				"metadata.annotations.kubectl~kubernetes~io/last-applied-configuration": nil, "metadata.labels.keep": "me",
				"metadata.labels.lifeboat~dev/application": "shop", "metadata.annotations.lifeboat~dev/point": "p1"},
		},
		"an allotted cluster address and node port go": {
			in: `{apiVersion: v1, kind: Service, metadata: ` + meta + `, spec: {type: NodePort, clusterIP: 10.0.0.7, clusterIPs: [10.0.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				ports: [{port: 80, nodePort: 31234, protocol: TCP}]}, status: {loadBalancer: {}}}`,
			want: map[string]any{"spec.clusterIP": nil, "spec.clusterIPs": nil, "spec.ports.0.nodePort": nil, "spec.ports.0.port": int64(80), "status": nil, "spec.ipFamilies": nil},
		},
		"a node port that was asked for stays": {
			in: `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: shop, annotations: {lifeboat.dev/explicit: "clusterIP,nodePort/80/TCP"}},
				spec: {type: NodePort, clusterIP: 10.0.0.7, healthCheckNodePort: 30000, ports: [{port: 80, nodePort: 31234}, {port: 81, nodePort: 31235}]}}`,
			want: map[string]any{"spec.clusterIP": nil, "spec.ports.0.nodePort": int64(31234), "spec.ports.1.nodePort": nil, "spec.healthCheckNodePort": nil,
				"metadata.annotations.lifeboat~dev/explicit": nil},
		},
		"a headless Service stays headless": {
			in:   "{apiVersion: v1, kind: Service, metadata: " + meta + ", spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}}",
			want: map[string]any{"spec.clusterIP": "None", "spec.clusterIPs": nil},
		},
		"a claim is unbound and its class mapped": {
			in: `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x, namespace: shop, finalizers: [kubernetes.io/pvc-protection],
				annotations: {pv.kubernetes.io/bind-completed: "yes", volume.kubernetes.io/selected-node: n1, volume.kubernetes.io/storage-provisioner: p}},
				spec: {volumeName: pv1, storageClassName: fast, dataSource: {kind: VolumeSnapshot, name: s}, resources: {requests: {storage: 1Gi}}}, status: {phase: Bound}}`,
			want: map[string]any{"spec.volumeName": nil, "spec.storageClassName": "premium", "spec.dataSource": nil, "metadata.finalizers": nil, "status": nil,
				"metadata.annotations.pv~kubernetes~io/bind-completed": nil, "metadata.annotations.volume~kubernetes~io/selected-node": nil, "spec.resources.requests.storage": "1Gi"},
		},
		"a class that is not in the map falls back": {
			in:   "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: " + meta + ", spec: {storageClassName: odd}}",
			want: map[string]any{"spec.storageClassName": "plain"},
		},
		"a claim without a class stays without": {
			in:   "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: " + meta + ", spec: {storageClassName: ''}}",
			want: map[string]any{"spec.storageClassName": ""},
		},
		"a StatefulSet's templates are mapped as well": {
			in: `{apiVersion: apps/v1, kind: StatefulSet, metadata: ` + meta + `, spec: {volumeClaimTemplates: [{metadata: {name: d}, spec: {storageClassName: fast}, status: {phase: Pending}}],
				template: {spec: {containers: [{name: a, image: east.example/team/db@sha256:00}]}}}}`,
			want: map[string]any{"spec.volumeClaimTemplates.0.spec.storageClassName": "premium", "spec.volumeClaimTemplates.0.status": nil,
				"spec.template.spec.containers.0.image": "west.example:5000/db@sha256:00"},
		},
		"images of the site's registry move, others do not": {
			in: `{apiVersion: batch/v1, kind: CronJob, metadata: ` + meta + `, spec: {suspend: false, jobTemplate: {spec: {template: {spec: {
				initContainers: [{name: i, image: docker.io/team/init:1}], containers: [{name: a, image: east.example/team/web:1}, {name: b, image: east.example/teams/web:1}]}}}}}}`,
			want: map[string]any{"spec.suspend": false, "spec.jobTemplate.spec.template.spec.containers.0.image": "west.example:5000/web:1",
				"spec.jobTemplate.spec.template.spec.containers.1.image":     "east.example/teams/web:1",
				"spec.jobTemplate.spec.template.spec.initContainers.0.image": "docker.io/team/init:1"},
		},
		"a Job loses the marks of its uid in both spellings": {
			in: `{apiVersion: batch/v1, kind: Job, metadata: ` + meta + `, spec: {selector: {matchLabels: {batch.kubernetes.io/controller-uid: u1}},
				template: {metadata: {labels: {controller-uid: u1, batch.kubernetes.io/controller-uid: u1, job-name: x, batch.kubernetes.io/job-name: x, app: web}}, spec: {containers: [{name: a}]}}}}`,
			want: map[string]any{"spec.selector": nil, "spec.template.metadata.labels.controller-uid": nil, "spec.template.metadata.labels.batch~kubernetes~io/controller-uid": nil,
				"spec.template.metadata.labels.job-name": nil, "spec.template.metadata.labels.batch~kubernetes~io/job-name": nil, "spec.template.metadata.labels.app": "web"},
		},
		"a Job with a selector of its own keeps it": {
			in:   `{apiVersion: batch/v1, kind: Job, metadata: ` + meta + `, spec: {manualSelector: true, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: a}]}}}}`,
			want: map[string]any{"spec.selector.matchLabels.a": "b"},
		},
		"a generated Route host is made anew": {
			in:   `{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: x, namespace: shop, annotations: {openshift.io/host.generated: "true"}}, spec: {host: x-shop.apps.east.example, to: {name: web}}}`,
			want: map[string]any{"spec.host": "x-shop.apps.west.example"},
		},
		"a custom Route host is kept": {
			in:   `{apiVersion: route.openshift.io/v1, kind: Route, metadata: ` + meta + `, spec: {host: shop.example.com}, status: {ingress: []}}`,
			want: map[string]any{"spec.host": "shop.example.com", "status": nil},
		},
		"an Ingress host within the site's domain moves": {
			in:   `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: ` + meta + `, spec: {rules: [{host: a.apps.east.example}, {host: shop.example.com}], tls: [{hosts: [a.apps.east.example]}]}}`,
			want: map[string]any{"spec.rules.0.host": "a.apps.west.example", "spec.rules.1.host": "shop.example.com", "spec.tls.0.hosts.0": "a.apps.west.example"},
		},
		"a namespace keeps OpenShift's ranges": {
			in: `{apiVersion: v1, kind: Namespace, metadata: {name: x, annotations: {openshift.io/sa.scc.uid-range: 1000/10000}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}`,
			want: map[string]any{"metadata.annotations.openshift~io/sa~scc~uid-range": "1000/10000", "spec": nil,
				"status": nil},
		},
		"a bare pod loses its node and its token": {
			in: `{apiVersion: v1, kind: Pod, metadata: ` + meta + `, spec: {nodeName: n1, volumes: [{name: kube-api-access-abc}, {name: d}],
				tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 300}],
				containers: [{name: a, image: east.example/team/a, volumeMounts: [{name: kube-api-access-abc}, {name: d}]}]}, status: {phase: Running}}`,
			want: map[string]any{"spec.nodeName": nil, "spec.volumes.0.name": "d", "spec.volumes.1": nil, "spec.containers.0.volumeMounts.0.name": "d",
				"spec.tolerations": nil, "spec.containers.0.image": "west.example:5000/a", "status": nil},
		},
		"an account loses generated credentials": {
			with: []string{`{apiVersion: v1, kind: Secret, metadata: {name: mine, namespace: shop}}`,
				`{apiVersion: v1, kind: Secret, metadata: {name: x-dockercfg-1, namespace: shop, annotations: {kubernetes.io/service-account.name: x}}, type: kubernetes.io/dockercfg}`},
			in: `{apiVersion: v1, kind: ServiceAccount, metadata: ` + meta + `, secrets: [{name: x-token-9}, {name: x-dockercfg-1}], imagePullSecrets: [{name: x-dockercfg-1}, {name: mine}, {name: elsewhere}]}`,
			want: map[string]any{"secrets": nil, "imagePullSecrets.0.name": "mine", "imagePullSecrets.1.name": "elsewhere",
				"imagePullSecrets.2": nil},
		},
		"a token that was asked for is asked for again": {
			in: `{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, data: {token: eA==},
				metadata: {name: x, namespace: shop, annotations: {kubernetes.io/service-account.name: robot, kubernetes.io/service-account.uid: u9}}}`,
			want: map[string]any{"data": nil, "metadata.annotations.kubernetes~io/service-account~uid": nil, "metadata.annotations.kubernetes~io/service-account~name": "robot"},
		},
		"a fenced workload gets its replicas back": {
			in: `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: shop, annotations: {lifeboat.dev/replicas: "3"}}, spec: {replicas: 0, template: {spec: {containers: [{name: a}]}}}}`,
			want: map[string]any{"spec.replicas": int64(3), "metadata.annotations.lifeboat~dev/replicas": nil,
				"metadata.annotations.deployment~kubernetes~io/revision": nil},
		},
		"an old mark on a scaled workload means nothing": {
			in:   `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: shop, annotations: {lifeboat.dev/replicas: "3"}}, spec: {replicas: 5}}`,
			want: map[string]any{"spec.replicas": int64(5)},
		},
		"a fenced CronJob and DaemonSet": {
			in: `{apiVersion: apps/v1, kind: DaemonSet, metadata: ` + meta + `, spec: {template: {spec: {nodeSelector: {lifeboat.dev/fenced: "true", disk: ssd}, containers: [{name: a}]}}}}`,
			want: map[string]any{"spec.template.spec.nodeSelector.lifeboat~dev/fenced": nil,
				"spec.template.spec.nodeSelector.disk": "ssd"},
		},
		"finalizers whose controllers are not known go": {
			in:   `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop, finalizers: [a.example.com/f]}}`,
			want: map[string]any{"metadata.finalizers": nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, p := one(t, append(c.with, c.in)...)
			if got == nil {
				t.Fatalf("skipped: %v", p.Skipped)
			}
			for path, want := range c.want {
				if have := at(got.Object, path); have != want {
					t.Errorf("%s is %v, want %v", path, have, want)
				}
			}
		})
	}
}

// at follows a path with indexes in it; "~" stands for a dot inside a key.
func at(v any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		part = strings.ReplaceAll(part, "~", ".")
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			i := int(part[0] - '0')
			if i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func TestSkipped(t *testing.T) {
	t.Parallel()
	const owned = "ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]"
	for name, c := range map[string]struct {
		with []string
		in   string
		why  string // empty: restored
	}{
		"a controller's pod":       {in: "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop, " + owned + "}}", why: "its ReplicaSet makes it"},
		"a pod that ended":         {in: "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {phase: Succeeded}}", why: "ended"},
		"a bare pod":               {in: "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {phase: Running}}"},
		"a controller's set":       {in: "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x, namespace: shop, " + strings.Replace(owned, "ReplicaSet", "Deployment", 1) + "}}", why: "its Deployment makes it"},
		"a bare ReplicaSet":        {in: "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x, namespace: shop}}"},
		"a finished Job":           {in: "{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: shop}, status: {conditions: [{type: Complete, status: 'True'}]}}", why: "not run again"},
		"a running Job":            {in: "{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: shop}, status: {active: 1}}"},
		"the cluster's own CA":     {in: "{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: shop}}", why: "makes its own"},
		"a volume":                 {in: "{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}}", why: "provisioner"},
		"a lease":                  {in: "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: x, namespace: shop}}", why: "bookkeeping"},
		"a system priority":        {in: "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: system-node-critical}}", why: "every cluster"},
		"a mover":                  {in: "{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: shop, labels: {lifeboat.dev/transient: mover}}}", why: "Lifeboat's own"},
		"what was being deleted":   {in: "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z'}}", why: "being deleted"},
		"a generated pull secret":  {in: "{apiVersion: v1, kind: Secret, type: kubernetes.io/dockercfg, metadata: {name: x, namespace: shop, annotations: {openshift.io/token-secret.name: t}}}", why: "pull secret"},
		"one's own pull secret":    {in: "{apiVersion: v1, kind: Secret, type: kubernetes.io/dockercfg, metadata: {name: x, namespace: shop}}"},
		"a snapshot":               {in: "{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: x, namespace: shop}}", why: "snapshot"},
		"an OLM install plan":      {in: "{apiVersion: operators.coreos.com/v1alpha1, kind: InstallPlan, metadata: {name: x, namespace: shop}}", why: "OLM"},
		"a controller's slice":     {in: "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: shop, labels: {endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}", why: "Service"},
		"a slice written by hand":  {in: "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: s}}}"},
		"an Ingress's Route":       {in: "{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: x, namespace: shop, ownerReferences: [{kind: Ingress, name: i, controller: true}]}}", why: "Ingress"},
		"Endpoints, no selector":   {with: []string{"{apiVersion: v1, kind: Service, metadata: {name: x, namespace: shop}, spec: {ports: [{port: 1}]}}"}, in: "{apiVersion: v1, kind: Endpoints, metadata: {name: x, namespace: shop}}"},
		"Endpoints of a selector":  {with: []string{"{apiVersion: v1, kind: Service, metadata: {name: x, namespace: shop}, spec: {selector: {a: b}}}"}, in: "{apiVersion: v1, kind: Endpoints, metadata: {name: x, namespace: shop}}", why: "Service"},
		"an automatic token":       {with: []string{"{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: shop}, secrets: [{name: x}]}"}, in: "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: x, namespace: shop, annotations: {kubernetes.io/service-account.name: robot}}}", why: "automatic"},
		"a token that was asked":   {with: []string{"{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: shop}}"}, in: "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: x, namespace: shop, annotations: {kubernetes.io/service-account.name: robot}}}"},
		"a default ClusterRole":    {in: "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}", why: "every cluster"},
		"cert-manager's request":   {in: "{apiVersion: cert-manager.io/v1, kind: CertificateRequest, metadata: {name: x, namespace: shop}}", why: "cert-manager"},
		"a serving cert's Secret":  {in: "{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: shop, annotations: {service.beta.openshift.io/originating-service-name: s}}}", why: "service CA"},
		"a revision of a set":      {in: "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: x, namespace: shop, ownerReferences: [{kind: StatefulSet, name: s, controller: true}]}}", why: "StatefulSet"},
		"an Argo CD application's": {in: "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop, annotations: {argocd.argoproj.io/tracking-id: a}}}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, p := one(t, append(c.with, c.in)...)
			switch {
			case c.why == "" && got == nil:
				t.Errorf("skipped: %v", p.Skipped)
			case c.why != "" && got != nil:
				t.Error("restored")
			case c.why != "" && !slices.ContainsFunc(p.Skipped, func(s string) bool { return strings.Contains(s, c.why) }):
				t.Errorf("skipped with %q, want %q", p.Skipped, c.why)
			}
		})
	}
}

func TestFinalizersOfKnownControllersStay(t *testing.T) {
	t.Parallel()
	s := load(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: shop, finalizers: [a.example.com/f, b.example.com/g, kubernetes.io/h]}}`)
	opts := options()
	opts.To.Finalizers = []string{"a.example.com"}
	p := prepare(t, s, opts)
	if got := formOf(t, p, p.items[0]).obj.GetFinalizers(); !slices.Equal(got, []string{"a.example.com/f"}) {
		t.Errorf("finalizers %v", got)
	}
	if len(p.Changes) != 1 || !strings.Contains(p.Changes[0].What, "b.example.com/g") {
		t.Errorf("changes %v; want the one that a person may miss", p.Changes)
	}
}

func TestPrepareLeavesTheSetAlone(t *testing.T) {
	t.Parallel()
	s := load(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: shop, uid: u}, spec: {replicas: 2, template: {spec: {containers: [{name: a, image: east.example/team/a}]}}}}`)
	before, err := s.docs.unpack(s.entries[0].ref)
	if err != nil {
		t.Fatal(err)
	}
	first := formOf(t, prepare(t, s, options()), &item{key: s.entries[0].key})
	after, err := s.docs.unpack(s.entries[0].ref)
	if err != nil {
		t.Fatal(err)
	}
	first.obj.SetLabels(nil)
	if again := formOf(t, prepare(t, s, options()), &item{key: s.entries[0].key}); len(again.obj.GetLabels()) == 0 {
		t.Error("what was given out came back")
	}
	if string(before) != string(after) {
		t.Errorf("the set changed:\n%s\n%s", before, after)
	}
}

func TestLoadRefusesWhatDidNotEnd(t *testing.T) {
	t.Parallel()
	for name, walk := range map[string]func(func(string, []byte) error) error{
		"no description": func(fn func(string, []byte) error) error {
			return fn("cluster/core/namespaces/x.json", []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}`))
		},
		"an object is missing": func(fn func(string, []byte) error) error { return fn(metaPath, []byte(`{"objects":2}`)) },
		"not JSON":             func(fn func(string, []byte) error) error { return fn("a.json", []byte(`{`)) },
		"no kind":              func(fn func(string, []byte) error) error { return fn("a.json", []byte(`{"metadata":{"name":"x"}}`)) },
	} {
		if _, err := Load(t.Context(), walker(walk)); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

type walker func(func(string, []byte) error) error

func (w walker) Walk(_ context.Context, fn func(string, []byte) error) error { return w(fn) }
