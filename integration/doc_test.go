// Package integration tests the whole system on real servers, sockets and
// processes, all of them on 127.0.0.1.
package integration
