package depshold

import (
	_ "lifeboat.dev/lifeboat/internal/depshold"
	_ "github.com/google/go-containerregistry/pkg/registry"
	_ "github.com/google/go-containerregistry/pkg/v1/mutate"
	_ "github.com/google/go-containerregistry/pkg/v1/remote"
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/miekg/dns"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "github.com/jackc/pgx/v5"
	_ "k8s.io/api/core/v1"
	_ "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	_ "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	_ "k8s.io/streaming/pkg/httpstream"
	_ "k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/dynamic"
	_ "k8s.io/client-go/tools/cache"
	_ "k8s.io/client-go/tools/remotecommand"
	_ "k8s.io/client-go/tools/clientcmd"
	_ "go.uber.org/goleak"
	_ "sigs.k8s.io/yaml"
)
