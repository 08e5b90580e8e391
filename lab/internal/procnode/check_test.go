package procnode

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestNetworkProbes asks servers that answer well, badly and not at all.
func TestNetworkProbes(t *testing.T) {
	t.Parallel()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "wanted" || r.Header.Get("X-A") != "b" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	mux.HandleFunc("/grpc.health.v1.Health/Check", health)
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = &protocols
	s.Start()
	t.Cleanup(s.Close)
	_, portText, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{pod: &podRun{addr: netip.MustParseAddr("127.0.0.1")}, spec: corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "wanted"}, {Name: "X-A", Value: "b"}}}}
	}
	grpc := func(service string) corev1.ProbeHandler {
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}
	}
	for name, k := range map[string]struct {
		h    corev1.ProbeHandler
		want string // of the error; empty for none
	}{
		"http ok": {get("/ok"), ""}, "http 500": {get("/bad"), "statuscode: 500: broken"}, "http 404": {get("none"), "statuscode: 404"},
		"http slow": {get("/slow"), "deadline"}, "redirect elsewhere": {get("/away"), ""},
		"no such port": {corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("nope")}}, "no port named"},
		"tcp":          {corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}, ""},
		"tcp refused":  {corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}, "refused"},
		"grpc":         {grpc("up"), ""}, "grpc down": {grpc("down"), "not serving"}, "grpc unknown": {grpc("other"), `status "5"`},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := c.check(ctx, nil, &corev1.Probe{ProbeHandler: k.h})
		cancel()
		if (err == nil) != (k.want == "") || err != nil && !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: %v, want %q", name, err, k.want)
		}
	}
}

// health is the standard gRPC health service: "up" serves, "down" does not, others are not known.
func health(w http.ResponseWriter, r *http.Request) {
	raw := make([]byte, 64)
	n, _ := r.Body.Read(raw)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	status := byte(1)
	switch service := string(raw[7:n]); service {
	case "up":
	case "down":
		status = 2
	default:
		w.Header().Set("Grpc-Status", "5")
		return
	}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0x08, status})
	w.Header().Set("Grpc-Status", "0")
}
