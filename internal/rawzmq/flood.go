//go:build cgo && !nozmq

package rawzmq

/*
#ifdef __linux__
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

static int local_port(int fd) {
	struct sockaddr_storage address;
	socklen_t size = sizeof address;
	if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return -1;
	if (address.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&address)->sin_port);
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
	return -1;
}

// received works on a duplicate of the descriptor: libzmq may close the connection at
// any time, and the system may use the number for something else.
static int64_t received(int number, int port, uint64_t limit) {
	int fd = dup(number);
	if (fd < 0)
		return -1;
	struct tcp_info info = {0};
	socklen_t size = sizeof info;
	int64_t n = -1;
	if (local_port(fd) == port && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
			size >= offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received)
		n = info.tcpi_bytes_received;
	if (n >= 0 && info.tcpi_bytes_received > limit)
		shutdown(fd, SHUT_RDWR);
	close(fd);
	return n;
}
#else
#include <stdint.h>
static int64_t received(int number, int port, uint64_t limit) { return -1; }
#endif
*/
import "C"

import "math"

// ReceivedBytes returns the number of bytes that have arrived on the connection with a
// descriptor, which a socket that listens on port has accepted; or -1 if there is no
// such connection any more, or the system does not count. It may be called while
// others use the socket.
func ReceivedBytes(descriptor, port int) int64 { return EndAbove(descriptor, port, math.MaxInt64) }

// EndAbove is like ReceivedBytes, and ends the connection if there are more than limit.
func EndAbove(descriptor, port int, limit int64) int64 {
	return int64(C.received(C.int(descriptor), C.int(port), C.uint64_t(limit)))
}
