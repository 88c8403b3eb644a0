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
};

/* The owner of a job counts the bytes that it holds beside the body that it reads. */
struct decode_room {
    /* n bytes more are needed.  False: there is no room, and nothing is counted. */
    bool (*hold)(struct decode_job *job, size_t n);
    void (*release)(struct decode_job *job, size_t n);
};

enum decode_end {
    DECODE_DONE = 0,
    DECODE_BAD,       /* why: `err`, fit for the client */
    DECODE_TOO_LARGE, /* over `max` */
    DECODE_NO_ROOM,   /* as its owner says, or out of memory */
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
    size_t charged;                 /* what it holds */
    const struct decode_room *room; /* borrowed */
    void (*on_end)(struct decode_job *job, enum decode_end end);
    void *data; /* the owner's */
    struct error err;
};

void decode_queue_init(struct decode_queue *queue, struct loop *loop);
/* No job runs any more. */
void decode_queue_finish(struct decode_queue *queue);

/*
 * Decodes in[0..n), n > 0, which must stay as it is until the end.  `on_end` is called later,
 * once, from the event loop; the job does not run any more then.  With DECODE_DONE `job->out`
 * is the caller's, of `job->out_len` bytes, which are at most `max` (and NULL when there are
 * none).  `room` is asked for what the job holds while it runs, and has all of it back by then.
 */
void decode_start(struct decode_queue *queue, struct decode_job *job,
                  enum body_encoding encoding, const uint8_t *in, size_t n, size_t max,
                  const struct decode_room *room,
                  void (*on_end)(struct decode_job *job, enum decode_end end), void *data);
/* Ends it without a call; nothing where none runs. */
void decode_cancel(struct decode_job *job);

#endif
