package statetest

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/lab/internal/pki"
)

// A backend answers webhooks, or whatever else API servers call, on a port that is its own from the
// beginning; nobody listens there before start.
type backend struct {
	t      *testing.T
	ca     *pki.CA
	config *tls.Config
	addr   string
	calls  atomic.Int64
}

// newBackend has a certificate for the Service of the given name.
func newBackend(t *testing.T, ns, service string) *backend {
	t.Helper()
	ca, err := pki.NewCA("backend", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueServer([]string{service + "." + ns + ".svc", "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, ca: ca, config: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *backend) port() string { _, port, _ := net.SplitHostPort(b.addr); return port }

func (b *backend) bundle() string { return base64.StdEncoding.EncodeToString(b.ca.PEM()) }

// start serves until the test ends.
func (b *backend) start(h http.Handler) {
	l, err := tls.Listen("tcp", b.addr, b.config)
	if err != nil {
		b.t.Error(err)
		return
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.calls.Add(1)
		h.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }()        // until Close
	b.t.Cleanup(func() { _ = server.Close() }) // nothing is lost with it
}

// review is a webhook that gives each request the verdict that it is told.
func review(t *testing.T, verdict func(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			t.Error(err)
			return
		}
		v.Response = &admissionv1.AdmissionResponse{UID: v.Request.UID, Allowed: true}
		verdict(v.Request, v.Response)
		v.Request = nil
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	})
}

func allow(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse) {}

// hookConfig is a webhook in front of the ConfigMaps and Services of a namespace, answered by its Service
// "hook", which leads to a port of this machine though it also selects pods.
func hookConfig(b *backend, kind, policy, resources string) string {
	return fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: %s, metadata: {name: @NS@-hook}, webhooks: [{name: hook.@NS@.example.com, sideEffects: None, admissionReviewVersions: [v1], failurePolicy: %s, timeoutSeconds: 5,
		clientConfig: {caBundle: %s, service: {namespace: @NS@, name: hook, port: %s, path: /}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: @NS@}},
		rules: [{%s, operations: [CREATE, UPDATE]}]}]}`, kind, policy, b.bundle(), b.port(), resources)
}

func hookService(b *backend) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: hook, namespace: @NS@}, spec: {type: ExternalName, externalName: localhost, selector: {app: hook}, ports: [{port: %s}]}}`, b.port())
}

const (
	onConfigMaps = `apiGroups: [""], apiVersions: [v1], resources: [configmaps]`
	hookServer   = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: hook, namespace: @NS@}, spec: {replicas: 1, selector: {matchLabels: {app: hook}}, template: {metadata: {labels: {app: hook}},
		spec: {containers: [{name: hook, image: "hook:1", envFrom: [{configMapRef: {name: settings}}]}]}}}}`
	emptyNamespace = `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: @NS@}}
`
	settings = `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: @NS@}, data: {a: b}}`
)

// whenThere does something once an object is at a site.
func whenThere(t *testing.T, c *kube.Client, ns, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		eventually(t, what+" to be there", func() (bool, string) { return get(t, c, ns, what) != nil, "not there" })
		do()
	}()
	t.Cleanup(func() { <-done })
}

// readyDeployment says what a controller says of a Deployment whose pods run.
func readyDeployment(t *testing.T, c *kube.Client, ns, name string) {
	t.Helper()
	obj := get(t, c, ns, "apps/v1/Deployment/"+name)
	n := field(obj, "spec.replicas")
	patch(t, c, ns, "apps/v1/Deployment/"+name, fmt.Sprintf("status: {observedGeneration: %d, replicas: %[2]v, updatedReplicas: %[2]v, readyReplicas: %[2]v, availableReplicas: %[2]v}", obj.GetGeneration(), n), "status")
}

// A webhook's own backend is among what is restored: it comes first, and the webhook is never left out
// or weakened.
func TestWebhookAfterItsOwnBackend(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "webhook-own"
	b := newBackend(t, ns, "hook")
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+"\n---\n"+hookService(b)+"\n---\n"+hookServer+"\n---\n"+hookConfig(b, "ValidatingWebhookConfiguration", "Fail", onConfigMaps))
	whenThere(t, west, ns, "apps/v1/Deployment/hook", func() {
		b.start(review(t, allow))
		readyDeployment(t, west, ns, "hook")
	})
	v.apply()
	hook := get(t, west, "", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration/"+ns+"-hook")
	if got := fmt.Sprint(field(hook, "webhooks")); !strings.Contains(got, "failurePolicy:Fail") || !strings.Contains(got, "caBundle:"+b.bundle()[:20]) {
		t.Errorf("the webhook that was restored: %s", got)
	}
	v.verify()
	v.twice()
}

// The webhook is at the target before its backend, as after a restore that broke off: what it guards waits,
// what it needs to answer does not.
func TestWebhookThatIsThereBeforeItsBackend(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "webhook-early"
	b := newBackend(t, ns, "hook")
	var guarded strings.Builder
	for i := range 20 { // more than there are workers
		fmt.Fprintf(&guarded, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: guarded-%d, namespace: @NS@}}\n", i)
	}
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+"\n---\n"+hookService(b)+"\n---\n"+hookServer+"\n"+guarded.String())
	create(t, west, ns, hookConfig(b, "ValidatingWebhookConfiguration", "Fail", onConfigMaps))
	// Its server starts once its Deployment is there, though that reads a ConfigMap which waits for it.
	whenThere(t, west, ns, "apps/v1/Deployment/hook", func() { b.start(review(t, allow)) })
	v.opts.GateTimeout = 20 * time.Second
	v.apply()
	if !v.there("v1/ConfigMap/settings") || !v.there("v1/ConfigMap/guarded-19") || b.calls.Load() == 0 {
		t.Errorf("not everything is there, or the webhook was not asked (%d times)", b.calls.Load())
	}
}

// Nobody answers for a webhook: what it guards is given up at one deadline for all, by name; the rest is
// restored.
func TestWebhookThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns, n = "webhook-dead", 40
	b := newBackend(t, "elsewhere", "hook")
	var guarded strings.Builder
	for i := range n {
		fmt.Fprintf(&guarded, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: guarded-%d, namespace: @NS@}}\n", i)
	}
	v := move(t, east, west, ns, emptyNamespace+guarded.String()+"---\n"+`{apiVersion: v1, kind: Secret, metadata: {name: free, namespace: @NS@}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a, envFrom: [{configMapRef: {name: guarded-0}}]}]}}}}`)
	create(t, west, ns, strings.ReplaceAll(hookConfig(b, "ValidatingWebhookConfiguration", "Fail", onConfigMaps), "namespace: @NS@, name: hook", "namespace: webhook-gone, name: hook"))
	v.opts.GateTimeout = 2 * time.Second
	began := time.Now()
	out, err := v.set.Apply(deadline(t), west, v.opts, nil)
	if took := time.Since(began); took > 4*v.opts.GateTimeout {
		t.Errorf("%d objects waited %s in all; the deadline is %s", n, took, v.opts.GateTimeout)
	}
	if err == nil || len(out.Problems) != n {
		t.Fatalf("error %v, %d problems: %q", err, len(out.Problems), out.Problems)
	}
	names(t, out.Problems, "ConfigMap "+ns+"/guarded-7", "hook."+ns+".example.com", "2s")
	if !v.there("v1/Secret/free") || !v.there("apps/v1/Deployment/web") || v.there("v1/ConfigMap/guarded-7") {
		t.Error("the rest was not restored, or the webhook was bypassed")
	}
	// Mended, and run again: only what is missing is made.
	remove(t, west, "", "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration/"+ns+"-hook")
	if out := v.apply(); out.Created != n {
		t.Errorf("%d created at the second run, want %d", out.Created, n)
	}
}

// A webhook that may be passed over by its own policy holds nothing up.
func TestWebhookThatMayBeIgnored(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "webhook-ignore"
	b := newBackend(t, ns, "hook")
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings)
	create(t, west, ns, strings.ReplaceAll(hookConfig(b, "ValidatingWebhookConfiguration", "Ignore", onConfigMaps), "namespace: @NS@, name: hook", "namespace: webhook-gone, name: hook"))
	began := time.Now()
	v.apply()
	if took := time.Since(began); took > v.opts.GateTimeout {
		t.Errorf("it took %s", took)
	}
}

// A webhook that says no is not waited for.
func TestWebhookThatDenies(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "webhook-denies"
	b := newBackend(t, ns, "hook")
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings)
	create(t, west, ns, emptyNamespace+"---\n"+hookService(b))
	b.start(review(t, func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { r.Allowed = false }))
	create(t, west, ns, hookConfig(b, "ValidatingWebhookConfiguration", "Fail", onConfigMaps))
	began := time.Now()
	v.refused("ConfigMap "+ns+"/settings", "denied the request")
	if took := time.Since(began); took > v.opts.GateTimeout/2 {
		t.Errorf("a refusal was waited out: %s", took)
	}
}

// What a webhook of the target adds to an object, or changes in it each time, is no difference.
func TestWebhookThatInjects(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "webhook-injects"
	b := newBackend(t, ns, "hook")
	v := move(t, east, west, ns, emptyNamespace+`---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {containers: [{name: web, image: "web:1", args: [serve], env: [{name: A, value: b}]}], volumes: [{name: tmp, emptyDir: {}}]}}}}`)
	create(t, west, ns, emptyNamespace+"---\n"+hookService(b))
	b.start(review(t, func(r *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) {
		var d struct {
			Spec struct {
				Template struct {
					Spec struct {
						Containers []struct{ Name string }
					}
				}
			}
		}
		if err := json.Unmarshal(r.Object.Raw, &d); err != nil {
			t.Error(err)
		}
		patches := `{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"mirror.west.test/web:1"},
			{"op":"replace","path":"/spec/template/spec/containers/0/args","value":["wrap","serve"]}`
		if len(d.Spec.Template.Spec.Containers) == 1 {
			patches += `,{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"proxy","image":"proxy:1"}},
				{"op":"add","path":"/spec/template/spec/volumes/-","value":{"name":"certs","emptyDir":{}}}`
		}
		kind := admissionv1.PatchTypeJSONPatch
		answer.PatchType, answer.Patch = &kind, []byte("["+patches+"]")
	}))
	create(t, west, ns, hookConfig(b, "MutatingWebhookConfiguration", "Fail", `apiGroups: [apps], apiVersions: [v1], resources: [deployments]`))
	v.apply()
	readyDeployment(t, west, ns, "web")
	if got := fmt.Sprint(v.field("apps/v1/Deployment/web", "spec.template.spec.containers")); !strings.Contains(got, "proxy:1") || !strings.Contains(got, "mirror.west.test/web:1") {
		t.Errorf("the webhook was not asked: %s", got)
	}
	v.verify()
	v.twice()
	patch(t, west, ns, "apps/v1/Deployment/web", "spec: {revisionHistoryLimit: 3}") // somebody else's, and ours has the default
	patch(t, west, ns, "apps/v1/Deployment/web", "spec: {template: {metadata: {labels: {app: web, added: later}}}}")
	readyDeployment(t, west, ns, "web")
	v.verify("Deployment " + ns + "/web: spec.revisionHistoryLimit is 3, should be 10")
}

// A policy of the target that refuses an object is a problem by name, at once.
func TestAdmissionPolicyThatRefuses(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "policy"
	v := move(t, east, west, ns, emptyNamespace+"---\n"+settings+`
---
{apiVersion: v1, kind: Secret, metadata: {name: free, namespace: @NS@}}`)
	create(t, west, ns, `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: @NS@}, spec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]},
  validations: [{expression: "has(object.metadata.labels) && 'team' in object.metadata.labels", message: "needs a team"}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: @NS@}, spec: {policyName: @NS@, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: @NS@}}}}}`)
	create(t, west, ns, emptyNamespace)
	inForce(t, west, ns)
	began := time.Now()
	v.refused("ConfigMap "+ns+"/settings", "needs a team")
	if took := time.Since(began); took > v.opts.GateTimeout/2 {
		t.Errorf("a refusal was waited out: %s", took)
	}
	if !v.there("v1/Secret/free") {
		t.Error("the rest did not go on")
	}
}

// A conversion webhook that is down holds its own group, at capture and at restore, and nothing else.
func TestConversionWebhookDown(t *testing.T) {
	t.Parallel()
	east, west := connect(t)
	const ns = "conversion"
	b := newBackend(t, "conversion-gone", "converter")
	docs := emptyNamespace + "---\n" + settings + "\n---\n" + definition(ns, "Parrot", "v1", "v2") + "\n---\n" + definition(ns, "Ox", "v1") + `
---
{apiVersion: @NS@.example.com/v1, kind: Parrot, metadata: {name: polly, namespace: @NS@}, spec: {a: b}}
---
{apiVersion: @NS@.example.com/v1, kind: Ox, metadata: {name: bull, namespace: @NS@}, spec: {a: b}}`
	create(t, east, ns, docs)
	whole := moving(t, east, west, ns)
	broken := fmt.Sprintf(`spec: {conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {caBundle: %s, service: {namespace: conversion-gone, name: converter}}}}}`, b.bundle())
	const crd = "apiextensions.k8s.io/v1/CustomResourceDefinition/parrots." + ns + ".example.com"

	// The kind is stored in v1, and captured in v2, which its group prefers.
	create(t, west, ns, emptyNamespace+"---\n"+definition(ns, "Parrot", "v1", "v2"))
	eventually(t, "the kind to be served", func() (bool, string) { return kube.Ready(get(t, west, "", crd)) })
	patch(t, west, "", crd, broken)
	whole.opts.GateTimeout = time.Second
	eventually(t, "the conversion to fail", func() (bool, string) {
		_, err := whole.set.Apply(deadline(t), west, whole.opts, nil)
		return err != nil, "it does not"
	})
	whole.refused("Parrot "+ns+"/polly", "conversion webhook")
	if !whole.there(ns+".example.com/v1/Ox/bull") || !whole.there("v1/ConfigMap/settings") {
		t.Error("the rest did not go on")
	}
	out, err := whole.set.Verify(deadline(t), west, whole.opts)
	if err != nil || len(out.Problems) != 1 {
		t.Errorf("verify: error %v, problems %q", err, out.Problems)
	}

	// What was there before the webhook went down is no obstacle to verifying the rest.
	patch(t, west, "", crd, `spec: {conversion: {strategy: None, webhook: null}}`)
	whole.apply()
	patch(t, west, "", crd, broken)
	eventually(t, "the comparison to fail", func() (bool, string) {
		out, err := whole.set.Verify(deadline(t), west, whole.opts)
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Problems) == 1 && strings.Contains(out.Problems[0], "cannot be read"), fmt.Sprint(out.Problems)
	})

	patch(t, east, "", crd, broken)
	eventually(t, "the capture to miss the group", func() (bool, string) {
		m, result := captured(t, east, ns)
		if m.docs["namespaces/"+ns+"/"+ns+".example.com/oxs/bull.json"] == nil {
			t.Error("another kind of the group is missing")
		}
		return len(result.Missing) == 1 && strings.Contains(result.Missing[0], "parrots."+ns), fmt.Sprint(result.Missing)
	})
}
