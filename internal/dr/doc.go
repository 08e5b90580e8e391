// Package dr holds Lifeboat's nouns: the fleet, applications, recovery points, ownership, plans and
// runs, and the errors that a person sees. It imports the standard library alone, so that every other
// package can share these words without sharing code.
package dr
