// Package e2e holds the tests of whole flows: the built programs, run as a person runs them, on real sites.
package e2e
