//go:build cgo && !nozmq

#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <zmq.h>

/* Go's runtime sends signals to its threads. Every call is repeated after
   EINTR: else a message would be lost or truncated. */
#define RETRY(rc, call)                                                        \
    do                                                                         \
        rc = (call);                                                           \
    while (rc == -1 && errno == EINTR)

enum {
    BURST = 1000,   /* messages between two polls of the XPUB side and stop_fd */
    DRAIN_MS = 100, /* time limit for messages that had arrived at stop */
    LARGE = 1024,   /* cost of the smallest message that is counted while it waits */
    FRAMES = 4,     /* of an event; messages of more are dropped */
};

struct relay {
    void *xsub, *xpub;
    uint64_t max_queued;
    struct relay_counters *counters;
    zmq_msg_t frames[FRAMES]; /* of one message */
};

/* The last frame of a large message, which libzmq frees last. */
struct waiting {
    zmq_msg_t frame;
    uint64_t cost; /* of the whole message */
    uint64_t *queued;
};

/* Adds to a counter that only relay_run writes: no atomic read-modify-write is
   needed. */
static void add (uint64_t *counter, uint64_t n)
{
    __atomic_store_n (counter, *counter + n, __ATOMIC_RELAXED);
}

uint64_t relay_load (const uint64_t *counter)
{
    return __atomic_load_n (counter, __ATOMIC_RELAXED);
}

/* Frees a counted frame. libzmq's threads call it until zmq_ctx_term has
   returned. */
static void release (void *data, void *hint)
{
    struct waiting *w = hint;
    (void) data;
    zmq_msg_close (&w->frame);
    __atomic_fetch_sub (w->queued, w->cost, __ATOMIC_RELAXED);
    free (w);
}

/* Counts cost as queued until frame was sent to all subscribers or dropped. The
   bytes are not copied: frame becomes a frame that refers to them. */
static int count_queued (zmq_msg_t *frame, uint64_t cost, uint64_t *queued)
{
    struct waiting *w = malloc (sizeof *w);
    if (!w)
        return -1;
    w->cost = cost;
    w->queued = queued;
    __atomic_fetch_add (queued, cost, __ATOMIC_RELAXED);
    zmq_msg_init (&w->frame);
    zmq_msg_move (&w->frame, frame);
    int rc = zmq_msg_init_data (frame, zmq_msg_data (&w->frame), zmq_msg_size (&w->frame), release, w);
    if (rc == -1) {
        release (NULL, w);
        zmq_msg_init (frame);
        errno = ENOMEM;
    }
    return rc;
}

/* Sends one frame to the subscribers whose queues have room. With XPUB_NODROP,
   libzmq returns EAGAIN if one has no room, and sends nothing. The option is
   then switched off for this frame, so that the other subscribers receive it;
   they also receive the following frames of the message. */
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

/* Receives a message into r->frames. Returns the number of its frames, and -1 and
   EAGAIN if there is none; frames arrive together, so that only the first can be
   missing. Each frame beyond FRAMES replaces the one before, which is freed. */
static int receive (struct relay *r, uint64_t *cost)
{
    int n = 0, size;
    zmq_msg_t *frame;
    do {
        frame = &r->frames[n < FRAMES ? n : FRAMES - 1];
        RETRY (size, zmq_msg_recv (frame, r->xsub, ZMQ_DONTWAIT));
        if (size == -1)
            return -1;
        *cost += (uint64_t) size + sizeof *frame;
        n++;
    } while (zmq_msg_more (frame));
    return n;
}

/* Sends the first n of r->frames. */
static int pass (struct relay *r, int n, uint64_t cost)
{
    for (int i = 0; i < n; i++) {
        zmq_msg_t *frame = &r->frames[i];
        int more = i < n - 1;
        add (&r->counters->bytes, zmq_msg_size (frame));
        if (!more && cost >= LARGE && count_queued (frame, cost, &r->counters->queued) == -1)
            return -1;
        if (send_frame (r->xpub, frame, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0), r->counters) == -1)
            return -1;
    }
    return 0;
}

/* Relays one message with all of its frames, or drops all of them. Returns -1
   and EAGAIN if there is no message. libzmq limits its queues by messages, this
   function limits them by bytes. */
static int relay_message (struct relay *r)
{
    struct relay_counters *c = r->counters;
    uint64_t cost = 0;
    int n = receive (r, &cost);
    if (n == -1)
        return -1;
    int drop = n > FRAMES || (cost >= LARGE && relay_load (&c->queued) >= r->max_queued);
    /* Counted before it is sent: a subscriber that has it finds it counted. */
    add (drop ? &c->dropped : &c->messages, 1);
    if (!drop)
        return pass (r, n, cost);
    for (int i = 0; i < FRAMES; i++) {
        zmq_msg_close (&r->frames[i]);
        zmq_msg_init (&r->frames[i]);
    }
    return 0;
}

/* Relays a burst. Returns 1 if there may be more messages, 0 if not, and -1 on
   failure. */
static int relay_burst (struct relay *r)
{
    for (int i = 0; i < BURST; i++)
        if (relay_message (r) == -1)
            return errno == EAGAIN ? 0 : -1;
    return 1;
}

static int64_t now_ms (void)
{
    struct timespec t;
    clock_gettime (CLOCK_MONOTONIC, &t);
    return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The XPUB side is polled only for its subscriptions, which zmq_poll applies. It
   never has anything to read: it is a PUB. */
static int relay (struct relay *r, int stop_fd)
{
    zmq_pollitem_t items[] = {
      {r->xsub, 0, ZMQ_POLLIN, 0},
      {r->xpub, 0, ZMQ_POLLIN, 0},
      {NULL, stop_fd, ZMQ_POLLIN, 0},
    };
    int rc;
    while (!items[2].revents) {
        RETRY (rc, zmq_poll (items, 3, -1));
        if (rc == -1)
            return -1;
        if (items[0].revents && relay_burst (r) == -1)
            return -1;
    }
    int64_t end = now_ms () + DRAIN_MS;
    do
        rc = relay_burst (r);
    while (rc == 1 && now_ms () < end);
    return rc == -1 ? -1 : 0;
}

int relay_run (void *xsub, void *xpub, int stop_fd, uint64_t max_queued, struct relay_counters *counters)
{
    struct relay r = {.xsub = xsub, .xpub = xpub, .max_queued = max_queued, .counters = counters};
    for (int i = 0; i < FRAMES; i++)
        zmq_msg_init (&r.frames[i]);
    int error = relay (&r, stop_fd) == -1 ? zmq_errno () : 0;
    for (int i = 0; i < FRAMES; i++)
        zmq_msg_close (&r.frames[i]);
    return error;
}
