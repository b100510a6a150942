// Package kube tests discovery/kube on parts of a real Kubernetes API: the API
// server for custom resources, over an etcd, each in its own process so that it
// can be killed. EndpointSlices are a custom resource there. Pods cannot be one;
// a small handler of the tests serves them. The package is a module of its own,
// so that users of the library do not download an API server.
package kube
