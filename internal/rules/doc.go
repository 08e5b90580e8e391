// Package rules holds no code, only the tests that keep the repository in shape: who may import whom,
// and how large things may get.
package rules
