/*
 * decode_queue.h - takes the content coding off whole bodies, a piece of one of them at a time,
 * so that no turn of the event loop is long.  Bodies take turns.
 */
#ifndef DROVER_WORKER_ENCODING_DECODE_QUEUE_H
#define DROVER_WORKER_ENCODING_DECODE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "worker/encoding/decoder.h"

struct decode_job;

/* One of a worker. */
struct decode_queue {
    struct loop *loop; /* borrowed */
    struct deferred turn;
    struct timer again;
    TAILQ_HEAD(, decode_job) jobs;
    /* All bodies that a worker holds, in bytes, and how many it may hold; what a job holds
     * beside the body that it reads is added while it runs. */
    size_t *held;
    size_t held_max;
};

enum decode_end {
    DECODE_DONE = 0,
    DECODE_BAD,       /* why: `err`, fit for the client */
    DECODE_TOO_LARGE, /* over `max` */
    DECODE_NO_ROOM,   /* over `held_max`, or out of memory */
};

/* A body that is being decoded. */
struct decode_job {
    TAILQ_ENTRY(decode_job) link; /* in queue->jobs while it runs */
    struct decode_queue *queue;   /* NULL when it does not run */
    struct decoder *decoder;      /* owned */
    const uint8_t *in;            /* borrowed */
    size_t in_left;
    uint8_t *out; /* owned while it runs */
    size_t out_len, out_cap, max;
    size_t charged; /* of *queue->held */
    size_t
        *also_held; /* borrowed: the same, of the body's client; may be set once it is begun */
    void (*on_end)(struct decode_job *job, enum decode_end end);
    void *data; /* the owner's */
    struct error err;
};

void decode_queue_init(struct decode_queue *queue, struct loop *loop, size_t *held,
                       size_t held_max);
/* No job runs any more. */
void decode_queue_finish(struct decode_queue *queue);

/*
 * Decodes in[0..n), n > 0, which must stay as it is until the end.  `on_end` is called later,
 * once, from the event loop; the job does not run any more then.  With DECODE_DONE `job->out`
 * is the caller's, of `job->out_len` bytes, which are at most `max` (and NULL when there are
 * none); it is no longer counted in *held.
 */
void decode_start(struct decode_queue *queue, struct decode_job *job,
                  enum body_encoding encoding, const uint8_t *in, size_t n, size_t max,
                  void (*on_end)(struct decode_job *job, enum decode_end end), void *data);
/* Ends it without a call; nothing where none runs. */
void decode_cancel(struct decode_job *job);

#endif
