package registry

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lifeboat.dev/lifeboat/lab/internal/images"
)

func start(t *testing.T, dir string) (hostPort string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	// Port 0 means 5000, so each test has an address of its own.
	go func() {
		ended <- Run(ctx, Options{Dir: dir, Address: "127.203.99.1", Ready: func(hp string) { ready <- hp }})
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	select {
	case hostPort = <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return hostPort, stop
}

// What was pushed is there after a restart: by tag, by digest after the tag moved on, and as an index.
func TestKeepsImages(t *testing.T) {
	dir, program := t.TempDir(), filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("not really a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	host, stop := start(t, dir)
	first, err := images.Push(t.Context(), host+"/team/shop:1", images.Program("shop", program))
	if err != nil {
		t.Fatal(err)
	}
	again, err := images.Push(t.Context(), host+"/team/shop:1", images.Program("shop", program))
	if err != nil || again != first {
		t.Fatalf("the same image again is %s, %v; was %s", again, err, first)
	}
	moved, err := images.Push(t.Context(), host+"/team/shop:1", images.Image{Files: []images.File{{Path: "/x", Data: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Push(t.Context(), host+"/team:shop", images.Image{}); err != nil {
		t.Fatalf("a repository beside one of which its name is a part: %v", err)
	}
	index := pushIndex(t, host, first)
	stop()

	host, stop = start(t, dir)
	defer stop()
	for ref, want := range map[string]string{"/team/shop:1": moved, "/team/shop@" + first: first, "/team/shop:index": index} {
		r, err := name.ParseReference(host+ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		d, err := remote.Get(r, remote.WithContext(t.Context()))
		if err != nil || d.Digest.String() != want {
			t.Errorf("%s after a restart: %v, %v; want %s", ref, d, err, want)
		}
	}
}

func pushIndex(t *testing.T, host, digest string) string {
	t.Helper()
	ref, err := name.ParseReference(host+"/team/shop@"+digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil || len(cfg.Config.Entrypoint) != 1 || cfg.Config.Entrypoint[0] != "/bin/shop" {
		t.Fatalf("config %+v, %v", cfg, err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	tag, err := name.NewTag(host+"/team/shop:index", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	h, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}
