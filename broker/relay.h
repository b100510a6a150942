//go:build cgo && !nozmq

#ifndef DYNPLANE_RELAY_H
#define DYNPLANE_RELAY_H

#include <stdint.h>

/* What relay_run has done. Written by it alone, read with relay_load. */
struct relay_counters {
    uint64_t messages, bytes, overflows;
};

/* Moves messages from xsub to xpub until stop_fd is readable. Returns 0 then,
   or the errno of what failed. */
int relay_run (void *xsub, void *xpub, int stop_fd, struct relay_counters *counters);

uint64_t relay_load (const uint64_t *counter);

#endif
