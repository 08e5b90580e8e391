package config

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// The shapes that are written. They are apart from the decoder, which reads nodes for the sake of their
// lines.
type (
	outDocument struct {
		APIVersion string            `yaml:"apiVersion"`
		Kind       string            `yaml:"kind"`
		Metadata   map[string]string `yaml:"metadata,flow"`
		Spec       any               `yaml:"spec"`
	}
	outSite struct {
		Region         string            `yaml:"region,omitempty"`
		Cluster        outCluster        `yaml:"cluster"`
		Ingress        outIngress        `yaml:"ingress,omitempty"`
		Registry       string            `yaml:"registry,omitempty"`
		StorageClasses map[string]string `yaml:"storageClasses,omitempty"`
		IngressClasses map[string]string `yaml:"ingressClasses,omitempty"`
		Zones          map[string]string `yaml:"zones,omitempty"`
		NodeLabels     map[string]string `yaml:"nodeLabels,omitempty"`
		Finalizers     []string          `yaml:"finalizers,flow,omitempty"`
		MoverImage     string            `yaml:"moverImage,omitempty"`
	}
	outCluster struct {
		Kubeconfig string `yaml:"kubeconfig"`
		Context    string `yaml:"context,omitempty"`
	}
	outIngress struct {
		Domain  string `yaml:"domain,omitempty"`
		Address string `yaml:"address,omitempty"`
	}
	outVault struct {
		Location      string        `yaml:"location"`
		Credentials   *outKey       `yaml:"credentials,omitempty"`
		CAFile        string        `yaml:"caFile,omitempty"`
		EncryptionKey outKey        `yaml:"encryptionKey"`
		Retention     *outRetention `yaml:"retention,omitempty"`
		Replicas      []outReplica  `yaml:"replicas,omitempty"`
	}
	outReplica struct {
		Name        string  `yaml:"name"`
		Location    string  `yaml:"location"`
		Credentials *outKey `yaml:"credentials,omitempty"`
		CAFile      string  `yaml:"caFile,omitempty"`
	}
	outKey struct {
		File string `yaml:"file"`
	}
	outZone struct {
		RFC2136 *outRFC2136 `yaml:"rfc2136,omitempty"`
	}
	outRFC2136 struct {
		Server  string `yaml:"server"`
		KeyFile string `yaml:"keyFile"`
	}
	outTier struct {
		Objectives outObjectives `yaml:"objectives"`
		Backup     *outSchedule  `yaml:"backup,omitempty"`
	}
	outSchedule struct {
		Every string `yaml:"every,omitempty"`
		Cron  string `yaml:"cron,omitempty"`
	}
	outObjectives struct {
		RTO string `yaml:"rto"`
		RPO string `yaml:"rpo"`
	}
	outApplication struct {
		Namespaces []string       `yaml:"namespaces,flow"`
		Tier       string         `yaml:"tier,omitempty"`
		Objectives *outObjectives `yaml:"objectives,omitempty"`
		Strategy   string         `yaml:"strategy,omitempty"`
		Vault      string         `yaml:"vault,omitempty"`
		Retention  *outRetention  `yaml:"retention,omitempty"`
		Sites      outPlacement   `yaml:"sites"`
		Data       []outData      `yaml:"data,omitempty"`
		Backup     *outSchedule   `yaml:"backup,omitempty"`
		Traffic    []outTraffic   `yaml:"traffic,omitempty"`
		Probes     []outProbe     `yaml:"probes,omitempty"`
		Restore    outRestore     `yaml:"restore,omitempty"`
	}
	outPlacement struct {
		Preferred string   `yaml:"preferred"`
		Recovery  []string `yaml:"recovery,flow"`
	}
	outData struct {
		Name     string       `yaml:"name"`
		Volume   *outVolume   `yaml:"volume,omitempty"`
		Postgres *outPostgres `yaml:"postgres,omitempty"`
	}
	outPostgres struct {
		Namespace string `yaml:"namespace,omitempty"`
		Service   string `yaml:"service"`
		Secret    string `yaml:"secret"`
		Claim     string `yaml:"claim,omitempty"`
		Directory string `yaml:"directory,omitempty"`
	}
	outVolume struct {
		Claim     string `yaml:"claim"`
		Namespace string `yaml:"namespace,omitempty"`
	}
	outTraffic struct {
		Host    string      `yaml:"host"`
		DNS     *outDNS     `yaml:"dns,omitempty"`
		Service *outService `yaml:"service,omitempty"`
	}
	outService struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace,omitempty"`
	}
	outDNS struct {
		Zone string `yaml:"zone"`
		TTL  string `yaml:"ttl"`
	}
	outProbe struct {
		Name string   `yaml:"name"`
		HTTP *outHTTP `yaml:"http,omitempty"`
	}
	outHTTP struct {
		URL        string `yaml:"url"`
		Resolver   string `yaml:"resolver,omitempty"`
		CAFile     string `yaml:"caFile,omitempty"`
		Timeout    string `yaml:"timeout,omitempty"`
		SiteHeader string `yaml:"siteHeader,omitempty"`
	}
)

// Encode writes a fleet as a fleet file of several documents. What Parse accepted comes back the same
// from Encode and Parse.
func Encode(f *dr.Fleet) ([]byte, error) {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	for _, doc := range documentsOf(f) {
		if err := enc.Encode(doc); err != nil {
			return nil, fmt.Errorf("write %s %s: %w", doc.Kind, doc.Metadata["name"], err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write fleet: %w", err)
	}
	return buf.Bytes(), nil
}

func documentsOf(f *dr.Fleet) []outDocument {
	var docs []outDocument
	add := func(kind, name string, spec any) {
		docs = append(docs, outDocument{APIVersion, kind, map[string]string{"name": name}, spec})
	}
	for _, s := range f.Sites {
		add("Site", s.Name, outSite{s.Region, outCluster(s.Cluster), outIngress(s.Ingress), s.Registry, s.StorageClasses, s.IngressClasses, s.Zones, s.NodeLabels, s.Finalizers, s.MoverImage})
	}
	for _, v := range f.Vaults {
		add("Vault", v.Name, vaultOf(v))
	}
	for _, z := range f.Zones {
		spec := outZone{}
		if z.RFC2136 != nil {
			spec.RFC2136 = &outRFC2136{z.RFC2136.Server, z.RFC2136.Key.File}
		}
		add("Zone", z.Name, spec)
	}
	for _, t := range f.Tiers {
		add("Tier", t.Name, outTier{*objectivesOf(t.Objectives), scheduleOf(t.Backup)})
	}
	for _, a := range f.Applications {
		add("Application", a.Name, applicationOf(a))
	}
	return docs
}

func vaultOf(v dr.Vault) outVault {
	out := outVault{v.Location, keyOf(v.Credentials), v.CAFile, outKey(v.EncryptionKey), retentionOf(v.Retention), nil}
	for _, r := range v.Replicas {
		out.Replicas = append(out.Replicas, outReplica{r.Name, r.Location, keyOf(r.Credentials), r.CAFile})
	}
	return out
}

func keyOf(k dr.KeySource) *outKey {
	if k.File == "" {
		return nil
	}
	return &outKey{k.File}
}

func objectivesOf(o dr.Objectives) *outObjectives {
	return &outObjectives{span(o.RTO), span(o.RPO)}
}

func scheduleOf(s dr.Schedule) *outSchedule {
	if s == (dr.Schedule{}) {
		return nil
	}
	out := &outSchedule{Cron: s.Cron}
	if s.Every > 0 {
		out.Every = span(s.Every)
	}
	return out
}

func applicationOf(a dr.Application) outApplication {
	out := outApplication{
		Namespaces: a.Namespaces, Tier: a.Tier, Strategy: string(a.Strategy), Vault: a.Vault, Retention: retentionOf(a.Retention),
		Sites: outPlacement(a.Sites), Backup: scheduleOf(a.Backup),
	}
	if a.Tier == "" {
		out.Objectives = objectivesOf(a.Objectives)
	}
	for _, ds := range a.Data {
		d := outData{Name: ds.Name}
		if ds.Volume != nil {
			d.Volume = &outVolume{ds.Volume.Claim, ds.Volume.Namespace}
		}
		if ds.Postgres != nil {
			p := outPostgres(*ds.Postgres)
			d.Postgres = &p
		}
		out.Data = append(out.Data, d)
	}
	for _, t := range a.Traffic {
		o := outTraffic{Host: t.Host}
		if t.DNS != nil {
			o.DNS = &outDNS{t.DNS.Zone, span(t.DNS.TTL)}
		}
		if t.Service != nil {
			o.Service = &outService{t.Service.Name, t.Service.Namespace}
		}
		out.Traffic = append(out.Traffic, o)
	}
	for _, p := range a.Probes {
		o := outProbe{Name: p.Name}
		if h := p.HTTP; h != nil {
			o.HTTP = &outHTTP{h.URL, h.Resolver, h.CAFile, "", h.SiteHeader}
			if h.Timeout > 0 {
				o.HTTP.Timeout = span(h.Timeout)
			}
		}
		out.Probes = append(out.Probes, o)
	}
	out.Restore = restoreOf(a.Restore)
	return out
}

// span writes a duration as people do: 5m, not 5m0s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
