// Package mover moves a volume's bytes between a directory inside a pod and the vault's repository,
// although the cluster holds no credential of the vault: the orchestrator runs a worker in a pod beside
// the volume and speaks HTTP/2 with it over the worker's stdin and stdout. The worker runs the code of
// the repository (chunks, deduplication, encryption) on a store whose requests the orchestrator answers
// from the real one. The password travels in that stream alone.
package mover
