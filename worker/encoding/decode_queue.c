/* decode_queue.c - takes the content coding off whole bodies, a piece at a time. */
#include "worker/encoding/decode_queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TURN_BYTES ((size_t)1024 * 1024) /* read or written in one turn, all jobs together */
#define FIRST_CAP  ((size_t)16 * 1024)

static void on_turn(struct deferred *deferred);

static void on_again(struct timer *timer)
{
    struct decode_queue *queue = CONTAINER_OF(timer, struct decode_queue, again);

    loop_defer(queue->loop, &queue->turn, on_turn);
}

/* Sockets and timers have their turn before the next piece. */
static void go_on_later(struct decode_queue *queue)
{
    if (!TAILQ_EMPTY(&queue->jobs))
        timer_start(queue->loop, &queue->again, 0, on_again);
}

static bool charge(struct decode_job *job, size_t bytes)
{
    if (bytes > job->charged && !job->room->hold(job, bytes - job->charged))
        return false;
    if (bytes < job->charged)
        job->room->release(job, job->charged - bytes);
    job->charged = bytes;
    return true;
}

/* Stops it; `out` stays. */
static void take_out(struct decode_job *job)
{
    (void)charge(job, 0);
    TAILQ_REMOVE(&job->queue->jobs, job, link);
    job->queue = NULL;
    decoder_destroy(job->decoder);
    job->decoder = NULL;
}

static void finish(struct decode_job *job, enum decode_end end)
{
    take_out(job);
    if (end != DECODE_DONE || job->out_len == 0) {
        free(job->out);
        job->out = NULL;
    } else if (job->out_len < job->out_cap) {
        uint8_t *smaller = realloc(job->out, job->out_len);

        if (smaller != NULL)
            job->out = smaller;
    }
    job->on_end(job, end);
}

/* Room for more output, up to the limit.  False: there is none to be had. */
static bool grow(struct decode_job *job)
{
    size_t cap = job->out_cap == 0 ? FIRST_CAP : 2 * job->out_cap;
    uint8_t *out;

    if (cap > job->max)
        cap = job->max;
    if (!charge(job, cap + decoder_memory(job->decoder)))
        return false;
    out = realloc(job->out, cap);
    if (out == NULL)
        return false;
    job->out = out;
    job->out_cap = cap;
    return true;
}

/* Decodes a piece of up to *budget bytes, which it lowers.  True: more is to be done. */
static bool decode_piece(struct decode_job *job, size_t *budget, enum decode_end *end)
{
    uint8_t beyond; /* at the limit: is there a byte more? */
    struct decoder_io io;
    bool full = job->out_len == job->max;
    size_t in_len, out_len;
    int rc;

    *end = DECODE_NO_ROOM;
    if (job->decoder == NULL || (job->out_len == job->out_cap && !full && !grow(job)))
        return false;
    in_len = job->in_left < *budget ? job->in_left : *budget;
    out_len = full ? 1 : job->out_cap - job->out_len;
    if (out_len > *budget)
        out_len = *budget;
    io =
        (struct decoder_io){job->in, in_len, full ? &beyond : job->out + job->out_len, out_len};
    rc = decoder_feed(job->decoder, &io, &job->err);
    in_len -= io.in_left;
    out_len -= io.out_left;
    *budget -= in_len > out_len ? in_len : out_len;
    job->in += in_len;
    job->in_left -= in_len;
    if (!full)
        job->out_len += out_len;
    *end = DECODE_TOO_LARGE;
    if (full && out_len != 0)
        return false;
    *end = DECODE_NO_ROOM;
    if (rc == DRV_ENOMEM || !charge(job, job->out_cap + decoder_memory(job->decoder)))
        return false;
    *end = DECODE_BAD;
    if (rc != 0)
        return false;
    if (job->in_left != 0 || io.out_left == 0)
        return true;
    if (decoder_end(job->decoder, &job->err) == 0)
        *end = DECODE_DONE;
    return false;
}

static void on_turn(struct deferred *deferred)
{
    struct decode_queue *queue = CONTAINER_OF(deferred, struct decode_queue, turn);
    size_t budget = TURN_BYTES;

    while (budget > 0) {
        struct decode_job *job = TAILQ_FIRST(&queue->jobs);
        enum decode_end end;

        if (job == NULL)
            break;
        if (!decode_piece(job, &budget, &end)) {
            finish(job, end);
            continue;
        }
        TAILQ_REMOVE(&queue->jobs, job, link);
        TAILQ_INSERT_TAIL(&queue->jobs, job, link);
    }
    go_on_later(queue);
}

void decode_queue_init(struct decode_queue *queue, struct loop *loop)
{
    memset(queue, 0, sizeof(*queue));
    queue->loop = loop;
    TAILQ_INIT(&queue->jobs);
}

void decode_queue_finish(struct decode_queue *queue)
{
    assert(TAILQ_EMPTY(&queue->jobs));
    loop_undefer(queue->loop, &queue->turn);
    timer_stop(queue->loop, &queue->again);
}

void decode_start(struct decode_queue *queue, struct decode_job *job,
                  enum body_encoding encoding, const uint8_t *in, size_t n, size_t max,
                  const struct decode_room *room,
                  void (*on_end)(struct decode_job *job, enum decode_end end), void *data)
{
    memset(job, 0, sizeof(*job));
    job->queue = queue;
    job->in = in;
    job->in_left = n;
    job->max = max;
    job->room = room;
    job->on_end = on_end;
    job->data = data;
    job->decoder = decoder_create(encoding);
    TAILQ_INSERT_TAIL(&queue->jobs, job, link);
    loop_defer(queue->loop, &queue->turn, on_turn);
}

void decode_cancel(struct decode_job *job)
{
    if (job->queue != NULL)
        take_out(job);
    free(job->out);
    job->out = NULL;
}
