/*
 * slot_limit.h - how many requests an engine runs at once: reported, or learned.
 *
 * The number comes from, in this order: the operator (--slots N); the engine, where it reports
 * it; evidence, within the operator's bounds (--slots MIN-MAX).  Evidence is of two kinds.
 *
 * Content: requests that have shown content and go on run together.  Those that were sent
 * before them prove nothing by that: of requests that come at one time a later one may begin
 * first.
 * `proven` is the most so far.  A request that proves the whole limit lets it grow by a half:
 * that is a guess.  Two requests that waited refute a guess: the limit is `proven`, and the
 * next guess is one more, after 1 minute, doubled up to 15 while guesses fail.  A request has
 * waited when it was sent with more than `proven` in the engine and had no content when another
 * ended, although the average request that nothing kept waiting would long have had it.
 *
 * Figures: vLLM and SGLang report requests running and waiting, the used part of the KV cache,
 * and preemptions.  While nothing waits and the cache has room, a full limit grows as far as
 * the cache would reach, at most doubles.  Many that wait, twice in a row: the requests that
 * run and an eighth more.  A preemption: a twentieth less than those that run, and small steps
 * from then on (additive increase, multiplicative decrease: Chiu and Jain, 1989).  With figures
 * content refutes no guess.
 *
 * A larger limit opens slots at once, a smaller one cancels nothing.  Pure.
 */
#ifndef DROVER_NODE_SLOT_LIMIT_H
#define DROVER_NODE_SLOT_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* The first guesses, before any evidence. */
#define SLOT_LIMIT_GUESS 8u
#define SLOT_LIMIT_MOST  1024u /* where the operator gives no bound */

#define SLOT_LIMIT_PROBE_MIN_US (60 * UINT64_C(1000000))
#define SLOT_LIMIT_PROBE_MAX_US (900 * UINT64_C(1000000))

/* A run proves nothing before its content is that old: the end of another, which came first,
 * may still be unread. */
#define SLOT_LIMIT_SETTLE_US 20000u

/* Values of drover.v1.SlotsSource. */
enum slot_source {
    SLOT_SOURCE_UNKNOWN = 0,
    SLOT_SOURCE_CONFIGURED,
    SLOT_SOURCE_ENGINE,
    SLOT_SOURCE_LEARNED, /* shown by evidence */
    SLOT_SOURCE_GUESSED, /* not refuted yet */
};

/* A request in the engine.  Part of the caller's request; zero before slot_limit_start(). */
struct slot_run {
    TAILQ_ENTRY(slot_run) link;
    uint64_t sent_mono_us;
    uint64_t content_mono_us; /* of its first content; 0 = none yet */
    size_t bytes;             /* of the request */
    uint32_t sent_as;         /* requests in the engine then, this one included */
    bool runs;                /* `link` is in the list */
    bool judged;
    bool over;   /* the caller sets it: the engine has said the answer's end, and perhaps begun
                    another, though the connection's end may come late */
    bool waited; /* an earlier run ended when this one should have had content, and had none */
};

struct slot_limit {
    uint32_t min, max;    /* the operator's; equal: fixed */
    bool bounded;         /* the operator gave `max` */
    uint32_t said;        /* by the engine; 0 = it does not say */
    uint32_t first;       /* the first guess */
    uint32_t limit;       /* at least 1 */
    uint32_t proven;      /* at least 1 */
    uint32_t waited_row;  /* requests that waited, since the guess or the last proof */
    uint32_t crowded_row; /* looks in a row that found many waiting */
    bool has_figures;     /* the engine reports what runs and waits */
    bool small_steps;     /* a preemption was seen */
    uint64_t preemptions; /* at the last look */
    uint64_t probe_mono_us, backoff_us;
    uint64_t begin_us;  /* from sending to content, where nothing had to be waited for */
    size_t begin_bytes; /* of the request that it was measured with */
    uint32_t count;     /* of `runs` */
    TAILQ_HEAD(, slot_run) runs; /* in the order in which they were sent */
};

/* The figures of an engine at one instant. */
struct slot_figures {
    uint32_t running, waiting;
    float kv_used_fraction; /* -1 = not reported */
    uint64_t preemptions;   /* since the engine's start */
};

/* `min` and `max` as the operator gave them: both 0 = nothing given. */
void slot_limit_init(struct slot_limit *limit, uint32_t min, uint32_t max);

/* The engine that stands behind: `said` is the number of slots it reports (0 = none), `first`
 * the first guess for its kind.  Nothing changes when both are what they were. */
void slot_limit_engine(struct slot_limit *limit, uint32_t said, uint32_t first);

/* Another engine, or the same after a restart, or with other models: what was learned is void.
 */
void slot_limit_forget(struct slot_limit *limit);

/* A request of `bytes` is sent to the engine. */
void slot_limit_start(struct slot_limit *limit, struct slot_run *run, size_t bytes,
                      uint64_t now_mono_us);

/* Content of a streamed answer has come.  True: the limit has changed. */
bool slot_limit_content(struct slot_limit *limit, struct slot_run *run, uint64_t now_mono_us);

/* A run is over, whatever its end.  Not running is fine.  True: the limit has changed. */
bool slot_limit_end(struct slot_limit *limit, struct slot_run *run, uint64_t now_mono_us);

/* The engine's own figures.  True: the limit has changed. */
bool slot_limit_looked(struct slot_limit *limit, const struct slot_figures *figures);

enum slot_source slot_limit_source(const struct slot_limit *limit);

#endif
