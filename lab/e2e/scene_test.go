package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// labState is the part of what `lifeboat-lab up -o json` prints that the tests use.
type labState struct {
	Sites []struct {
		Name           string `json:"name"`
		Kubeconfig     string `json:"kubeconfig"`
		IngressAddress string `json:"ingressAddress"`
		HTTPSPort      int    `json:"httpsPort"`
		Registry       string `json:"registry"`
		StorageClass   string `json:"storageClass"`
	} `json:"sites"`
	DNS struct {
		Zone    string `json:"zone"`
		Server  string `json:"server"`
		KeyFile string `json:"keyFile"`
	} `json:"dns"`
	Resolver string `json:"resolver"`
	CAFile   string `json:"caFile"`
}

// scene is a lab with the shop at its first site, and a fleet file that describes it.
type scene struct {
	dir, labDir, fleet, url string
	lab                     labState
}

const shopHost = "shop.lab.test"

// raise starts a lab, installs the shop, and writes the fleet file.
func raise(t *testing.T, nodes string) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{dir: dir, labDir: filepath.Join(dir, "lab"), fleet: filepath.Join(dir, "fleet.yaml")}
	t.Cleanup(func() { down(t, s.labDir) })
	up := ok(t, 2*time.Minute, command{name: "lifeboat-lab", args: []string{"up", "--dir", s.labDir, "--nodes", nodes, "-o", "json"}})
	s.lab = unmarshal[labState](t, up.stdout)
	from := s.lab.Sites[0]
	s.url = fmt.Sprintf("https://%s:%d", shopHost, from.HTTPSPort)
	ok(t, time.Minute, command{name: "lifeboat-lab", args: []string{"sample", from.Name, "--dir", s.labDir, "--host", shopHost, "--ttl", "2s"}})
	args := []string{"init", "--namespace", "shop", "--preferred", from.Name, "--vault", filepath.Join(dir, "vault"),
		"--vault-key", filepath.Join(dir, "vault.key"), "--zone", s.lab.DNS.Zone, "--dns-server", s.lab.DNS.Server, "--dns-key", s.lab.DNS.KeyFile,
		"--ttl", "2s", "--rto", "2m", "--rpo", "1m", "--probe", s.url + "/healthz", "--probe-resolver", s.lab.Resolver, "--probe-ca", s.lab.CAFile,
		"--probe-site-header", "X-Shop-Site", "--out", s.fleet}
	for _, x := range s.lab.Sites {
		args = append(args, "--site", x.Name+"="+x.Kubeconfig, "--ingress", x.Name+"="+x.IngressAddress, "--registry", x.Name+"="+x.Registry)
	}
	ok(t, time.Minute, command{name: "lifeboat", args: args})
	return s
}

// down takes a lab down and checks that nothing of it is left. It runs after the test's context has ended.
func down(t *testing.T, labDir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // clean-up, bounded
	defer cancel()
	out, err := exec.CommandContext(ctx, bin(t, "lifeboat-lab"), "down", "--dir", labDir).CombinedOutput()
	if err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
	leftovers(t, labDir)
	if _, err := os.Stat(labDir); !os.IsNotExist(err) {
		t.Errorf("down left %s (%v)", labDir, err)
	}
}

// lifeboat is a command on the scene's fleet.
func (s *scene) lifeboat(args ...string) command {
	return command{name: "lifeboat", args: append([]string{"--fleet", s.fleet}, args...)}
}

// orders keeps ordering for a while; log records what was acknowledged.
func (s *scene) orders(t *testing.T, log string, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within+20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin(t, "shop"), "load", "--url", s.url, "--resolver", s.lab.Resolver, "--ca", s.lab.CAFile, "--rate", "50", "--log", log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(within)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("shop load: %v", err)
	}
}

// found is what `shop verify -o json` prints.
type found struct {
	Acknowledged int `json:"acknowledged"`
	Recovered    int `json:"recovered"`
	Lost         int `json:"lost"`
}

func (s *scene) verify(t *testing.T, log string) found {
	t.Helper()
	r := ok(t, time.Minute, command{name: "shop", args: []string{"verify", "--url", s.url, "--resolver", s.lab.Resolver, "--ca", s.lab.CAFile, "--log", log, "-o", "json"}})
	return unmarshal[found](t, r.stdout)
}
