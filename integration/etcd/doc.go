// Package etcd holds the tests of discovery/etcd on real etcd servers. It is a
// module of its own, so that the server and its dependencies stay out of the
// library's module graph; `make test` runs it. Each server runs in its own
// process, so that it can be killed and stopped, and leaks nothing into the tests.
package etcd
