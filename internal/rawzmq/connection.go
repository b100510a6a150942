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
	} kernel;
};

// progress returns the number of bytes that the peer has acknowledged, or -1 if the
// descriptor is no connection of TCP or nothing waits to be acknowledged.
static int64_t progress(int fd) {
	union tcp_state state;
	socklen_t size = sizeof state;
	int waiting;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &size) < 0 || size < sizeof state.kernel)
		return -1;
	if (ioctl(fd, TIOCOUTQ, &waiting) < 0 || waiting == 0)
		return -1;
	return state.kernel.bytes_acked;
}

// accepted_at returns whether the descriptor is a connection to a local port.
static int accepted_at(int fd, uint16_t port) {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} local, peer;
	socklen_t local_size = sizeof local, peer_size = sizeof peer;
	if (getsockname(fd, &local.any, &local_size) < 0 || getpeername(fd, &peer.any, &peer_size) < 0)
		return 0;
	return (local.any.sa_family == AF_INET && ntohs(local.v4.sin_port) == port) ||
		(local.any.sa_family == AF_INET6 && ntohs(local.v6.sin6_port) == port);
}

// shut_down ends a connection to a local port. libzmq may close the descriptor at any
// time, and another file may get its number. A copy stays what it is.
static int shut_down(int fd, uint16_t port) {
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return 0;
	int done = accepted_at(copy, port) && shutdown(copy, SHUT_RDWR) == 0;
	close(copy);
	return done;
}
#else
static int64_t progress(int fd) { return -1; }
static int shut_down(int fd, uint16_t port) { return 0; }
#endif
*/
import "C"

// Progress returns how many bytes the peer of a connection has acknowledged, and
// whether more wait for it in the kernel. It returns false if that is not known, as it is
// only on Linux and for TCP. A Monitor reports descriptors.
func Progress(descriptor int) (acknowledged int64, waiting bool) {
	n := int64(C.progress(C.int(descriptor)))
	return n, n >= 0
}

// Shutdown ends a connection that was accepted on a local port, as if the peer had
// closed it. It has no effect if the descriptor is no such connection any more, or on
// systems other than Linux. It reports whether it had.
func Shutdown(descriptor int, port uint16) bool {
	return C.shut_down(C.int(descriptor), C.uint16_t(port)) != 0
}
