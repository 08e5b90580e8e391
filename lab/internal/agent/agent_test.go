package agent

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"lifeboat.dev/lifeboat/lab/internal/cluster"
	"lifeboat.dev/lifeboat/lab/internal/layout"
	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

func TestSiteIsReadyOnceAllPartsAre(t *testing.T) {
	t.Parallel()
	s := layout.Site(t.TempDir())
	if st, err := ReadSiteStatus(s); err != nil || st.Ready {
		t.Errorf("before there is a status it is %+v (%v)", st, err)
	}
	b := newBoard(s.Status(), partRouter, partNode)
	status := func() SiteStatus {
		st, err := ReadSiteStatus(s)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if err := b.done(partRouter, func(s *SiteStatus) { s.HTTPPort = 8080 }); err != nil {
		t.Fatal(err)
	}
	if st := status(); st.Ready || st.HTTPPort != 8080 || !slices.Equal(st.Waiting, []string{partNode}) {
		t.Errorf("with one of two parts the status is %+v", st)
	}
	if err := b.done(partNode, nil); err != nil {
		t.Fatal(err)
	}
	if st := status(); !st.Ready || len(st.Waiting) != 0 || st.HTTPPort != 8080 {
		t.Errorf("with all parts the status is %+v", st)
	}
	if err := b.failed(errors.New("broken")); err != nil {
		t.Fatal(err)
	}
	if st := status(); st.Ready || st.Failed != "broken" {
		t.Errorf("after a failure the status is %+v", st)
	}
}

func TestOrderOfDaemons(t *testing.T) {
	t.Parallel()
	for nodes, want := range map[string][]string{
		state.Processes: {cluster.Etcd, CmdSiteAgent, cluster.APIServer, cluster.Controller, cluster.Scheduler},
		state.Pods:      {cluster.Etcd, "containerd", CmdSiteAgent, cluster.APIServer, cluster.Controller, cluster.Scheduler, "kubelet"},
	} {
		st := &state.State{Name: "x", Dir: t.TempDir(), Nodes: nodes, Octet: 99, Sites: []state.Site{{Name: "east", Context: "east"}}}
		cfg, err := ClusterConfig(st, "east")
		if err != nil {
			t.Fatal(err)
		}
		if err := cfg.Prepare(); err != nil {
			t.Fatal(err)
		}
		var node []site.Daemon
		if nodes == state.Pods {
			node = []site.Daemon{{Name: "containerd"}, {Name: "kubelet"}}
		}
		daemons, err := order(cfg, st, "east", node)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range daemons {
			got = append(got, d.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("on nodes of %s daemons start in the order %v, want %v", nodes, got, want)
		}
	}
}

func TestProgramsOfImages(t *testing.T) {
	t.Parallel()
	table := programs(state.Binaries{Shop: "/opt/bin/shop", Lifeboat: "/opt/bin/lifeboat"})
	for image, program := range map[string]string{"shop": "/opt/bin/shop", "lifeboat": "/opt/bin/lifeboat"} {
		if p, ok := table[image]; !ok || p.Entrypoint[0] != program {
			t.Errorf("image %s runs %v", image, p.Entrypoint)
		}
	}
	for image, p := range table {
		if len(p.Entrypoint) == 0 || !filepath.IsAbs(p.Entrypoint[0]) {
			t.Errorf("image %s runs %v", image, p.Entrypoint)
		}
	}
	if _, ok := table["pause"]; ok {
		t.Error("an image of a program that is not here is in the table")
	}
}
