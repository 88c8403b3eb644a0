/*
 * gather.h - the nodes that could serve a request, their load, and a place on one.
 *
 * The hot part of routing.  It works on the scoreboard and on this worker's picture of the
 * nodes (struct upstream_model), and needs no loop, no channel and no client: so
 * tests/bench/decision_cost.c times this code and not a copy of it.
 *
 * Most of a decision's cost is the data it reads of every node: one cache line of state and
 * averages (struct sb_hot), the row of gauges, this worker's row for the model (struct
 * upstream_server, rebuilt when the node table's epoch moves) and one line of struct upstream.
 * The decision record is made of the finished choice.
 */
#ifndef DROVER_WORKER_SELECT_GATHER_H
#define DROVER_WORKER_SELECT_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/attrs.h"
#include "policy/route/abilities.h"
#include "policy/route/balance.h"
#include "worker/queue/rights.h"

struct decision;
struct upstream_model;
struct upstream_server;
struct node_set;
struct scoreboard;

#define SELECT_MAX 1024 /* as many as the node table can have */

/* A node that a request is not sent to before `until_mono_us`. */
struct excluded_node {
    unsigned node;
    uint32_t generation;
    uint64_t until_mono_us; /* UINT64_MAX: it failed; otherwise it was full, or ... */
    bool away;              /* ... could not be reached: until then it counts as failed */
    bool was_away;          /* ... or was away before: kept by exclusions_add() */
};

/* Where a request that waits is planned (policy/route/hold.h).  All zero = nowhere. */
struct request_plan {
    unsigned node;
    uint32_t generation;
    uint32_t charge_us; /* in the worker's word of shm/queue/plans.h; 0 = there is no plan */
    uint64_t made_mono_us;
    uint64_t promised_mono_us; /* the first token */
};

struct select_request {
    struct balance_request policy;
    int operation; /* enum drover.v1.Operation */
    enum op_class op_class;
    uint64_t message_bytes; /* of the request on its way to a node; 0 = any node takes it */
    const struct abilities_need *need; /* borrowed; NULL = every node has what it needs */
    uint64_t most_score;               /* with `need`: a node of a higher score is no choice; of
                                        * TIGHT ones one is only while no other has room */
    uint32_t wanted_context;           /* see struct abilities_need */
    uint64_t model_hash;
    uint64_t holder;         /* hash of the name of the only node that will do; 0 = any will */
    uint64_t session_hash;   /* 0 = no session */
    const uint64_t *windows; /* chained hashes of the prompt */
    uint32_t windows_count;
    double tokens_per_window;
    const struct excluded_node *excluded;
    uint32_t excluded_count;
    bool spare_probation; /* not for a node on probation while another could serve it */
    bool is_hedge;        /* optional: only for a slot that is free ... */
    unsigned first_node;  /* ... of another node than this one, which has the first attempt */
    const struct queue_rights
        *rights;                     /* borrowed; NULL = nothing waits, and any place will do */
    uint64_t hold_us;                /* windows of nodes; 0 = they have none */
    bool may_plan;                   /* where it would be sent but for a window */
    const struct request_plan *plan; /* borrowed; NULL = it has none */
    uint64_t now_mono_us;
    uint64_t load_us;                /* how long a load may take */
    const struct route_times *times; /* borrowed */
};

struct eligible {
    size_t count;
    bool any_usable;     /* some node could serve it, though it may be full */
    bool any_failed;     /* some node could have, but has already failed for this request */
    uint32_t speeds_row; /* of its model and class; SPEEDS_NO_ROW if nothing was learned */
    int session_node; /* node_id of the node that last served the session; -1 = none is known */
    struct balance_candidate of[SELECT_MAX];
    const struct upstream_server *server[SELECT_MAX];
    bool on_probation[SELECT_MAX];
    uint64_t tried_us[SELECT_MAX];  /* its last try; set where regret_s >= 0 */
    uint64_t now_us;                /* by the same clock, of the model and class */
    uint8_t exclusions[SELECT_MAX]; /* enum decision_exclusion, or-ed: why `cap` is 0 */
    double planned_s[SELECT_MAX];   /* of the backlog; set where the request has rights */
    float cost_s[SELECT_MAX];       /* see balance_choose() */
};

/* The node's abilities_score() for the request, which has a `need`. */
MUST_CHECK uint64_t gather_score(const struct upstream_server *server,
                                 const struct select_request *request);

/*
 * The least of the nodes that are up, could serve the request, and have not failed for it;
 * UINT64_MAX = there is none.
 */
MUST_CHECK uint64_t gather_least_score(const struct scoreboard *board,
                                       const struct upstream_model *model,
                                       const struct select_request *request);

/*
 * The nodes that the request could be sent to, by the facts that only this worker knows: it
 * ignores their state and load, but not reasons for which the claim would fail.  Adds to
 * `nodes`, sets their `generation` (by node), and brings `until_mono_us` forward to when the
 * answer changes by itself.
 */
void gather_reach(const struct scoreboard *board, const struct upstream_model *model,
                  const struct select_request *request, struct node_set *nodes,
                  uint32_t *generation, uint64_t *until_mono_us);

/* All nodes that could serve the request, and their state.  Not reentrant. */
void select_gather(struct eligible *out, const struct scoreboard *board,
                   const struct upstream_model *model, const struct select_request *request);

enum select_place {
    SELECT_PLACE_NONE = 0, /* no node has room */
    SELECT_PLACE_CLAIMED,
    SELECT_PLACE_PLAN, /* a plan is to be made on the candidate, and nothing was claimed */
    SELECT_PLACE_KEPT, /* the plan that it has is to be kept */
};

struct eligible_place {
    int at;    /* index of the candidate; valid unless NONE */
    bool lost; /* a place was there, and another worker was faster */
    struct balance_terms terms;
    uint32_t charge_us; /* of prefill: CLAIMED: added to the node's gauge */
    double left_s;      /* of the prefill that was sent there before */
    bool trial;         /* another node would cost less: it is to show how fast it is now */
    bool loads_model;   /* the claim to load it there is held too: see shm/share/loads.h */
};

/*
 * Asks the policy, claims a place in the worker's own gauges, and asks again about the others
 * when another worker was faster.  `random` is the state of the tie-breaker.
 */
MUST_CHECK enum select_place select_claim(struct eligible *eligible, struct scoreboard *board,
                                          unsigned worker, enum policy_kind policy,
                                          const struct select_request *request,
                                          uint32_t *cursor, uint64_t *random,
                                          struct eligible_place *out);

/* A name of the decision: cut if it is longer.  strlcpy() looks at each byte by itself, which
 * is felt here. */
static inline void select_copy_name(char *to, size_t cap, const char *from)
{
    size_t n = strnlen(from, cap - 1);

    memcpy(to, from, n);
    to[n] = '\0';
}

/* Completes a decision, of which the caller has set id, model, attempt, policy and waited_us,
 * and adds it to the worker's ring.  `chosen`: index of a candidate.  Of many candidates
 * those with the least cost are kept, and the chosen one. */
void select_record(const struct eligible *eligible, struct scoreboard *board, unsigned worker,
                   const struct select_request *request, int chosen, struct decision *decision);

#endif
