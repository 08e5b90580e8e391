// Package capture reads, in one pass, the cluster state that an application needs in order to be brought
// back elsewhere, and says what it could not read.
package capture
