package e2e

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// figures is what `lifeboat demo -o json` ends with.
type figures struct {
	Nodes              string   `json:"nodes"`
	ObjectiveRTO       float64  `json:"objectiveRTOSeconds"`
	ObjectiveRPO       float64  `json:"objectiveRPOSeconds"`
	AchievedRTO        float64  `json:"achievedRTOSeconds"`
	AchievedRPO        float64  `json:"achievedRPOSeconds"`
	OrdersAcknowledged int      `json:"ordersAcknowledged"`
	OrdersRecovered    int      `json:"ordersRecovered"`
	OrdersLost         int      `json:"ordersLost"`
	Overhead           float64  `json:"overheadSeconds"`
	Verified           bool     `json:"verified"`
	Problems           []string `json:"problems"`
}

func TestDemoOnProcesses(t *testing.T) {
	needE2E(t)
	dir := t.TempDir()
	demo(t, dir, "processes", nil) // what Lifeboat adds to the RTO is held against its bound by `make bench`
}

// TestDemoWithoutRoot is the newcomer's case: an ordinary account.
func TestDemoWithoutRoot(t *testing.T) {
	needE2E(t)
	if os.Getuid() != 0 {
		t.Skip("already without root: TestDemoOnProcesses is the same")
	}
	dir, err := os.MkdirTemp("/tmp", "lifeboat-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	demo(t, dir, "processes", &syscall.Credential{Uid: nobody, Gid: nobody})
}

func TestDemoOnPods(t *testing.T) {
	needPods(t)
	demo(t, t.TempDir(), "pods", nil)
}

// demo runs the demo in dir and checks what it says of itself, and that it leaves nothing behind.
func demo(t *testing.T, dir, nodes string, cred *syscall.Credential) figures {
	t.Helper()
	c := command{name: "lifeboat", args: []string{"demo", "--nodes", nodes, "-o", "json"}, dir: dir, cred: cred,
		env: []string{"HOME=" + dir, "TMPDIR=" + dir}}
	if cred != nil {
		// The checkout may lie where an ordinary account cannot look: it gets the programs in a place of its own.
		c.bin = copyPrograms(t, dir)
	}
	r := run(t, 6*time.Minute, c)
	t.Log(r.stderr)
	if r.code != 0 {
		t.Fatalf("the demo ended %d: %s", r.code, r.stdout)
	}
	f := unmarshal[figures](t, r.stdout)
	t.Logf("%+v", f)
	if !f.Verified || len(f.Problems) > 0 {
		t.Errorf("not verified: %v", f.Problems)
	}
	if f.Nodes != nodes {
		t.Errorf("ran on nodes of kind %q, want %q", f.Nodes, nodes)
	}
	if f.OrdersAcknowledged < 100 || f.OrdersRecovered+f.OrdersLost != f.OrdersAcknowledged {
		t.Errorf("%d orders acknowledged, %d recovered, %d lost", f.OrdersAcknowledged, f.OrdersRecovered, f.OrdersLost)
	}
	if f.OrdersLost == 0 {
		t.Error("no order was lost although orders went on after the last recovery point: what was compared?")
	}
	if f.AchievedRTO <= 0 || f.AchievedRTO > f.ObjectiveRTO {
		t.Errorf("achieved RTO %.1f s, objective %.1f s", f.AchievedRTO, f.ObjectiveRTO)
	}
	if f.AchievedRPO <= 0 || f.AchievedRPO > f.ObjectiveRPO {
		t.Errorf("achieved RPO %.1f s, objective %.1f s", f.AchievedRPO, f.ObjectiveRPO)
	}
	page, err := os.ReadFile(filepath.Join(dir, "lifeboat-demo.html"))
	if err != nil || !strings.Contains(string(page), "<svg") {
		t.Errorf("the report has no drawn timeline (%v)", err)
	}
	leftovers(t, dir)
	return f
}

// copyPrograms makes the built programs available to everybody.
func copyPrograms(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(dir, "bin")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lifeboat", "lifeboat-lab", "lab-kube", "shop", "pause"} {
		from, err := os.Open(bin(t, name))
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(filepath.Join(to, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(file, from)
		if err := errors.Join(err, from.Close(), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// leftovers fails the test when a process, an interface or a network namespace of a lab is still there.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		env, err := os.ReadFile(p)
		if err != nil {
			continue // it ended, or is not ours to read
		}
		for _, v := range strings.Split(string(env), "\x00") {
			if lab, ok := strings.CutPrefix(v, "LIFEBOAT_LAB="); ok && strings.HasPrefix(lab, dir) {
				cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
				t.Errorf("process %s is still there: %s", filepath.Base(filepath.Dir(p)), strings.ReplaceAll(string(cmdline), "\x00", " "))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("something is still mounted below %s:\n%s", dir, mounts)
	}
	for _, d := range []string{"/sys/class/net", "/run/netns"} {
		entries, err := os.ReadDir(d)
		if err != nil {
			continue // no such kind of thing on this machine
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "lifeboat") {
				t.Errorf("%s/%s is still there", d, e.Name())
			}
		}
	}
}
