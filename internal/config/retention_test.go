package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

const withRetention = `apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: east}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Site
metadata: {name: west}
spec: {cluster: {kubeconfig: /k}}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Vault
metadata: {name: main}
spec:
  location: /v
  encryptionKey: {file: /key}
  retention: {last: 3, daily: 14, weekly: 8, within: 48h}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: shop}
spec:
  namespaces: [shop]
  objectives: {rto: 5m, rpo: 30s}
  sites: {preferred: east, recovery: [west]}
---
apiVersion: lifeboat.dev/v1alpha1
kind: Application
metadata: {name: blog}
spec:
  namespaces: [blog]
  objectives: {rto: 5m, rpo: 30s}
  sites: {preferred: east, recovery: [west]}
  retention: {hourly: 24, monthly: 12, yearly: 5}
`

func TestRetention(t *testing.T) {
	t.Parallel()
	f, err := Parse("/fleet.yaml", []byte(withRetention))
	if err != nil {
		t.Fatal(err)
	}
	for app, want := range map[string]dr.Retention{
		"shop": {Last: 3, Daily: 14, Weekly: 8, Within: 48 * time.Hour},
		"blog": {Hourly: 24, Monthly: 12, Yearly: 5},
	} {
		a, _ := f.Application(app)
		if got := f.RetentionOf(a); got == nil || *got != want {
			t.Errorf("%s: %+v, want %+v", app, got, want)
		}
	}
	text, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse("/fleet.yaml", text); err != nil || !reflect.DeepEqual(again, f) {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestRetentionProblemsNameLineAndRemedy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{last: 0}":       "17:21: Vault main: retention.last is the number 0 where a count is expected; write a whole number",
		"{last: two}":     `17:21: Vault main: retention.last is the text "two" where a count is expected`,
		"{last: -1}":      "17:21:",
		"{last: 1.5}":     "17:21:",
		"{last: [1]}":     "17:21: Vault main: retention.last is a list",
		"{last: 9999999}": "17:21:",
		"{within: 2}":     "17:23: Vault main: retention.within: \"2\" is not a duration; add the unit",
		"{dayly: 2}":      "17:15: Vault main: unknown field retention.dayly; did you mean daily?",
		"{}":              "17:14: Vault main: retention has no rule",
		"forever":         "17:14: Vault main: retention is the text",
	} {
		file := strings.Replace(withRetention, "{last: 3, daily: 14, weekly: 8, within: 48h}", text, 1)
		if _, err := Parse("/fleet.yaml", []byte(file)); err == nil || !strings.Contains(err.Error(), "/fleet.yaml:"+want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
