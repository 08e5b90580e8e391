// Package lab starts real Kubernetes control planes on one machine, so that what Lifeboat promises
// can be tried: sites that can be killed as a region dies, links that can be cut, and the DNS,
// resolver, routers and registries that stand around them.
package lab
