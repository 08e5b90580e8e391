package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// TestLeastPrivilege backs up and fails over with accounts that have what deploy/rbac grants and no more.
func TestLeastPrivilege(t *testing.T) {
	needE2E(t)
	s := raise(t, "processes")
	from, to := s.lab.Sites[0], s.lab.Sites[1]
	backup, recover := filepath.Join("..", "..", "deploy", "rbac", "backup.yaml"), filepath.Join("..", "..", "deploy", "rbac", "recover.yaml")
	kubectl(t, from.Kubeconfig, "apply", "-f", backup)
	// The namespace shop is not at the second site yet: its RoleBinding cannot be, and is not needed there.
	kubectl(t, to.Kubeconfig, "create", "namespace", "lifeboat")
	kubectl(t, to.Kubeconfig, "apply", "-f", recover)

	fleet := read(t, s.fleet)
	fleet = strings.Replace(fleet, from.Kubeconfig, accountKubeconfig(t, s.dir, from.Kubeconfig, "lifeboat-backup"), 1)
	fleet = strings.Replace(fleet, to.Kubeconfig, accountKubeconfig(t, s.dir, to.Kubeconfig, "lifeboat-recover"), 1)
	s.fleet = write(t, s.dir, "least.yaml", fleet)

	log := filepath.Join(s.dir, "orders.jsonl")
	s.orders(t, log, 2*time.Second)
	// Exit code 6 would say that something could not be read.
	ok(t, time.Minute, s.lifeboat("backup", "shop"))
	ok(t, 30*time.Second, command{name: "lifeboat-lab", args: []string{"kill", from.Name, "--dir", s.labDir}})
	ok(t, 3*time.Minute, s.lifeboat("failover", "shop", "--to", to.Name, "--yes", "--break-glass", "test: the site was killed"))
	if f := s.verify(t, log); f.Acknowledged == 0 || f.Lost != 0 {
		t.Errorf("%d orders acknowledged before the recovery point, %d lost", f.Acknowledged, f.Lost)
	}
}

func kubectl(t *testing.T, kubeconfig string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), bin(t, "lab-kube"), append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// accountKubeconfig is a kubeconfig with a token of an account in the namespace lifeboat.
func accountKubeconfig(t *testing.T, dir, admin, account string) string {
	t.Helper()
	token := strings.TrimSpace(kubectl(t, admin, "-n", "lifeboat", "create", "token", account))
	cfg, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientcmd.ResolveLocalPaths(cfg); err != nil {
		t.Fatal(err)
	}
	for _, user := range cfg.AuthInfos {
		user.ClientCertificate, user.ClientKey, user.ClientCertificateData, user.ClientKeyData, user.TokenFile = "", "", nil, nil, ""
		user.Token = token
	}
	p := filepath.Join(dir, account+".kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, p); err != nil {
		t.Fatal(err)
	}
	return p
}
