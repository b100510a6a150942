// Package etcd holds the tests of discovery/etcd on real etcd servers. It is a
// module of its own, so that the server and what it needs stay out of the
// library's module graph; `make test` runs it. Each server is a process of its
// own, so that it can be killed and stopped, and leaks nothing into the tests.
package etcd
