/*
 * look_times.h - decides when an engine is looked at, and how thoroughly.  Pure.
 *
 * Looks are not free.  llama-server notices that a client has left during prefill only after a
 * whole second in which it posted no result, and an answered /slots is a result; /slots also
 * puts off its sleep.  A paid API counts calls.  So an idle engine is looked at rarely and
 * lightly, a busy one at most once a second, and the fate of requests decides when to look at
 * once:
 *
 *   the engine                          the look           when
 *   ---------------------------------   ----------------   ------------------------------------
 *   cannot be used                      full               0.5 s after the last; a remote one
 *                                                          0.5 s, doubling to 30 s
 *   loads its model                     full               1 s
 *   lists no model                      full               1 s; a remote one 60 s
 *   is idle                             light              5 s
 *                                       full               60 s
 *   is idle and remote                  full               300 s
 *   is busy, and shows its load         load               1.2 s
 *   is busy and silent, shows no load   light              1.2 s; remote: none
 *   lost a run before its first token   none               for 1.2 s; then load
 *   lost a run after its first token    load               50 ms, 250 ms between; then as busy
 *   gets work after 5 s without a full  full               at once
 *   look, and does not look at the
 *   model that a request names
 *   answers /health and no more         full               as when it broke a run
 *   broke a run or refused one          full               at once; 1 s after the last, and
 *                                                          10 s when remote
 *
 * 1.2 s between two looks leaves the second that llama-server needs.  All instants are of
 * CLOCK_MONOTONIC.
 */
#ifndef DROVER_NODE_LOOK_TIMES_H
#define DROVER_NODE_LOOK_TIMES_H

#include <stdbool.h>
#include <stdint.h>

enum look_level {
    LOOK_LIGHT = 0, /* does it answer?  Posts no work in the engine */
    LOOK_LOAD,      /* what runs and waits there, and whether its work advances */
    LOOK_FULL,      /* which engine, which models, how many slots */
};

/* The engine as it is now. */
struct look_facts {
    bool reachable; /* as the last look says */
    bool loading;   /* reachable, but no model is ready yet */
    bool has_models;
    bool shows_load;       /* LOOK_LOAD shows anything of it */
    bool remote;           /* its address is neither of this machine nor of a private network */
    bool any_model;        /* it answers for any model with the one that it has */
    bool others_run;       /* the last look showed more runs than ours */
    uint32_t runs;         /* ours */
    uint64_t busy_mono_us; /* when the first of them began; 0 = there is none */
    uint64_t heard_mono_us; /* the latest instant at which a run began or got bytes */
};

struct look_times {
    uint64_t idle_us;         /* between looks at an idle engine, as configured; 0 = as above */
    uint64_t ended_mono_us;   /* the last look's end; 0 = never looked */
    uint64_t full_mono_us;    /* the last full look's end; 0 = never */
    uint64_t load_mono_us;    /* the beginning of the last look that showed the load */
    uint64_t left_mono_us;    /* a run was cancelled before its first token; 0 = never */
    uint64_t stopped_mono_us; /* a run was cancelled after it; 0 = never */
    uint64_t trouble_mono_us; /* since the last full look; 0 = none */
    uint32_t soon;            /* early looks left after stopped_mono_us */
    uint32_t failures;        /* full looks in a row that found no usable engine */
};

struct look_due {
    enum look_level level;
    uint64_t at_mono_us; /* may have passed: at once */
};

/* `idle_us` overrides the time between looks at an idle engine; 0 = the table's. */
void look_times_init(struct look_times *t, uint64_t idle_us);

/* A look that began at `began_mono_us` has ended; `usable`: the engine is reachable. */
void look_times_ended(struct look_times *t, enum look_level level, bool usable,
                      uint64_t began_mono_us, uint64_t now_mono_us);

/* A run of ours was cancelled; the engine may not know it yet. */
void look_times_cancelled(struct look_times *t, bool had_token, uint64_t now_mono_us);

/* A connection broke or was refused, or an answer came from an unexpected model. */
void look_times_trouble(struct look_times *t, uint64_t now_mono_us);

/* The next look, as things stand now. */
struct look_due look_times_next(const struct look_times *t, const struct look_facts *facts);

#endif
