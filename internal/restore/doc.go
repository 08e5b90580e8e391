// Package restore puts an application's captured cluster state back at another site: it changes what has
// to differ there, applies the objects in the order in which they need each other, and compares the
// outcome with what was captured.
package restore
