package procnode

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	leaseDuration = 40 * time.Second
	leaseRenew    = 10 * time.Second
	statusRenew   = 5 * time.Minute
	kubeVersion   = "v1.36.3" // whose behaviour the agent follows
	mostPods      = 250
)

// heartbeat registers the node and keeps it alive until ctx ends.
func (a *agent) heartbeat(ctx context.Context) error {
	var uid types.UID
	var lease *coordv1.Lease
	var told, renewed time.Time
	for retry := 0; ; {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, leaseRenew)
			defer cancel()
			if uid == "" || time.Since(told) > statusRenew || time.Since(renewed) > leaseDuration*3/4 {
				// The last case: for lack of renewals others may have called the node dead.
				var err error
				if uid, err = a.register(ctx); err != nil {
					return err
				}
				told = time.Now()
			}
			var err error
			lease, err = a.renew(ctx, uid, lease)
			return err
		}()
		pause := leaseRenew
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			a.opts.Log.Warn("node heartbeat; trying again", "node", a.opts.NodeName, "error", err)
			pause, lease = min(backoff(retry), leaseRenew), nil
			retry++
		} else {
			renewed, retry = time.Now(), 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// register creates or updates the Node object and its status.
func (a *agent) register(ctx context.Context) (types.UID, error) {
	labels := map[string]string{
		corev1.LabelHostname: a.opts.NodeName, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
	}
	if a.opts.Region != "" {
		labels[corev1.LabelTopologyRegion] = a.opts.Region
	}
	if a.opts.Zone != "" {
		labels[corev1.LabelTopologyZone] = a.opts.Zone
	}
	for k, v := range a.opts.Labels {
		labels[k] = v
	}
	nodes := a.client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.opts.NodeName, Labels: labels}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		var patch []byte
		if patch, err = json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}}); err != nil {
			return "", err
		}
		node, err = nodes.Patch(ctx, a.opts.NodeName, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("registering node %s: %w", a.opts.NodeName, err)
	}
	patch, err := json.Marshal(map[string]any{"status": a.nodeStatus(node, metav1.Now())})
	if err != nil {
		return "", err
	}
	if _, err := nodes.Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return "", fmt.Errorf("writing the status of node %s: %w", a.opts.NodeName, err)
	}
	return node.UID, nil
}

func (a *agent) nodeStatus(node *corev1.Node, now metav1.Time) corev1.NodeStatus {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail with a valid pointer
	s := corev1.NodeStatus{
		Capacity: a.capacity, Allocatable: a.capacity,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.opts.NodeIP}, {Type: corev1.NodeHostName, Address: a.opts.NodeName}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(a.opts.KubeletPort)}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: string(node.UID), SystemUUID: string(node.UID), BootID: readLine("/proc/sys/kernel/random/boot_id"),
			KernelVersion: unix.ByteSliceToString(uts.Release[:]), OSImage: osName(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
			ContainerRuntimeVersion: RuntimeVersion, KubeletVersion: kubeVersion,
		},
	}
	add := func(t corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) {
		c := corev1.NodeCondition{Type: t, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
		for _, old := range node.Status.Conditions {
			if old.Type == t && old.Status == status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
	add(corev1.NodeMemoryPressure, corev1.ConditionFalse, "NotWatched", "this node does not watch its memory")
	add(corev1.NodeDiskPressure, corev1.ConditionFalse, "NotWatched", "this node does not watch its disk")
	add(corev1.NodePIDPressure, corev1.ConditionFalse, "NotWatched", "this node does not watch its processes")
	add(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "pods are processes, not containers; "+a.isolation.String())
	return s
}

// renew tells that the node lives; lease is what the last call returned, or nil.
func (a *agent) renew(ctx context.Context, node types.UID, lease *coordv1.Lease) (*coordv1.Lease, error) {
	leases := a.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	if lease == nil {
		var err error
		lease, err = leases.Get(ctx, a.opts.NodeName, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("reading the lease of node %s: %w", a.opts.NodeName, err)
		}
		if err != nil {
			seconds := int32(leaseDuration / time.Second)
			lease, err = leases.Create(ctx, &coordv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: a.opts.NodeName, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: a.opts.NodeName, UID: node}}},
				Spec:       coordv1.LeaseSpec{HolderIdentity: &a.opts.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now},
			}, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("creating the lease of node %s: %w", a.opts.NodeName, err)
			}
			return lease, nil
		}
	}
	lease = lease.DeepCopy()
	lease.Spec.RenewTime, lease.Spec.HolderIdentity = &now, &a.opts.NodeName
	lease, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renewing the lease of node %s: %w", a.opts.NodeName, err)
	}
	return lease, nil
}

// machineCapacity is the machine's own; pods are not held to shares of it. The number of pods is
// bounded by their addresses.
func machineCapacity(pods netip.Prefix) corev1.ResourceList {
	memory := int64(1 << 30)
	if kb, ok := strings.CutPrefix(readLine("/proc/meminfo"), "MemTotal:"); ok {
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64); err == nil {
			memory = n << 10
		}
	}
	var fs unix.Statfs_t
	disk := int64(10 << 30)
	if unix.Statfs("/", &fs) == nil {
		disk = int64(fs.Blocks) * fs.Bsize
	}
	most := int64(mostPods)
	if bits := 32 - pods.Bits(); bits < 9 {
		most = min(most, max(1, int64(1)<<bits-2))
	}
	// Requests are promises about a machine of one's own; two sites here share one, and a demo's
	// requests must not keep its pods from running, so the processors are counted generously.
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(max(8, runtime.NumCPU())), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(most, resource.DecimalSI),
	}
}

func readLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // only read
	line, _ := bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line)
}

func osName() string {
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return runtime.GOOS
}
