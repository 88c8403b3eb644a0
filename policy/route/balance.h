/*
 * balance.h - which node gets a request.  Pure: candidates, the request's size, random bits and
 * a cursor in, an index out.
 *
 * `fastest`, the default, takes the node that will give the first token earliest.  Of a request
 * and a node:
 *
 *   m   tokens of the prompt that are in the node's prefix cache already
 *   u   the others, at least 1
 *   b   seconds of prompts before it that the engine has still to work on
 *   p   prompt tokens per second that the node takes in
 *   q   so many times longer than expected the node takes now; 1 unless it stalls
 *   n   requests in flight there, and those of others that are planned there (see hold.h)
 *   S   slots open there
 *   h   seconds a slot is held
 *
 *   wait = (n - S + 1) * h / S  if n >= S, else 0
 *   cost = (wait + (b + u / p) * q * (1 + n / S)) * 100 / weight + load
 *
 * wait is the time until a slot comes free, load the time until the model is resident; both and
 * the cost are in seconds, so unequal nodes compare.  The factor 1 + n / S is the price of
 * sharing the engine's steps with n others, as LMetric (arXiv 2603.15202) charges it.  There is
 * no constant to tune.
 *
 * A place beyond the slots (up to `cap`) is taken only for a cache match that saves at least
 * the wait for the slot: m / p >= wait.  Any other request waits at the coordinator, where the
 * choice can still be made anew.  docs/architecture.md says what was measured without this.
 *
 * The node that last served the same session costs a fifth less: a bonus, never a veto.
 *
 * A node with few recent samples may get a request as a speed trial: see estimate.h.  If the
 * cost at its own p is within its regret of the least cost, it counts as being as fast as the
 * fastest candidate.
 *
 * The others use slots only, never places beyond them:
 *
 *   least_conn    least (n + 1) / (S * weight): the share in use after taking this one.  The
 *                 "+ 1", which nginx leaves out, lets an idle large node win over an idle small
 *                 one.
 *   random2       the better, in that sense, of two drawn at random (power of two choices).
 *   round_robin   the next one after the cursor.
 *   prefix_hash   consistent hashing with bounded loads (Mirrokni et al., 2016): nodes in the
 *                 order of hash(key, node), the first whose load after taking this one is at
 *                 most 1.25 times its fair share; if there is none, as least_conn.
 *
 * Ties are broken at random.
 */
#ifndef DROVER_POLICY_BALANCE_H
#define DROVER_POLICY_BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"

/* One cache line. */
struct balance_candidate {
    uint32_t id;       /* of the node, the same for all workers */
    uint32_t inflight; /* sent, over all workers */
    uint32_t cap;      /* this request may be sent while fewer are there; 0 = it may not */
    uint32_t slots;    /* S; at least 1 when one of the caps is not 0 */
    uint16_t weight;   /* percent; at least 1 */
    /* For fastest: */
    bool same_session;
    uint32_t planned;            /* of other requests, over all workers; n = inflight + this */
    uint32_t plan_cap;           /* it may be planned there while n is less; 0 = it may not */
    uint32_t matched_tokens;     /* m */
    double backlog_s;            /* b */
    double prefill_tokens_per_s; /* p; > 0 */
    float slowdown;              /* q; at least 1 */
    float hold_s;                /* h; 0 = not known yet */
    float load_s;
    float regret_s; /* of a trial; INFINITY = never measured, negative = no trial */
};

struct balance_request {
    uint32_t tokens; /* estimate of the prompt; at least 1 */
    uint64_t key;    /* for prefix_hash: equal keys begin alike */
};

/* The terms of one node's cost, for the decision record. */
struct balance_terms {
    uint32_t uncached_tokens; /* u */
    double wait_s;
    double prefill_s; /* (b + u / p) * q * (1 + n / S) */
    double load_s;
    double bonus_s; /* taken off for the session's node */
    double cost_s;
    bool eligible; /* it may be sent or planned there */
    bool may_send;
};
void balance_terms(struct balance_terms *out, const struct balance_candidate *candidate,
                   const struct balance_request *request);

/* Seconds that the prompt's uncached tokens take there, if nothing else is to be done. */
static inline double balance_own_prefill_s(const struct balance_candidate *candidate,
                                           uint32_t tokens)
{
    uint32_t uncached =
        candidate->matched_tokens < tokens ? tokens - candidate->matched_tokens : 1;

    return uncached / candidate->prefill_tokens_per_s;
}

/*
 * The index of the chosen candidate, or -1 when none may take it.  `cursor` is the caller's
 * memory from one choice to the next (round_robin); `random` is 64 fresh random bits.
 * `cost_s` (room for n, or NULL) gets what fastest has worked out on the way: the cost of each
 * that may take it, and INFINITY for the others.
 */
MUST_CHECK int balance_choose(enum policy_kind kind, const struct balance_candidate *candidates,
                              size_t n, const struct balance_request *request, uint32_t *cursor,
                              uint64_t random, float *cost_s);

/* The next of a sequence of random numbers of 64 bits: splitmix64 (Steele, Lea and Flood,
 * 2014). Any state will do for a start. */
uint64_t balance_random(uint64_t *state);

#endif
