//go:build cgo && !nozmq

#ifndef DYNPLANE_RELAY_H
#define DYNPLANE_RELAY_H

#include <stdint.h>

/* Counters of relay_run. queued is the cost of the large messages that wait
   for subscribers: their bytes, and the memory that libzmq needs for each
   frame. libzmq's threads write it until zmq_ctx_term has returned. relay_load
   reads a counter. */
struct relay_counters {
    uint64_t messages, bytes, overflows, dropped, queued;
};

/* Relays messages from xsub to xpub until stop_fd is readable, and drops large
   ones while max_queued or more is queued. Returns 0, or the errno of the call
   that failed. */
int relay_run (void *xsub, void *xpub, int stop_fd, uint64_t max_queued, struct relay_counters *counters);

uint64_t relay_load (const uint64_t *counter);

#endif
