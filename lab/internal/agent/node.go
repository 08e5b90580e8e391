package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/lab/internal/cluster"
	"lifeboat.dev/lifeboat/lab/internal/images"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/openshift"
	"lifeboat.dev/lifeboat/lab/internal/procnode"
	"lifeboat.dev/lifeboat/lab/internal/provision"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// Images in each site's registry, in mode pods.
const (
	PauseImage    = "pause:1"
	ShopImage     = "shop:1"
	LifeboatImage = "lifeboat:latest"
)

const nodeWithin = 2 * time.Minute

// node runs the site's node, or watches over the kubelet's, and cluster DNS, whose address pods get.
func (a *siteAgent) node(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	server := make(chan string, 1)
	g.Go(func() error { return wrap(partDNS, a.clusterDNS(ctx, func(s string) { server <- s })) })
	if a.st.Nodes == state.Processes {
		g.Go(func() error {
			select {
			case s := <-server:
				return a.processNode(ctx, s)
			case <-ctx.Done():
				return nil
			}
		})
	}
	g.Go(func() error {
		if err := a.awaitNode(ctx); err != nil {
			return err
		}
		return a.board.done(partNode, nil)
	})
	return g.Wait()
}

func (a *siteAgent) processNode(ctx context.Context, dnsServer string) error {
	base, caFile := cluster.KubeletTLS(a.dir)
	cert, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return fmt.Errorf("load the kubelet API's certificate: %w", err)
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("load the site's CA: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s, _ := a.st.Site(a.name)
	nameserver, port, err := net.SplitHostPort(dnsServer)
	if err != nil {
		return fmt.Errorf("address of cluster DNS: %w", err)
	}
	if port != "53" {
		nameserver = "" // a resolv.conf cannot name a port
	}
	return procnode.Run(ctx, procnode.Options{
		Config:      a.cfg,
		NodeName:    nodeName(a.name),
		NodeIP:      a.net.Node.String(),
		KubeletPort: layout.KubeletPort,
		PodCIDR:     a.net.Pods,
		Dir:         a.dir.Node(),
		Nameserver:  nameserver,
		Programs:    programs(a.st.Binaries),
		ServerTLS:   cert,
		ClientCA:    pool,
		Region:      s.Region,
		Zone:        s.Region + "-1",
		Log:         logged(a.log, "node"),
	})
}

// awaitNode returns when pods can be scheduled: the node is ready and namespaces get their accounts.
func (a *siteAgent) awaitNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeWithin, fmt.Errorf("the node was not ready within %s", nodeWithin))
	defer cancel()
	for {
		err := a.nodeReady(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(2 * pollPause):
		}
	}
}

func (a *siteAgent) nodeReady(ctx context.Context) error {
	n, err := a.kube.CoreV1().Nodes().Get(ctx, nodeName(a.name), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look at the node: %w", err)
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute {
			return fmt.Errorf("the node has the taint %s", t.Key)
		}
	}
	ready := false
	for _, c := range n.Status.Conditions {
		// Of a node that was killed and started again, the API server repeats the word of the one before.
		heard := a.st.Nodes == state.Processes || !c.LastHeartbeatTime.Time.Before(a.began.Truncate(time.Second))
		ready = ready || (c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && heard)
	}
	if !ready {
		return errors.New("the node is not Ready yet")
	}
	_, err = a.kube.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look for the default service account: %w", err)
	}
	return nil
}

// install makes what a site has from the start: its StorageClass and the Route API.
func (a *siteAgent) install(ctx context.Context) error {
	if err := a.storageClass(ctx); err != nil {
		return err
	}
	if err := openshift.Install(ctx, a.cfg); err != nil {
		return err
	}
	return a.board.done(partInstall, nil)
}

func (a *siteAgent) storageClass(ctx context.Context) error {
	s, _ := a.st.Site(a.name)
	reclaim, bind, expand := corev1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingWaitForFirstConsumer, false
	_, err := a.kube.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        s.StorageClass,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner:          provision.Name,
		ReclaimPolicy:        &reclaim,
		VolumeBindingMode:    &bind,
		AllowVolumeExpansion: &expand,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create StorageClass %s: %w", s.StorageClass, err)
	}
	return nil
}

// pushAll fills the site's registry with the lab's own images.
func (a *siteAgent) pushAll(ctx context.Context, registry string) {
	for ref, img := range ownImages(a.st.Binaries) {
		digest, err := images.Push(ctx, registry+"/"+ref, img)
		if err != nil {
			a.log.Error("cannot push an image", "image", ref, "err", err)
			if err := a.board.failed(fmt.Errorf("push image %s: %w", ref, err)); err != nil {
				a.log.Error("cannot write the site's status", "err", err)
			}
			return
		}
		a.log.Info("pushed", "image", ref, "digest", digest)
	}
	a.note(partImages, nil)
}

func ownImages(b state.Binaries) map[string]images.Image {
	all := map[string]images.Image{}
	for ref, p := range map[string]struct{ name, path string }{
		PauseImage: {"pause", b.Pause}, ShopImage: {"shop", b.Shop}, LifeboatImage: {"lifeboat", b.Lifeboat},
	} {
		if p.path != "" {
			all[ref] = images.Program(p.name, p.path)
		}
	}
	return all
}
