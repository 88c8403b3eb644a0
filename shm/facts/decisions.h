/*
 * decisions.h - why a request went where it went: the last routing decisions of each worker.
 *
 * W: the worker, its own ring of DECISIONS_PER_WORKER.  Nothing ever clears a ring, so it can
 * be read after a crash; a new process in the same row goes on where the old one stopped.
 */
#ifndef DROVER_SHM_FACTS_DECISIONS_H
#define DROVER_SHM_FACTS_DECISIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "shm/facts/requests.h"

struct scoreboard;

#define DECISIONS_PER_WORKER   256u
#define DECISIONS_CANDIDATES   16u
#define DECISIONS_NAME_BYTES   24 /* with NUL; a longer node name is cut */
#define DECISIONS_NO_NODE      UINT32_MAX
#define DECISIONS_NO_CANDIDATE UINT32_MAX

/* The reasons against a candidate; 0 = it was eligible.  Bits. */
enum decision_exclusion {
    DECISION_EXCLUDED_FULL = 1 << 0,    /* n >= cap */
    DECISION_EXCLUDED_TRIED = 1 << 1,   /* this request has failed there before */
    DECISION_EXCLUDED_STATE = 1 << 2,   /* not UP, or its probation is in use */
    DECISION_EXCLUDED_LOADING = 1 << 3, /* another request is loading the model there */
    DECISION_EXCLUDED_LOST = 1 << 4, /* was chosen, but the claim was lost to another worker */
    DECISION_EXCLUDED_WAITED_FOR = 1 << 5, /* another request waits for it and goes first */
    DECISION_EXCLUDED_HOLD = 1 << 6,       /* it has work enough: requests for it are held */
    DECISION_EXCLUDED_CONTEXT = 1 << 7,    /* another has room, and more for a long answer */
};
const char *decision_exclusion_name(enum decision_exclusion one); /* "full", ... */

/* One candidate and the terms of its cost: cost = wait + prefill + load - bonus. */
struct decision_candidate {
    uint32_t node; /* node_id */
    char name[DECISIONS_NAME_BYTES];
    uint32_t inflight; /* n: requests there, by the shared gauges */
    uint32_t slots;    /* S */
    uint32_t cap;
    uint32_t backlog_ms;     /* b: prefill that the engine has still before it */
    uint32_t matched_tokens; /* m: of this prompt, by the prefix index */
    float prefill_per_s;     /* p: effective prefill speed, tokens/s */
    float wait_s;            /* W: for a slot */
    float prefill_s;         /* (b + u / p) * q * (1 + n / S) */
    float load_s;            /* until the model is resident; 0 = it is */
    float bonus_s;           /* for the session's node */
    float cost_s;            /* the sum; the least is chosen */
    uint32_t exclusions;     /* enum decision_exclusion, or-ed; 0 = eligible */
};

struct decision {
    char id[REQUEST_ID_BYTES];
    char model[REQUEST_MODEL_BYTES]; /* cut if longer */
    uint32_t worker;                 /* set by decisions_add() */
    uint64_t number;                 /* in that worker's ring, from 0; likewise */
    uint64_t at_mono_us;
    uint32_t attempt;       /* 0 = first */
    uint32_t policy;        /* enum policy_kind, by value */
    uint32_t prompt_tokens; /* estimate */
    uint32_t waited_us;     /* in the queue before this decision; UINT32_MAX = that or more */
    uint32_t node;          /* node_id; DECISIONS_NO_NODE = none, so the request waits */
    char name[DECISIONS_NAME_BYTES]; /* of the chosen node; "" if none */
    uint32_t candidates_total;       /* there were; may be more than are kept here */
    uint32_t candidates;             /* kept, at most DECISIONS_CANDIDATES */
    uint32_t hedge;                  /* 1: a second attempt beside one that is slow */
    uint32_t trial; /* 1: chosen to learn how fast it is now, though another would cost less */
    uint32_t reserved0;
    struct decision_candidate candidate[DECISIONS_CANDIDATES];
};

/* Writes the worker's next entry, after setting `worker` and `number` in it.  Of more than
 * DECISIONS_CANDIDATES candidates the caller chooses which to keep. */
void decisions_add(struct scoreboard *board, unsigned worker, struct decision *decision);

/* All decisions for a request in the order of time: start with a zeroed cursor; false at the
 * end.  Text is NUL-terminated, counts and slots are in range and numbers finite whatever the
 * bytes.  `out` is about 1.5 KiB.  Searches the rings of all workers at each step: for people,
 * not for a hot path. */
struct decision_cursor {
    uint64_t at_mono_us;
    uint64_t number;
    uint32_t worker;
    uint32_t started; /* 0 = at the beginning */
};
MUST_CHECK bool decisions_next(const struct scoreboard *board, const char *id,
                               struct decision_cursor *cursor, struct decision *out);

/* Entries the worker has ever written; the last DECISIONS_PER_WORKER of them are there. */
uint64_t decisions_count(const struct scoreboard *board, unsigned worker);
/* Entry `number` of a worker.  False: not there, overwritten, or torn. */
MUST_CHECK bool decisions_read(const struct scoreboard *board, unsigned worker, uint64_t number,
                               struct decision *out);

#endif
