/*
 * hold.h - when a request is sent to a node, and where it is planned until then.  Pure.
 *
 * An engine works off long prompts one after the other, and a request that has been sent can
 * neither be overtaken nor moved.  So a worker sends only as much as keeps the engine busy, and
 * holds the rest, each request with a plan: the node where the policy would have sent it, and
 * the instant for which the policy promised its first token.  `fastest` alone makes plans.
 *
 * Window: open while no request of ours at the node awaits its first token, or less than
 * `hold_us` of the work that was sent is left.
 *
 * Short: a request whose own prefill is a tenth of that is sent when it comes, where a slot is
 * free and no request goes first, whatever the window.
 *
 * Plan: made where the policy would have sent the request, had it sent all those that are
 * planned: costs count what was sent and what is planned, caps and windows only what was sent.
 * Its own charge never counts against a request.
 *
 * Promise: a plan keeps the instant that it promised, whatever is planned after it.
 *
 * Move: a request moves when another node is better by a tenth and by 100 ms in the time that
 * remains, and chooses anew when its plan is overdue by a second.
 */
#ifndef DROVER_POLICY_HOLD_H
#define DROVER_POLICY_HOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "policy/route/balance.h"

struct route_times;

/* `left_s`: of the prefill that was sent (estimate_backlog()), 0 when nothing awaits its first
 * token; `hold_us` 0 = windows are always open.  Inline, because a decision asks it of every
 * node. */
static inline bool hold_window_open(double left_s, uint64_t hold_us)
{
    return hold_us == 0 || left_s * 1e6 < (double)hold_us;
}

/* A request of so little work is not held: an engine that interleaves prompts gives it its
 * first token soon, and one that does not loses nothing. */
#define HOLD_SHORT_PART 10
static inline bool hold_is_short(double own_prefill_s, uint64_t hold_us)
{
    return own_prefill_s * 1e6 * HOLD_SHORT_PART <= (double)hold_us;
}

/* The instant of the first token, `cost_s` from now. */
uint64_t hold_promise(double cost_s, uint64_t now_mono_us);
/* The promised instant passed long ago. */
MUST_CHECK bool hold_is_overdue(uint64_t promised_mono_us, uint64_t now_mono_us,
                                const struct route_times *times);
/* Is another node so much better?  `own_s`: what the planned node would cost now. */
MUST_CHECK bool hold_moves(uint64_t promised_mono_us, double own_s, double other_s,
                           uint64_t now_mono_us, const struct route_times *times);

enum hold_verdict {
    HOLD_NOWHERE = 0, /* no node may take it: it waits for any */
    HOLD_SEND,        /* to be sent to the candidate `at` */
    HOLD_PLAN,        /* to be planned there */
    HOLD_STAY,        /* its plan stays as it is; `at` is the plan's node */
};

struct hold_choice {
    enum hold_verdict verdict;
    int at;                     /* index of the candidate; valid unless NOWHERE */
    struct balance_terms terms; /* its cost; valid as `at` is */
};

/*
 * The step of `fastest` for a request that is planned on the candidate `own`: it is sent there
 * if it may be, unless another node is so much better; else it stays, until it is overdue.
 * `own` -1: the planned node is no candidate any more, and it chooses as a newcomer does.
 * `random` and `cost_s` as in balance_choose().  The candidates are as before afterwards.
 */
void hold_choose(struct hold_choice *out, struct balance_candidate *candidates, size_t n,
                 const struct balance_request *request, int own, uint64_t promised_mono_us,
                 uint64_t random, float *cost_s, uint64_t now_mono_us,
                 const struct route_times *times);

#endif
