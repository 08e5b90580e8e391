// Package registry is a site's image registry: plain HTTP, on disk, so that images survive a restart.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"lifeboat.dev/lifeboat/lab/internal/ports"
)

// Options say where images are kept and served.
type Options struct {
	Dir     string
	Address string
	Port    int // 5000 if zero
	Log     *slog.Logger
	Ready   func(hostPort string) // called once
}

// Run serves until ctx is done.
func Run(ctx context.Context, o Options) error {
	if o.Port == 0 {
		o.Port = 5000
	}
	blobs := filepath.Join(o.Dir, "blobs")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return fmt.Errorf("making the registry's directory: %w", err)
	}
	handler, err := newKeeper(ctx, filepath.Join(o.Dir, "manifests"), registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
		registry.WithReferrersSupport(true), registry.Logger(slog.NewLogLogger(quiet(o.Log), slog.LevelDebug))), slog.New(quiet(o.Log)))
	if err != nil {
		return err
	}
	l, port, err := ports.Listen(ctx, o.Address, o.Port)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // what Serve returns tells all
	defer stop()
	if o.Ready != nil {
		o.Ready(net.JoinHostPort(o.Address, strconv.Itoa(port)))
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) || ctx.Err() == nil {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

func quiet(l *slog.Logger) slog.Handler {
	if l == nil {
		return slog.DiscardHandler
	}
	return l.Handler()
}
