package config

import (
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

func (d *decoder) vault(name text, o *object) {
	o.checkLabel(name, "name")
	v := &dr.Vault{Name: name.value}
	v.Location, v.Credentials, v.CAFile = d.storage(o)
	v.Retention = o.retention()
	if key, ok := o.object("encryptionKey", required); ok {
		key.later("secretRef")
		v.EncryptionKey.File = d.resolve(key.text("file", required).value)
		key.end()
	}
	names, locations := map[string]*yaml.Node{}, map[string]bool{v.Location: true}
	o.objects("replicas", optional, func(r *object) {
		rname := r.text("name", required)
		r.checkLabel(rname, r.path+"name")
		replica := dr.Replica{Name: rname.value}
		replica.Location, replica.Credentials, replica.CAFile = d.storage(r)
		if first, taken := names[rname.value]; taken && rname.ok() {
			r.say(rname.node, "give one of them another name", "replica %s is declared twice, first at line %d", rname.value, first.Line)
		}
		names[rname.value] = rname.node
		if replica.Location != "" && locations[replica.Location] {
			r.say(r.value["location"], "a copy at the same place protects against nothing: name another", "%slocation is named already", r.path)
		}
		locations[replica.Location] = true
		v.Replicas = append(v.Replicas, replica)
	})
	declare(d, &d.vaults, "Vault", name, v)
}

// storage reads a location and what is needed to reach it.
func (d *decoder) storage(o *object) (location string, credentials dr.KeySource, caFile string) {
	location = d.location(o)
	if c, ok := o.object("credentials", optional); ok {
		c.later("secretRef")
		credentials.File = d.resolve(c.text("file", required).value)
		c.end()
	}
	caFile = d.resolve(o.text("caFile", optional).value)
	if strings.HasPrefix(location, "file:") {
		for _, field := range []string{"credentials", "caFile"} {
			if o.has(field) {
				o.say(o.keys[field], "remove it", "%s%s means nothing for a directory", o.path, field)
			}
		}
	}
	return location, credentials, caFile
}

// location makes a place absolute: file:///absolute/path; one of an object storage is checked and kept.
func (d *decoder) location(o *object) string {
	t := o.text("location", required)
	if !t.ok() {
		return ""
	}
	scheme, path, isURL := strings.Cut(t.value, "://")
	switch {
	case isURL && (scheme == "s3" || scheme == "azblob"):
		return objectStorage(o, t, scheme)
	case !isURL:
		path = t.value
	case scheme != "file":
		o.say(t.node, "use file:///some/directory, s3://bucket/prefix or azblob://account/container/prefix", "%slocation: storage of kind %q is not in this version", o.path, scheme)
		return ""
	default:
		if p, err := url.PathUnescape(path); err == nil {
			path = p
		}
	}
	if path == "" || strings.ContainsRune(path, 0) {
		o.say(t.node, "write it like file:///srv/lifeboat", "%slocation %q names no directory", o.path, t.value)
		return ""
	}
	return (&url.URL{Scheme: "file", Path: d.resolve(path)}).String()
}

// objectStorage checks the parts of a location that a typing error would make a surprise of later.
func objectStorage(o *object, t text, scheme string) string {
	like, parameters := "s3://bucket/prefix?endpoint=https://host:9000&region=eu-west-1", []string{"endpoint", "region"}
	if scheme == "azblob" {
		like, parameters = "azblob://account/container/prefix", []string{"endpoint"}
	}
	u, err := url.Parse(t.value)
	if err != nil || u.Host == "" || scheme == "azblob" && strings.Trim(u.Path, "/") == "" {
		o.say(t.node, "write it like "+like, "%slocation does not name a bucket or container", o.path)
		return ""
	}
	if u.User != nil {
		o.say(t.node, "write them to a file, and name that with credentials: {file: …}", "%slocation holds credentials", o.path)
		return ""
	}
	for key, values := range u.Query() {
		known := false
		for _, p := range parameters {
			known = known || p == key
		}
		endpoint, err := url.Parse(values[0])
		switch {
		case !known:
			o.say(t.node, "the parameters are "+strings.Join(parameters, ", "), "%slocation: unknown parameter %q", o.path, key)
		case key == "endpoint" && (err != nil || endpoint.Host == "" || endpoint.Scheme != "https" && endpoint.Scheme != "http"):
			o.say(t.node, "write it like endpoint=https://host:9000", "%slocation: endpoint %q is not a URL", o.path, values[0])
		}
	}
	return t.value
}
