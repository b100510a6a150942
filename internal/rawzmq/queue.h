/* Counts the bytes of messages that libzmq has been given and has not freed. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <zmq.h>

enum { LARGE_FRAME = 1024 }; /* size of the smallest frame that is counted */

/* libzmq's threads free messages, also after their socket was closed. So each
   counted frame holds a reference. */
struct queue {
    int64_t bytes;
    int64_t references;
};

struct counted {
    struct queue *queue;
    size_t size;
    unsigned char data[];
};

static inline void release_queue (struct queue *q)
{
    if (__atomic_sub_fetch (&q->references, 1, __ATOMIC_ACQ_REL) == 0)
        free (q);
}

static inline void free_counted (void *data, void *hint)
{
    struct counted *c = hint;
    (void) data;
    __atomic_sub_fetch (&c->queue->bytes, (int64_t) c->size, __ATOMIC_RELAXED);
    release_queue (c->queue);
    free (c);
}

/* Initializes a frame that is counted in q until libzmq frees it. */
static inline int init_counted (zmq_msg_t *frame, struct queue *q, size_t size)
{
    struct counted *c = malloc (sizeof *c + size);
    if (!c) {
        errno = ENOMEM;
        return -1;
    }
    c->queue = q;
    c->size = size;
    __atomic_add_fetch (&q->bytes, (int64_t) size, __ATOMIC_RELAXED);
    __atomic_add_fetch (&q->references, 1, __ATOMIC_RELAXED);
    if (zmq_msg_init_data (frame, c->data, size, free_counted, c) < 0) {
        free_counted (NULL, c);
        errno = ENOMEM;
        return -1;
    }
    return 0;
}
