/* exchange_private.h - one exchange, as exchange.c (its life) and waiting.c (its place in line)
 * see it. */
#ifndef DROVER_WORKER_EXCHANGE_PRIVATE_H
#define DROVER_WORKER_EXCHANGE_PRIVATE_H

#include "base/buf.h"
#include "shm/nodes.h"
#include "worker/exchange.h"
#include "worker/http/surface.h"

#define EXCHANGE_MAX_EXCLUDED 8

enum exchange_phase {
    EXCHANGE_WAITING = 0,
    EXCHANGE_RUNNING,
    EXCHANGE_ANSWERED,
};

/* A node this exchange will not ask (again) before `until_mono_us`. */
struct exchange_excluded {
    unsigned node;
    uint32_t generation;
    uint64_t until_mono_us; /* UINT64_MAX: it failed; otherwise it was full */
};

struct exchange {
    struct exchange_core *core;
    struct infer_request *request; /* borrowed; NULL once the responder is done or gone */
    struct exchange *prev, *next;  /* in core->first */
    struct exchange *wait_prev, *wait_next;
    enum exchange_phase phase;
    uint64_t model_hash; /* of request->model, to skip lines that are stuck */
    int row;             /* in the scoreboard's request table, or -1 */

    struct attempt *attempt; /* NULL iff none is under way */
    uint32_t attempts;       /* started so far */
    struct exchange_excluded excluded[EXCHANGE_MAX_EXCLUDED];
    uint32_t excluded_count;

    /* The claim on the node of the present attempt. */
    bool claimed;
    unsigned node;
    uint32_t generation;
    uint32_t pending_tokens; /* added to the gauge and not given back */
    char node_name[NODE_NAME_BYTES];

    /* The answer. */
    unsigned status; /* of the head; 0 = none yet */
    bool event_stream;
    bool committed; /* the client has been shown the head */
    bool finished;  /* finish came: the answer is whole */
    char content_type[128];
    struct buf headers; /* name NUL value NUL ... of the held head */
    struct buf held;    /* body bytes before the commit */

    uint64_t started_mono_us;
    uint64_t wait_mono_us;     /* when the present wait began */
    uint64_t waited_us;        /* in line, so far */
    uint64_t dispatch_mono_us; /* of the present attempt */
    uint64_t content_mono_us;  /* of its first content; 0 = none yet */
    uint64_t progress_mono_us; /* last sign that it gets on */
    struct timer timer;        /* fires at the earliest of the limits that apply */

    uint32_t prompt_tokens, cached_tokens, output_tokens;
    enum api_error last_error; /* of the last failed attempt */
    char last_message[256];
    const char *outcome; /* for the access log */
    enum api_error told; /* the error the client was told, if any */
};

/* ---- waiting.c ---- */

/* Is there already somebody in line for this model? */
bool waiting_has_line(const struct exchange_core *core, const struct exchange *x);
/* Puts x in line, unless the line is full (false). */
bool waiting_add(struct exchange *x);
void waiting_remove(struct exchange *x);
/* Seconds until a place is likely to come free, for Retry-After: 1..60. */
unsigned waiting_retry_after_s(const struct exchange_core *core);
/* A place came free: feeds the estimate, and wakes the line. */
void waiting_released(struct exchange_core *core);

/* ---- exchange.c, for waiting.c ---- */

enum exchange_try {
    EXCHANGE_TRY_STARTED = 0, /* an attempt runs, or the exchange has ended */
    EXCHANGE_TRY_NO_ROOM,     /* nodes could serve it, all are full */
};
enum exchange_try exchange_try_start(struct exchange *x);

#endif
