//go:build cgo && !nozmq

#include "relay.h"

#include <errno.h>
#include <time.h>
#include <zmq.h>

/* Go's runtime sends signals to its threads: every call is made again after
   EINTR, or a message would be lost or cut. */
#define RETRY(rc, call)                                                        \
    do                                                                         \
        rc = (call);                                                           \
    while (rc == -1 && errno == EINTR)

enum {
    BURST = 1000,   /* messages before the other side and stop_fd are looked at */
    DRAIN_MS = 100, /* how long what has arrived is still relayed after stop */
};

/* Only relay_run writes: no read-modify-write is needed. */
static void add (uint64_t *counter, uint64_t n)
{
    __atomic_store_n (counter, *counter + n, __ATOMIC_RELAXED);
}

uint64_t relay_load (const uint64_t *counter)
{
    return __atomic_load_n (counter, __ATOMIC_RELAXED);
}

/* Sends one frame to those subscribers that have room. XPUB_NODROP makes
   libzmq tell when one has none, and send nothing: it is switched off for that
   frame, so that the others get it. The following frames of the message then
   go to the same ones. */
static int send_frame (void *xpub, zmq_msg_t *frame, int flags, struct relay_counters *c)
{
    int rc, on = 1, off = 0;
    RETRY (rc, zmq_msg_send (frame, xpub, flags));
    if (rc != -1 || errno != EAGAIN)
        return rc;
    add (&c->overflows, 1);
    if (zmq_setsockopt (xpub, ZMQ_XPUB_NODROP, &off, sizeof off) == -1)
        return -1;
    RETRY (rc, zmq_msg_send (frame, xpub, flags));
    if (zmq_setsockopt (xpub, ZMQ_XPUB_NODROP, &on, sizeof on) == -1)
        return -1;
    return rc;
}

/* Moves one message with all of its frames. The frames of a message arrive
   together, so that only the first can be missing (-1, EAGAIN). */
static int relay_message (void *xsub, void *xpub, zmq_msg_t *frame, struct relay_counters *c)
{
    uint64_t bytes = 0;
    int more;
    do {
        int size;
        RETRY (size, zmq_msg_recv (frame, xsub, ZMQ_DONTWAIT));
        if (size == -1)
            return -1;
        bytes += (uint64_t) size;
        more = zmq_msg_more (frame);
        if (send_frame (xpub, frame, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0), c) == -1)
            return -1;
    } while (more);
    add (&c->messages, 1);
    add (&c->bytes, bytes);
    return 0;
}

/* Throws away what subscribers ask for: the XSUB side is subscribed to
   everything, and an unsubscription passed on could end that. */
static int discard (void *xpub, zmq_msg_t *frame)
{
    int rc = 0;
    for (int i = 0; i < BURST && rc != -1; i++)
        RETRY (rc, zmq_msg_recv (frame, xpub, ZMQ_DONTWAIT));
    return rc == -1 && errno != EAGAIN ? -1 : 0;
}

/* Moves a burst. Returns 1 if there may be more, 0 if not, -1 on failure. */
static int relay_burst (void *xsub, void *xpub, zmq_msg_t *frame, struct relay_counters *c)
{
    for (int i = 0; i < BURST; i++)
        if (relay_message (xsub, xpub, frame, c) == -1)
            return errno == EAGAIN ? 0 : -1;
    return 1;
}

static int64_t now_ms (void)
{
    struct timespec t;
    clock_gettime (CLOCK_MONOTONIC, &t);
    return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int relay (void *xsub, void *xpub, int stop_fd, zmq_msg_t *frame, struct relay_counters *c)
{
    zmq_pollitem_t items[] = {
      {xsub, 0, ZMQ_POLLIN, 0},
      {xpub, 0, ZMQ_POLLIN, 0},
      {NULL, stop_fd, ZMQ_POLLIN, 0},
    };
    int rc;
    while (!items[2].revents) {
        RETRY (rc, zmq_poll (items, 3, -1));
        if (rc == -1)
            return -1;
        if (items[1].revents && discard (xpub, frame) == -1)
            return -1;
        if (items[0].revents && relay_burst (xsub, xpub, frame, c) == -1)
            return -1;
    }
    int64_t end = now_ms () + DRAIN_MS;
    do
        rc = relay_burst (xsub, xpub, frame, c);
    while (rc == 1 && now_ms () < end);
    return rc == -1 ? -1 : 0;
}

int relay_run (void *xsub, void *xpub, int stop_fd, struct relay_counters *counters)
{
    zmq_msg_t frame;
    zmq_msg_init (&frame);
    int error = relay (xsub, xpub, stop_fd, &frame, counters) == -1 ? zmq_errno () : 0;
    zmq_msg_close (&frame);
    return error;
}
