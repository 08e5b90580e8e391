package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionInfo struct {
	Version    string `json:"version"` // a tag, or a commit, or "unknown"
	Kubernetes string `json:"kubernetes"`
	Go         string `json:"go"`
}

func newVersion(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print what this program was built from",
		Example: "  lifeboat-lab version -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := builtFrom()
			return g.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "lifeboat-lab %s (Kubernetes libraries %s, %s)\n", v.Version, v.Kubernetes, v.Go)
				return err
			})
		},
	}
}

func builtFrom() versionInfo {
	v := versionInfo{Version: "unknown", Kubernetes: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v.Version == "unknown" {
			v.Version = s.Value
		}
	}
	for _, d := range info.Deps {
		if d.Path == "k8s.io/client-go" {
			v.Kubernetes = d.Version
			if d.Replace != nil {
				v.Kubernetes = d.Replace.Version
			}
		}
	}
	return v
}
