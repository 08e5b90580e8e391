package shop

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"text/template"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// Params fill in the sample application's manifests.
type Params struct {
	Registry     string // host:port of the site's registry: the image is Registry/shop:1
	StorageClass string
	Host         string // "shop.lab.test"
	Site         string // where it is installed at first; an annotation, the program asks its node
}

// Manifests returns the sample application's manifests as one YAML stream, in the order to apply them.
// The Discount at the end carries a status, which is to be written through its subresource.
func Manifests(p Params) ([]byte, error) {
	if p.Registry == "" || p.StorageClass == "" || p.Host == "" || p.Site == "" {
		return nil, errors.New("registry, storage class, host and site are all needed for the sample's manifests")
	}
	names, err := fs.Glob(manifests, "manifests/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing the sample's manifests: %w", err)
	}
	var out bytes.Buffer
	for _, name := range names {
		text, err := manifests.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("sample's manifest: %w", err)
		}
		out.WriteString("---\n")
		if err := t.Execute(&out, p); err != nil {
			return nil, fmt.Errorf("sample's manifest: %w", err)
		}
	}
	return out.Bytes(), nil
}
