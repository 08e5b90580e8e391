package procnode

import (
	"net/http"
	"os"
	"time"
)

// The parts of the kubelet's summary that can be read off processes.
type (
	statsSummary struct {
		Node struct {
			NodeName string `json:"nodeName"`
		} `json:"node"`
		Pods []podStats `json:"pods"`
	}
	podStats struct {
		PodRef struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
			UID       string `json:"uid"`
		} `json:"podRef"`
		StartTime time.Time   `json:"startTime"`
		CPU       cpuStats    `json:"cpu"`
		Memory    memoryStats `json:"memory"`
	}
	cpuStats struct {
		Time  time.Time `json:"time"`
		Nanos uint64    `json:"usageCoreNanoSeconds"` // of processes that run now
	}
	memoryStats struct {
		Time     time.Time `json:"time"`
		RSSBytes uint64    `json:"rssBytes"`
	}
)

// serveStats answers the time and memory that each pod's processes use now.
func (k kubeletAPI) serveStats(w http.ResponseWriter, _ *http.Request) {
	const tick = uint64(time.Second / 100) // the kernel's unit towards programs, on every Linux
	out := statsSummary{Pods: []podStats{}}
	out.Node.NodeName = k.opts.NodeName
	for _, p := range k.list() {
		kin := family{env: []string{envNode + "=" + k.opts.Dir, envPod + "=" + string(p.uid)}}
		procs, err := kin.members()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		pod, now := p.current(), time.Now()
		s := podStats{StartTime: p.started, CPU: cpuStats{Time: now}, Memory: memoryStats{Time: now}}
		s.PodRef.Name, s.PodRef.Namespace, s.PodRef.UID = pod.Name, pod.Namespace, string(p.uid)
		for _, proc := range procs {
			s.CPU.Nanos += proc.ticks * tick
			s.Memory.RSSBytes += proc.pages * uint64(os.Getpagesize())
		}
		out.Pods = append(out.Pods, s)
	}
	writeJSON(w, out)
}
