// Package kube speaks to one site's Kubernetes API: it connects, runs commands in pods, applies objects,
// waits with a deadline, judges readiness, and fences workloads.
package kube
