package openshift

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Route is a route.openshift.io/v1 Route, as far as the lab's router reads it.
type Route struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RouteSpec   `json:"spec"`
	Status            RouteStatus `json:"status"`
}

// RouteSpec is what a Route asks for.
type RouteSpec struct {
	Host              string        `json:"host,omitempty"`
	Path              string        `json:"path,omitempty"`
	To                RouteTarget   `json:"to"`
	AlternateBackends []RouteTarget `json:"alternateBackends,omitempty"`
	Port              *RoutePort    `json:"port,omitempty"`
	TLS               *RouteTLS     `json:"tls,omitempty"`
	WildcardPolicy    string        `json:"wildcardPolicy,omitempty"`
}

// RouteTarget is a Service with its share of requests (100 if not said).
type RouteTarget struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Weight *int32 `json:"weight,omitempty"`
}

// RoutePort names a port of the Service's pods.
type RoutePort struct {
	TargetPort intstr.IntOrString `json:"targetPort"`
}

// Terminations and what becomes of plain HTTP.
const (
	TerminationEdge        = "edge"
	TerminationPassthrough = "passthrough"
	TerminationReencrypt   = "reencrypt"
	InsecureAllow          = "Allow"
	InsecureRedirect       = "Redirect"
)

// RouteTLS is how a Route is secured.
type RouteTLS struct {
	Termination                   string `json:"termination"`
	Certificate                   string `json:"certificate,omitempty"`
	Key                           string `json:"key,omitempty"`
	CACertificate                 string `json:"caCertificate,omitempty"`
	DestinationCACertificate      string `json:"destinationCACertificate,omitempty"`
	InsecureEdgeTerminationPolicy string `json:"insecureEdgeTerminationPolicy,omitempty"`
}

// RouteStatus has an entry for each router that saw the Route.
type RouteStatus struct {
	Ingress []RouteIngress `json:"ingress,omitempty"`
}

// RouteIngress is what one router made of it.
type RouteIngress struct {
	Host                    string           `json:"host,omitempty"`
	RouterName              string           `json:"routerName,omitempty"`
	RouterCanonicalHostname string           `json:"routerCanonicalHostname,omitempty"`
	WildcardPolicy          string           `json:"wildcardPolicy,omitempty"`
	Conditions              []RouteCondition `json:"conditions,omitempty"`
}

// Admitted is the one type of condition.
const Admitted = "Admitted"

// RouteCondition says whether a router serves the Route.
type RouteCondition struct {
	Type               string       `json:"type"`
	Status             string       `json:"status"`
	Reason             string       `json:"reason,omitempty"`
	Message            string       `json:"message,omitempty"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}
