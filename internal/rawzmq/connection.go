//go:build cgo && !nozmq

package rawzmq

/*
#include <stdint.h>

#ifdef __linux__
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// The headers of C libraries declare shorter structs than the kernel has.
union tcp_state {
	struct tcp_info info;
	struct {
		unsigned char other[120];
		uint64_t bytes_acked;
		uint64_t bytes_received;
	} kernel;
};

// get_state returns whether the descriptor is a connection of TCP.
static int get_state(int fd, union tcp_state *state) {
	socklen_t size = sizeof *state;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, state, &size) == 0 && size >= sizeof state->kernel &&
		state->info.tcpi_state != TCP_LISTEN;
}

// progress returns the number of bytes that the peer has acknowledged, or -1 if the
// descriptor is no connection of TCP or nothing waits to be acknowledged.
static int64_t progress(int fd) {
	union tcp_state state;
	int waiting;
	if (!get_state(fd, &state) || ioctl(fd, TIOCOUTQ, &waiting) < 0 || waiting == 0)
		return -1;
	return state.kernel.bytes_acked;
}

static int local_port(int fd) {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} local;
	socklen_t size = sizeof local;
	if (getsockname(fd, &local.any, &size) < 0)
		return -1;
	switch (local.any.sa_family) {
	case AF_INET:
		return ntohs(local.v4.sin_port);
	case AF_INET6:
		return ntohs(local.v6.sin6_port);
	}
	return -1;
}

// end_above returns the number of bytes that have arrived on a connection to a local
// port, which it ends if they are more than limit; -1 if the descriptor is no such
// connection. libzmq may close the descriptor at any time, and another file may get its
// number. A copy stays what it is.
static int64_t end_above(int fd, int port, int64_t limit) {
	int64_t received = -1;
	union tcp_state state;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return -1;
	if (local_port(copy) == port && get_state(copy, &state))
		received = state.kernel.bytes_received;
	if (received > limit && shutdown(copy, SHUT_RDWR) < 0)
		received = -1;
	close(copy);
	return received;
}
#else
static int64_t progress(int fd) { return -1; }
static int64_t end_above(int fd, int port, int64_t limit) { return -1; }
#endif
*/
import "C"

import "math"

// Progress returns how many bytes the peer of a connection has acknowledged, and
// whether more wait for it in the kernel. It returns false if that is not known, as it is
// only on Linux and for TCP. A Monitor reports descriptors.
func Progress(descriptor int) (acknowledged int64, waiting bool) {
	n := int64(C.progress(C.int(descriptor)))
	return n, n >= 0
}

// ReceivedBytes returns the number of bytes that have arrived on the connection with a
// descriptor, which a socket that listens on port has accepted; or -1 if there is no
// such connection any more, or the system does not count: only Linux does. It may be
// called while others use the socket.
func ReceivedBytes(descriptor, port int) int64 { return EndAbove(descriptor, port, math.MaxInt64) }

// EndAbove is like ReceivedBytes, and ends the connection if there are more than limit,
// as if the peer had closed it.
func EndAbove(descriptor, port int, limit int64) int64 {
	return int64(C.end_above(C.int(descriptor), C.int(port), C.int64_t(limit)))
}

// Shutdown is EndAbove without a limit. It reports whether there was such a connection.
func Shutdown(descriptor, port int) bool { return EndAbove(descriptor, port, -1) >= 0 }
