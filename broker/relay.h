//go:build cgo && !nozmq

#ifndef DYNPLANE_RELAY_H
#define DYNPLANE_RELAY_H

#include <stdint.h>

/* What relay_run has done, and in queued the cost of the large messages that
   wait now: bytes, with those that libzmq needs for each frame. libzmq's threads
   write queued until zmq_ctx_term has returned. Read them with relay_load. */
struct relay_counters {
    uint64_t messages, bytes, overflows, dropped, queued;
};

/* Moves messages from xsub to xpub until stop_fd is readable, and drops large
   ones while max_queued or more is queued. Returns 0 then, or the errno of what
   failed. */
int relay_run (void *xsub, void *xpub, int stop_fd, uint64_t max_queued, struct relay_counters *counters);

uint64_t relay_load (const uint64_t *counter);

#endif
