// Package kube tries discovery/kube on the machinery of a real Kubernetes API:
// the API server for custom resources, over an etcd, each in a process of its
// own so that it can be killed. EndpointSlices are a custom resource there.
// Pods cannot be one; a small handler of the tests serves them. It is a module
// of its own, so that nobody who uses the library downloads an API server.
package kube
