/*
 * candidates.h - the nodes that could serve a request: what is known of them, and a place on
 * one.
 *
 * The hot part of routing.  It works on the scoreboard and on this worker's picture of the
 * nodes (struct fleet_model), and needs no loop, no channel and no client: so
 * tests/bench/decision_cost.c times this code and not a copy of it.
 *
 * What a decision costs is mostly what it reads of every node: one cache line of state and
 * averages (struct sb_hot), the row of gauges, this worker's row for the model
 * (struct fleet_server, rebuilt when the node table's epoch moves) and one line of struct
 * fleet_node.  The record for people is made of the finished choice.
 */
#ifndef DROVER_WORKER_CANDIDATES_H
#define DROVER_WORKER_CANDIDATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "policy/route/balance.h"
#include "worker/queue/rights.h"

struct decision;
struct fleet_model;
struct fleet_server;
struct node_set;
struct scoreboard;

#define CANDIDATES_MAX 1024 /* as many as the node table can have */

/* A node that a request is not sent to before `until_mono_us`. */
struct candidates_barred {
    unsigned node;
    uint32_t generation;
    uint64_t until_mono_us; /* UINT64_MAX: it failed; otherwise it was full */
};

struct candidates_request {
    struct balance_request policy;
    int operation; /* enum drover.v1.Operation */
    enum op_class op_class;
    uint64_t message_bytes; /* of the request on its way to a node; 0 = any node takes it */
    uint64_t model_hash;
    uint64_t session_hash;   /* 0 = no session */
    const uint64_t *windows; /* chained hashes of the prompt */
    uint32_t windows_count;
    double tokens_per_window;
    const struct candidates_barred *barred;
    uint32_t barred_count;
    bool spare_probation; /* not for a node on probation while another could serve it */
    const struct queue_rights
        *rights; /* borrowed; NULL = nothing waits, and any place will do */
    uint64_t now_mono_us;
};

struct candidates {
    size_t count;
    bool any_usable;  /* some node could serve it, though it may be full */
    bool any_failed;  /* some node could have, but has already failed for this request */
    int session_node; /* slot of the node that last served the session; -1 = none is known */
    struct balance_candidate of[CANDIDATES_MAX];
    const struct fleet_server *server[CANDIDATES_MAX];
    bool on_trial[CANDIDATES_MAX];
    uint64_t sent_mono_us[CANDIDATES_MAX]; /* the last request; set where regret_s >= 0 */
    uint8_t bars[CANDIDATES_MAX];          /* enum decision_bar, or-ed: why `cap` is 0 */
    float cost_s[CANDIDATES_MAX];          /* see balance_choose() */
};

/*
 * The nodes that the request could be sent to, by what only this worker knows: it judges
 * neither their state nor their load, but what the claim would refuse.  Adds to `nodes`, sets
 * their `generation` (by node), and brings `until_mono_us` forward to when the answer changes
 * by itself.
 */
void candidates_reach(const struct scoreboard *board, const struct fleet_model *model,
                      const struct candidates_request *request, struct node_set *nodes,
                      uint32_t *generation, uint64_t *until_mono_us);

/* Everybody who could serve the request, and how things stand there.  Not reentrant. */
void candidates_gather(struct candidates *out, const struct scoreboard *board,
                       const struct fleet_model *model,
                       const struct candidates_request *request);

struct candidates_place {
    int at;    /* index of the candidate */
    bool lost; /* a place was there, and another worker was faster */
    struct balance_terms terms;
    uint32_t charge_us; /* of prefill, added to the node's gauge */
    bool trial;         /* another node would cost less: it is to show how fast it is now */
    bool loads_model;   /* the claim to load it there is held too: see shm/routing/loads.h */
};

/*
 * Asks the policy, claims a place in the worker's own gauges, and asks again about the others
 * when another worker was faster.  False: nobody has room.  `random` is the state of the
 * tie-breaker.
 */
MUST_CHECK bool candidates_claim(struct candidates *candidates, struct scoreboard *board,
                                 unsigned worker, enum policy_kind policy,
                                 const struct candidates_request *request, uint32_t *cursor,
                                 uint64_t *random, struct candidates_place *out);

/* Completes a decision, of which the caller has set id, model, attempt, policy and waited_us,
 * and adds it to the worker's ring.  `chosen`: index of a candidate.  Of many candidates
 * those with the least cost are kept, and the chosen one. */
void candidates_record(const struct candidates *candidates, struct scoreboard *board,
                       unsigned worker, const struct candidates_request *request, int chosen,
                       struct decision *decision);

#endif
