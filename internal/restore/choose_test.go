package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/edit"
)

// shopDocs is an application in which a Deployment needs a few things and others do not.
func shopDocs() []string {
	return []string{
		`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {tier: front}}, spec: {template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, priorityClassName: high,
			containers: [{name: a, image: a, envFrom: [{configMapRef: {name: settings}}]}], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}}}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: idle, namespace: shop}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: shop, labels: {tier: front}}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: shop}, spec: {}}`,
		`{apiVersion: v1, kind: LimitRange, metadata: {name: limits, namespace: shop}}`,
		`{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: nodes}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: web-nodes}, roleRef: {kind: ClusterRole, name: nodes}, subjects: [{kind: ServiceAccount, name: web, namespace: shop}]}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: none, namespace: shop}}`,
		`{apiVersion: v1, kind: Secret, metadata: {name: owned, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: x}]}}`,
		`{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}}`,
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const needed = "ClusterRole nodes, ClusterRoleBinding web-nodes, ConfigMap shop/settings, Deployment shop/web, Namespace shop, PersistentVolumeClaim shop/data, PriorityClass high, ServiceAccount shop/web"
	for _, c := range []struct {
		name    string
		s       dr.Selector
		without bool
		want    string
		notes   string
	}{
		{"a workload and what it needs", dr.Selector{Kinds: []string{"deploy"}}, false, needed, "ConfigMap shop/settings: comes along: Deployment shop/web needs it"},
		{"its account's rights", dr.Selector{Kinds: []string{"sa"}, Names: []string{"we*"}}, false, "ClusterRole nodes, ClusterRoleBinding web-nodes, Namespace shop, ServiceAccount shop/web", "ClusterRoleBinding web-nodes: comes along: ServiceAccount shop/web has its rights by it"},
		{"without", dr.Selector{Kinds: []string{"deploy"}}, true, "Deployment shop/web", "ConfigMap shop/settings: Deployment shop/web needs it, and it is left behind"},
		{"by label", dr.Selector{Labels: "tier=front", Kinds: []string{"cm"}}, false, "ConfigMap shop/other, Namespace shop", "Namespace shop: comes along: ConfigMap shop/other needs it"},
		{"what is owned, without its owner", dr.Selector{Names: []string{"owned"}}, false, "Namespace shop, Secret shop/owned", ""},
		{"of the cluster, by kind", dr.Selector{Kinds: []string{"clusterrole"}}, false, "ClusterRole nodes", ""},
		{"by namespace: of the cluster only what is needed", dr.Selector{Namespaces: []string{"shop"}}, false, "ClusterRole nodes, ClusterRoleBinding web-nodes, ConfigMap shop/other, ConfigMap shop/settings, " +
			"Deployment shop/web, LimitRange shop/limits, Namespace shop, PersistentVolumeClaim shop/data, PriorityClass high, Role shop/none, Secret shop/owned, ServiceAccount shop/idle, ServiceAccount shop/web", ""},
	} {
		opts := options()
		opts.Select, opts.WithoutNeeds = c.s, c.without
		p := prepare(t, load(t, shopDocs()...), opts)
		var got []string
		for _, it := range p.items {
			got = append(got, it.key.String())
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, s, c.want)
		}
		var notes []string
		for _, ch := range p.Changes {
			notes = append(notes, ch.Object+": "+ch.What)
			if !c.without && !slices.Contains(got, ch.Object) {
				t.Errorf("%s: %s is not restored, and said to change: %s", c.name, ch.Object, ch.What)
			}
		}
		if !strings.Contains(strings.Join(notes, "\n"), c.notes) || len(p.refused) > 0 {
			t.Errorf("%s: notes %q, refused %q", c.name, notes, p.refused)
		}
		if all := strings.Join(p.Skipped, "\n"); !strings.Contains(all, "other objects of the recovery point: not chosen") || strings.Contains(all, "PersistentVolume pv") {
			t.Errorf("%s: skipped %q", c.name, p.Skipped)
		}
	}
	opts := options()
	opts.Select = dr.Selector{Names: []string{"nothing"}}
	if p := prepare(t, load(t, shopDocs()...), opts); len(p.refused) != 1 || p.Len() > 0 {
		t.Errorf("nothing chosen: %q, %d items", p.refused, p.Len())
	}
	opts.Select = dr.Selector{Labels: "=("}
	if _, err := load(t, shopDocs()...).Prepare(t.Context(), opts); dr.ClassOf(err) != dr.ClassUsage {
		t.Errorf("a wrong selector: %v", err)
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	ts, err := edit.Compile([]dr.Transform{
		{Name: "fewer", Select: dr.Selector{Kinds: []string{"deploy"}}, Set: []dr.Setting{{Path: "/spec/replicas", Value: "1"}}},
		{Name: "broken", Select: dr.Selector{Kinds: []string{"role"}}, Set: []dr.Setting{{Path: "/spec/x", Value: "object.spec.nothing"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	opts := options()
	opts.Edits = ts
	p := prepare(t, load(t, shopDocs()...), opts)
	if len(p.refused) != 1 || !strings.HasPrefix(p.refused[0], "Role shop/none: transform broken: set[0].value: no such key: spec") {
		t.Errorf("refused %q", p.refused)
	}
	if !slices.Contains(p.Changes, Change{"Deployment shop/web", "spec.replicas becomes 1 by transform fewer"}) {
		t.Errorf("changes %v", p.Changes)
	}
	opts.Select = dr.Selector{Kinds: []string{"deploy"}}
	if p := prepare(t, load(t, shopDocs()...), opts); len(p.refused) > 0 {
		t.Errorf("what is not chosen stands in the way: %q", p.refused)
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	opts := options()
	opts.From.Region, opts.To.Region = "eastus", "westus"
	opts.To.Zones = map[string]string{"eastus-1": "westus-1", "*": "westus-2"}
	opts.To.NodeLabels = map[string]string{"pool=fast": "pool=quick", "pool=gone": "", "rack": "row", "gpu": ""}
	opts.To.IngressClasses = map[string]string{"haproxy": "openshift", "*": "nginx"}
	const zone, region = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
	spec := func(s string) string {
		return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {spec: {containers: [{name: a, image: a}], ` + s + `}}}}`
	}
	affinity := func(s string) string { return spec(`affinity: {nodeAffinity: {` + s + `}}`) }
	const required = `requiredDuringSchedulingIgnoredDuringExecution: `
	for _, c := range []struct{ name, object, path, want, note string }{
		{"a zone", spec(`nodeSelector: {` + zone + `: eastus-1, disk: ssd}`), "nodeSelector", `map[disk:ssd topology.kubernetes.io/zone:westus-1]`, "nodeSelector: topology.kubernetes.io/zone=eastus-1 becomes topology.kubernetes.io/zone=westus-1"},
		{"any other zone", spec(`nodeSelector: {failure-domain.beta.kubernetes.io/zone: eastus-3}`), "nodeSelector", `map[failure-domain.beta.kubernetes.io/zone:westus-2]`, "becomes"},
		{"the region", spec(`nodeSelector: {` + region + `: eastus}`), "nodeSelector", `map[topology.kubernetes.io/region:westus]`, "becomes"},
		{"a label", spec(`nodeSelector: {pool: fast, rack: r1}`), "nodeSelector", `map[pool:quick row:r1]`, "pool=fast becomes pool=quick"},
		{"one that is dropped", spec(`nodeSelector: {pool: gone, gpu: "yes"}`), "nodeSelector", `<nil>`, "pool=gone is dropped"},
		{"one of its own", spec(`nodeSelector: {pool: slow}`), "nodeSelector", `map[pool:slow]`, ""},
		{"affinity", affinity(required + `{nodeSelectorTerms: [{matchExpressions: [{key: ` + zone + `, operator: In, values: [eastus-1, eastus-2]}, {key: rack, operator: Exists}]}]}`), "affinity",
			`map[nodeAffinity:map[requiredDuringSchedulingIgnoredDuringExecution:map[nodeSelectorTerms:[map[matchExpressions:[map[key:topology.kubernetes.io/zone operator:In values:[westus-1 westus-2]] map[key:row operator:Exists]]]]]]]`, "rack becomes row"},
		{"two zones become one", affinity(required + `{nodeSelectorTerms: [{matchExpressions: [{key: ` + zone + `, operator: In, values: [eastus-2, eastus-3]}]}]}`), "affinity",
			`map[nodeAffinity:map[requiredDuringSchedulingIgnoredDuringExecution:map[nodeSelectorTerms:[map[matchExpressions:[map[key:topology.kubernetes.io/zone operator:In values:[westus-2]]]]]]]]`, "becomes"},
		{"terms that lose all", affinity(required + `{nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [gone]}]}]}, preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: gpu, operator: Exists}]}}]`), "affinity",
			`map[nodeAffinity:map[]]`, "demands nothing any more"},
		{"spreading", spec(`topologySpreadConstraints: [{topologyKey: rack, maxSkew: 1}, {topologyKey: ` + zone + `}]`), "topologySpreadConstraints", `[map[maxSkew:1 topologyKey:row] map[topologyKey:topology.kubernetes.io/zone]]`, "rack becomes row"},
		{"inside of a custom resource", `{apiVersion: x.example/v1, kind: Cluster, metadata: {name: c, namespace: shop}, spec: {template: {spec: {nodeSelector: {pool: fast}}}}}`, "nodeSelector", `map[pool:quick]`, "becomes"},
	} {
		p := prepare(t, load(t, c.object), opts)
		obj := formOf(t, p, p.items[0]).obj
		if got := fmt.Sprint(dig(obj.Object, "spec", "template", "spec")[c.path]); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
		var notes []string
		for _, ch := range p.Changes {
			notes = append(notes, ch.What)
		}
		if c.note == "" && len(notes) > 0 || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("%s: notes %q, want %q", c.name, notes, c.note)
		}
	}
	same := opts
	same.To.Name = same.From.Name
	p := prepare(t, load(t, spec(`nodeSelector: {pool: fast}`)), same)
	if len(p.Changes) > 0 {
		t.Errorf("at the same site: %v", p.Changes)
	}
	for class, want := range map[string]string{"haproxy": "openshift", "other": "nginx", "nginx": "nginx"} {
		p := prepare(t, load(t, `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: shop, annotations: {kubernetes.io/ingress.class: `+class+`}}, spec: {ingressClassName: `+class+`}}`), opts)
		obj := formOf(t, p, p.items[0]).obj
		if str(obj.Object, "spec", "ingressClassName") != want || obj.GetAnnotations()["kubernetes.io/ingress.class"] != want {
			t.Errorf("ingress class %s: %v", class, obj.Object)
		}
	}
}

func TestTakenHosts(t *testing.T) {
	t.Parallel()
	const (
		route   = `{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: web, namespace: copy}, spec: {host: shop.example.com}}`
		ingress = `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: copy}, spec: {rules: [{host: shop.example.com}, {host: free.example.com}], tls: [{hosts: [shop.example.com, free.example.com]}]}}`
	)
	original := key{GroupKind: routeKind, Namespace: "shop", Name: "web"}
	for _, c := range []struct {
		name, object string
		policy       dr.HostPolicy
		domain       string
		want         string // the hosts; "left", "refused"
		note         string
	}{
		{"renamed", route, dr.HostsRename, "apps.west", "web-copy.apps.west", "host shop.example.com is taken by Route shop/web; it becomes web-copy.apps.west"},
		{"the target's own", route, dr.HostsRename, "", "", "the target gives it another"},
		{"skipped", route, dr.HostsSkip, "apps.west", "left", ""},
		{"refused", route, dr.HostsRefuse, "apps.west", "refused", ""},
		{"an Ingress", ingress, dr.HostsRename, "apps.west", "web-copy.apps.west free.example.com", "becomes web-copy.apps.west"},
		{"an Ingress without a domain", ingress, dr.HostsRename, "", "left", ""},
	} {
		opts := options()
		opts.From.Ingress.Domain, opts.To.Ingress.Domain, opts.Hosts, opts.Copy = "", c.domain, c.policy, "copy"
		opts.taken = map[string]key{"shop.example.com": original}
		p := prepare(t, load(t, c.object), opts)
		var got string
		switch {
		case len(p.refused) > 0:
			got = "refused"
		case len(p.items) == 0:
			got = "left"
		default:
			obj := formOf(t, p, p.items[0]).obj
			got = strings.Join(hostsOf(obj), " ")
			if tls := maps(obj.Object, "spec", "tls"); len(tls) > 0 && fmt.Sprint(tls[0]["hosts"]) != "["+got+"]" {
				t.Errorf("%s: tls %v", c.name, tls)
			}
		}
		var notes []string
		for _, ch := range p.Changes {
			notes = append(notes, ch.What)
		}
		if got != c.want || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("%s: %q, notes %q, want %q", c.name, got, notes, c.want)
		}
	}
	opts := options()
	opts.Hosts, opts.taken = dr.HostsRename, map[string]key{"shop.example.com": {GroupKind: routeKind, Namespace: "copy", Name: "web"}}
	if p := prepare(t, load(t, route), opts); hostsOf(formOf(t, p, p.items[0]).obj)[0] != "shop.example.com" {
		t.Error("its own host is not taken by another")
	}
}
