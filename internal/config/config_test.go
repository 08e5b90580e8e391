package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lifeboat.dev/lifeboat/internal/dr"
)

const valid = `# two sites and a shop
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: east, labels: {team: shop}}
spec:
  region: eastus
  cluster: {kubeconfig: kube/east, context: admin}
  ingress: {domain: Apps.East.Example.com, address: 10.10.0.7}
  registry: registry.east.example:5000/mirror
  storageClasses: {slow: fast, "*": standard}
  moverImage: registry.east.example:5000/lifeboat:v1
---
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: west}
spec:
  cluster: {kubeconfig: ~/.kube/west}
---
---
apiVersion: lifeboat.dev/v1alpha1
kind: Vault
metadata: {name: main}
spec:
  location: "file:///srv/lifeboat vault"
  encryptionKey: {file: key}
  replicas:
  - {name: far, location: "s3://bucket/shop?endpoint=https://s3.example:9000&region=eu", credentials: {file: s3}, caFile: ca.pem}
  - {name: azure, location: azblob://account/container}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Zone
metadata: {name: example.com.}
spec: {rfc2136: {server: 10.0.0.53, keyFile: /etc/tsig}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Tier
metadata: {name: gold}
spec: {objectives: {rto: 5m, rpo: 30s}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: shop}
spec:
  namespaces: [shop]
  tier: gold
  sites: {preferred: east, recovery: [west]}
  data:
  - {name: orders, volume: {claim: orders}}
  traffic:
  - {host: Shop.example.com, dns: {zone: example.com, ttl: 1m}}
  probes:
  - name: front
    http: {url: "https://shop.example.com/healthz", resolver: 10.0.0.54, caFile: ca.pem, siteHeader: X-Site}
`

func TestParseReadsEveryField(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	got, err := Parse("/fleet/fleet.yaml", []byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	want := &dr.Fleet{
		Sites: []dr.Site{
			{
				Name: "east", Region: "eastus", Cluster: dr.Cluster{Kubeconfig: "/fleet/kube/east", Context: "admin"},
				Ingress:        dr.Ingress{Domain: "apps.east.example.com", Address: "10.10.0.7"},
				Registry:       "registry.east.example:5000/mirror",
				StorageClasses: map[string]string{"slow": "fast", "*": "standard"},
				MoverImage:     "registry.east.example:5000/lifeboat:v1",
			},
			{Name: "west", Cluster: dr.Cluster{Kubeconfig: "/home/ann/.kube/west"}},
		},
		Vaults: []dr.Vault{{
			Name: "main", Location: "file:///srv/lifeboat%20vault", EncryptionKey: dr.KeySource{File: "/fleet/key"},
			Replicas: []dr.Replica{
				{
					Name: "far", Location: "s3://bucket/shop?endpoint=https://s3.example:9000&region=eu",
					Credentials: dr.KeySource{File: "/fleet/s3"}, CAFile: "/fleet/ca.pem",
				},
				{Name: "azure", Location: "azblob://account/container"},
			},
		}},
		Zones: []dr.Zone{{Name: "example.com", RFC2136: &dr.RFC2136{Server: "10.0.0.53:53", Key: dr.KeySource{File: "/etc/tsig"}}}},
		Tiers: []dr.Tier{{Name: "gold", Objectives: dr.Objectives{RTO: 5 * time.Minute, RPO: 30 * time.Second}}},
		Applications: []dr.Application{{
			Name: "shop", Namespaces: []string{"shop"}, Tier: "gold",
			Objectives: dr.Objectives{RTO: 5 * time.Minute, RPO: 30 * time.Second},
			Strategy:   dr.BackupRestore, Vault: "main",
			Sites:   dr.Placement{Preferred: "east", Recovery: []string{"west"}},
			Data:    []dr.Datastore{{Name: "orders", Volume: &dr.VolumeRef{Namespace: "shop", Claim: "orders"}}},
			Traffic: []dr.TrafficRef{{Host: "shop.example.com", DNS: &dr.DNSRef{Zone: "example.com", TTL: time.Minute}}},
			Probes: []dr.Probe{{Name: "front", HTTP: &dr.HTTPProbe{
				URL: "https://shop.example.com/healthz", Resolver: "10.0.0.54:53", CAFile: "/fleet/ca.pem",
				Timeout: 2 * time.Second, SiteHeader: "X-Site",
			}}},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

const vaultIs = "kind: Vault\nmetadata: {name: v}\nspec: {encryptionKey: {file: k}, "

// app is a fleet whose application is to be filled in; its spec begins at line 20.
const app = `apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: east}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: west}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Vault
metadata: {name: main}
spec: {location: /v, encryptionKey: {file: /key}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: shop}
spec:
`

func TestProblemsNameLineAndRemedy(t *testing.T) {
	t.Parallel()
	const (
		head  = "  namespaces: [shop]\n  objectives: {rto: 5m, rpo: 30s}\n"
		sites = "  sites: {preferred: east, recovery: [west]}\n"
		doc   = "apiVersion: lifeboat.dev/v1alpha1\n"
	)
	for _, c := range []struct{ name, file, want string }{
		{"unknown field", app + head + sites + "  probez: []\n", `23:3: Application shop: unknown field probez; did you mean probes?`},
		{"unknown field far from all", app + head + sites + "  colour: red\n", `23:3: Application shop: unknown field colour; remove it; the fields here are namespaces, tier`},
		{"unknown nested field", app + head + "  sites: {prefered: east, recovery: [west]}\n", `22:11: Application shop: unknown field sites.prefered; did you mean preferred?`},
		{"missing nested field", app + head + "  sites: {recovery: [west]}\n", `22:10: Application shop: field sites.preferred is missing; add it`},
		{"wrong type", app + "  namespaces: shop\n", `20:15: Application shop: namespaces is the text "shop" where a list is expected`},
		{"number for text", app + "  namespaces: [7]\n", `20:16: Application shop: namespaces[0] is the number 7 where text is expected; put it in quotes: "7"`},
		{"bad duration", app + "  objectives: {rto: 5 minutes, rpo: 30s}\n", `20:21: Application shop: objectives.rto: "5 minutes" is not a duration; write a duration such as 30s`},
		{"duration without a unit", app + "  objectives: {rto: 5m, rpo: 30}\n", `20:30: Application shop: objectives.rpo: "30" is not a duration; add the unit: 30s or 30m`},
		{"negative duration", app + "  objectives: {rto: -5m, rpo: 30s}\n", `20:21: Application shop: objectives.rto must be longer than nothing`},
		{"missing site", app + head + "  sites: {preferred: eest, recovery: [west]}\n", `22:22: Application shop: sites.preferred: there is no site "eest"; declared: east, west (did you mean east?)`},
		{"preferred in recovery", app + head + "  sites: {preferred: east, recovery: [west, east]}\n", `22:45: Application shop: site east is both preferred and a recovery site`},
		{"no recovery site", app + head + "  sites: {preferred: east, recovery: []}\n", `22:38: Application shop: sites.recovery is empty; add at least one`},
		{"missing tier", app + "  namespaces: [shop]\n  tier: gold\n" + sites, `21:9: Application shop: there is no tier "gold"; no Tier is declared in this file`},
		{"tier and objectives", app + head + "  tier: gold\n" + sites, `22:9: Application shop: both tier and objectives are given; keep one of the two`},
		{"no objectives", app + "  namespaces: [shop]\n" + sites, `20:3: Application shop: neither objectives nor a tier is given`},
		{"missing vault", app + head + sites + "  vault: mian\n", `23:10: Application shop: there is no vault "mian"; declared: main (did you mean main?)`},
		{"missing zone", app + head + sites + "  traffic:\n  - {host: a.b.com, dns: {zone: b.com}}\n", `24:33: Application shop: there is no zone "b.com"; no Zone is declared`},
		{"host outside its zone", app + head + sites + "  traffic:\n  - {host: shopb.com, dns: {zone: b.com}}\n", `24:12: Application shop: host shopb.com is not in zone b.com`},
		{"host twice", app + head + sites + "  traffic:\n  - {host: a.b.com, dns: {zone: b.com}}\n  - {host: A.b.com, dns: {zone: b.com}}\n", `25:12: Application shop: host a.b.com is declared twice, first at line 24`},
		{"a part of a second", app + head + sites + "  traffic:\n  - {host: a.b.com, dns: {zone: b.com, ttl: 500ms}}\n", `24:45: Application shop: dns.ttl 500ms is not a whole number of seconds`},
		{"no dns", app + head + sites + "  traffic:\n  - {host: a.b.com}\n", `24:5: Application shop: field traffic[0].dns is missing`},
		{"ambiguous namespace", app + "  namespaces: [a, b]\n  objectives: {rto: 5m, rpo: 30s}\n" + sites + "  data:\n  - {name: d, volume: {claim: c}}\n", `24:23: Application shop: which namespace it is in is not said, and there are several; add namespace: with one of a, b`},
		{"foreign namespace", app + head + sites + "  data:\n  - {name: d, volume: {claim: c, namespace: shap}}\n", `24:45: Application shop: namespace "shap" is not one of the application's; declared: shop (did you mean shop?)`},
		{"datastore twice", app + head + sites + "  data:\n  - {name: d, volume: {claim: c}}\n  - {name: d, volume: {claim: e}}\n", `25:12: Application shop: datastore d is declared twice, first at line 24`},
		{"datastore without a kind", app + head + sites + "  data:\n  - {name: d}\n", `24:5: Application shop: field data[0].volume is missing`},
		{"postgres without a secret", app + head + sites + "  data:\n  - {name: d, postgres: {service: x}}\n", `24:25: Application shop: field data[0].postgres.secret is missing`},
		{"postgres with a bad name", app + head + sites + "  data:\n  - {name: d, postgres: {service: X, secret: s}}\n", `24:35: Application shop: service "X" is not a valid name; write the name of a Service`},
		{"postgres in a foreign namespace", app + head + sites + "  data:\n  - {name: d, postgres: {service: x, secret: s, namespace: shap}}\n", `24:60: Application shop: namespace "shap" is not one of the application's; declared: shop (did you mean shop?)`},
		{"postgres outside of its claim", app + head + sites + "  data:\n  - {name: d, postgres: {service: x, secret: s, claim: c, directory: ../x}}\n", `24:70: Application shop: directory "../x" leads out of the claim; write a path below the claim's root, such as pgdata`},
		{"postgres without its claim", app + head + sites + "  data:\n  - {name: d, postgres: {service: x, secret: s, directory: x}}\n", `24:60: Application shop: directory is given without the claim that it is in; name the claim too`},
		{"two kinds", app + head + sites + "  data:\n  - {name: d, postgres: {service: x, secret: s}, volume: {claim: c}}\n", `24:25: Application shop: datastore d is of two kinds; make two datastores of them`},
		{"redis", app + head + sites + "  data:\n  - {name: d, redis: {service: x}}\n", `24:15: Application shop: data[0].redis is not in this version`},
		{"warm standby", app + head + sites + "  strategy: warm-standby\n", `23:13: Application shop: strategy warm-standby is not in this version; use backup-restore`},
		{"active active", app + head + sites + "  strategy: active-active\n", `23:13: Application shop: strategy active-active is not in this version; use backup-restore`},
		{"unknown strategy", app + head + sites + "  strategy: backup-resore\n", `23:13: Application shop: unknown strategy "backup-resore"; did you mean backup-restore?`},
		{"dependsOn", app + head + sites + "  dependsOn: [x]\n", `23:3: Application shop: dependsOn is not in this version`},
		{"bad name", strings.Replace(app, "{name: shop}", "{name: Shop}", 1) + head + sites, `18:18: Application Shop: name "Shop" is not a valid name`},
		{"no name", doc + "kind: Tier\nmetadata: {}\nspec: {objectives: {rto: 1m, rpo: 1m}}\n", `3:11: Tier: field metadata.name is missing`},
		{"duplicate name", app + head + sites + "---\n" + doc + "kind: Site\nmetadata:\n  name: west\nspec: {cluster: {kubeconfig: /k}}\n", `27:9: Site west is declared twice, first at line 8; give one of them another name`},
		{"no vault", doc + "kind: Application\nmetadata: {name: a}\nspec: {}\n", `4:7: Application a: there is no vault to protect it in; declare a Vault`},
		{"two vaults", app + head + sites + "---\n" + doc + "kind: Vault\nmetadata: {name: second}\nspec: {location: /w, encryptionKey: {file: /key}}\n", `20:3: Application shop: which vault is not said, and there are several; add vault: with one of main, second`},
		{"unknown kind", doc + "kind: Aplication\n", `2:7: unknown kind "Aplication"; did you mean Application?`},
		{"unknown kind far from all", doc + "kind: Deployment\n", `2:7: unknown kind "Deployment"; the kinds are Site, Vault, Zone, Tier, Application`},
		{"no kind", doc, `1:1: document: field kind is missing`},
		{"unknown version", "apiVersion: v1\nkind: Tier\n", `1:13: unknown apiVersion "v1"; write lifeboat.dev/v1alpha1`},
		{"field twice", doc + "kind: Tier\nkind: Tier\n", `3:1: document: field kind is given twice, first at line 2`},
		{"unknown storage", doc + vaultIs + "location: \"gs://a/b\"}\n", `4:44: Vault v: location: storage of kind "gs" is not in this version; use file:///some/directory, s3://bucket/prefix or azblob://account/container/prefix`},
		{"no container", doc + vaultIs + "location: \"azblob://a\"}\n", `4:44: Vault v: location does not name a bucket or container; write it like azblob://account/container/prefix`},
		{"secret in location", doc + vaultIs + "location: \"s3://me:secret@b/p\"}\n", `4:44: Vault v: location holds credentials; write them to a file, and name that with credentials: {file: …}`},
		{"parameter", doc + vaultIs + "location: \"s3://b/p?zone=x\"}\n", `4:44: Vault v: location: unknown parameter "zone"; the parameters are endpoint, region`},
		{"endpoint", doc + vaultIs + "location: \"s3://b/p?endpoint=host:9000\"}\n", `4:44: Vault v: location: endpoint "host:9000" is not a URL; write it like endpoint=https://host:9000`},
		{"credentials of a directory", doc + vaultIs + "location: /v, caFile: ca}\n", `4:48: Vault v: caFile means nothing for a directory; remove it`},
		{"replica twice", doc + vaultIs + "location: /v, replicas: [{name: r, location: /w}, {name: r, location: \"s3://b\"}]}\n", `4:91: Vault v: replica r is declared twice, first at line 4; give one of them another name`},
		{"replica in place", doc + vaultIs + "location: /v, replicas: [{name: r, location: /v}]}\n", `4:79: Vault v: replicas[0].location is named already; a copy at the same place protects against nothing: name another`},
		{"replica without", doc + vaultIs + "location: /v, replicas: [{name: r}]}\n", `4:59: Vault v: field replicas[0].location is missing; add it`},
		{"not YAML", doc + "kind: [Site\n", `not valid YAML: `},
		{"a list", "- a\n- b\n", `1:1: document is a list where fields are expected`},
		{"empty", "# nothing\n", `1:1: the file declares nothing`},
		{"probe without scheme", app + head + sites + "  probes:\n  - {name: p, http: {url: shop.example.com}}\n", `24:27: Application shop: http.url "shop.example.com" is not an http or https address`},
		{"secret in a probe", app + head + sites + "  probes:\n  - {name: p, http: {url: \"http://u:p@h/\"}}\n", `24:27: Application shop: http.url has credentials in it`},
		{"address", doc + "kind: Site\nmetadata: {name: s}\nspec: {cluster: {kubeconfig: k}, ingress: {address: router}}\n", `4:53: Site s: ingress.address "router" is not an IP address`},
		{"server", doc + "kind: Zone\nmetadata: {name: b.com}\nspec: {rfc2136: {server: \"a:b:c\", keyFile: k}}\n", `4:26: Zone b.com: rfc2136.server: "a:b:c" is not a host and port`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f.yaml", []byte(c.file))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v\nwant one with %s", err, c.want)
			}
			if err != nil && dr.ClassOf(err) != dr.ClassUsage {
				t.Errorf("class %s, want usage", dr.ClassOf(err))
			}
		})
	}
}

func TestAllProblemsAreReportedInOrder(t *testing.T) {
	t.Parallel()
	_, err := Parse("f.yaml", []byte(app+"  namespaces: []\n  colour: red\n  sites: {preferred: north, recovery: [south]}\n"))
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want *Errors in it", err)
	}
	var got []string
	for _, p := range errs.Problems {
		got = append(got, fmt.Sprint(p.Line, ":", p.Column))
		if p.Remedy == "" {
			t.Errorf("no remedy: %s", p)
		}
	}
	if want := "20:3 20:15 21:3 22:22 22:40"; strings.Join(got, " ") != want {
		t.Errorf("problems at %v, want %s\n%v", got, want, err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yaml")); dr.ClassOf(err) != dr.ClassUsage || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	path := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(path, []byte(valid), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "kube/east"); f.Sites[0].Cluster.Kubeconfig != want {
		t.Errorf("kubeconfig %s, want %s", f.Sites[0].Cluster.Kubeconfig, want)
	}
	if err := os.Truncate(path, maxFileBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("huge file: got %v", err)
	}
}

func TestEncodeParseRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := fleets().Draw(t, "fleet")
		data, err := Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("/elsewhere/fleet.yaml", data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v\n%s", got, want, data)
		}
	})
}

func fleets() *rapid.Generator[*dr.Fleet] {
	return rapid.Custom(func(t *rapid.T) *dr.Fleet {
		// Names that YAML would take for a number, a truth value or nothing are among them.
		name := rapid.OneOf(rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?`), rapid.SampledFrom([]string{"null", "true", "no", "1e3", "0x10", "12"}))
		words := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[ -~é]{1,12}`), rapid.SampledFrom([]string{"~", "null", "a: b", "#x", "- y", "2026-01-02"}))
		path := rapid.Map(rapid.StringMatching(`/[a-z ~#:]{1,10}`), filepath.Clean)
		span := rapid.Map(rapid.Int64Range(1, 1e6), func(s int64) time.Duration { return time.Duration(s) * time.Second })
		names := rapid.SliceOfNDistinct(name, 2, 4, rapid.ID[string]).Draw(t, "sites")
		f := &dr.Fleet{}
		for _, n := range names {
			f.Sites = append(f.Sites, dr.Site{
				Name: n, Region: words.Draw(t, "region"), Cluster: dr.Cluster{Kubeconfig: path.Draw(t, "kubeconfig"), Context: words.Draw(t, "context")},
				Finalizers:     rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,5}\.example\.com`), 1, 2).Draw(t, "finalizers"),
				StorageClasses: rapid.Map(rapid.MapOfN(name, name, 1, 3), func(m map[string]string) map[string]string { return m }).Draw(t, "classes"),
			})
		}
		key := dr.KeySource{File: path.Draw(t, "key")}
		f.Vaults = []dr.Vault{{Name: "v", Location: "file:///srv/v%20%25", EncryptionKey: key, Replicas: []dr.Replica{
			{Name: "r", Location: "azblob://a/c/p?endpoint=http://h:1", Credentials: key, CAFile: "/ca"}, {Name: "q", Location: "s3://b"}}}}
		f.Zones = []dr.Zone{{Name: "example.com", RFC2136: &dr.RFC2136{Server: "[::1]:5353", Key: key}}}
		f.Tiers = []dr.Tier{{Name: "gold", Objectives: dr.Objectives{RTO: span.Draw(t, "rto"), RPO: span.Draw(t, "rpo")}}}
		a := dr.Application{
			Name: name.Draw(t, "app"), Namespaces: rapid.SliceOfNDistinct(name, 1, 3, rapid.ID[string]).Draw(t, "namespaces"),
			Objectives: dr.Objectives{RTO: span.Draw(t, "rto"), RPO: span.Draw(t, "rpo")}, Strategy: dr.BackupRestore, Vault: "v",
			Sites: dr.Placement{Preferred: names[0], Recovery: names[1:]},
		}
		if rapid.Bool().Draw(t, "tier") {
			a.Tier, a.Objectives = "gold", f.Tiers[0].Objectives
		}
		for _, n := range rapid.SliceOfNDistinct(name, 0, 3, rapid.ID[string]).Draw(t, "names") {
			ds := dr.Datastore{Name: n, Volume: &dr.VolumeRef{Namespace: a.Namespaces[0], Claim: n}}
			if rapid.Bool().Draw(t, "postgres") {
				ds = dr.Datastore{Name: n, Postgres: &dr.PostgresRef{Namespace: a.Namespaces[0], Service: n, Secret: "s"}}
				if rapid.Bool().Draw(t, "placed") {
					ds.Postgres.Claim, ds.Postgres.Directory = n, "data/pg 15"
				}
			}
			a.Data = append(a.Data, ds)
			host := dr.TrafficRef{Host: n + ".example.com", DNS: &dr.DNSRef{Zone: "example.com", TTL: span.Draw(t, "ttl")}}
			if rapid.Bool().Draw(t, "balanced") {
				host.Service = &dr.ServiceRef{Namespace: a.Namespaces[0], Name: n}
			}
			a.Traffic = append(a.Traffic, host)
			a.Probes = append(a.Probes, dr.Probe{Name: n, HTTP: &dr.HTTPProbe{URL: "http://" + n + ".example.com/", Timeout: span.Draw(t, "timeout"), SiteHeader: words.Draw(t, "header")}})
		}
		f.Applications = []dr.Application{a}
		return f
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{valid, app, withRetention, "", "a: &a [*a]", "---\n...\n---", "{<<: *x}", "? [a]: b\n: c", "apiVersion: !!binary x\nkind: 3"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fleet, err := Parse("/fuzz/fleet.yaml", data)
		if (fleet == nil) == (err == nil) {
			t.Fatalf("got fleet %v and error %v, want one of them", fleet, err)
		}
		if err != nil {
			if dr.ClassOf(err) != dr.ClassUsage {
				t.Fatalf("class %s, want usage: %v", dr.ClassOf(err), err)
			}
			return
		}
		if _, err := Encode(fleet); err != nil {
			t.Fatal(err)
		}
	})
}
