/* hold.c - when a request is sent to a node, and where it is planned until then. */
#include "policy/route/hold.h"

#include "policy/route/times.h"

#define BETTER_TIMES 0.9
#define LONGEST_S    86400.0 /* a promise is no further away: sums stay small */

uint64_t hold_promise(double cost_s, uint64_t now_mono_us)
{
    double s = cost_s >= 0 && cost_s < LONGEST_S ? cost_s : LONGEST_S;

    return now_mono_us + (uint64_t)(s * 1e6);
}

bool hold_is_overdue(uint64_t promised_mono_us, uint64_t now_mono_us,
                     const struct route_times *times)
{
    return now_mono_us >= promised_mono_us &&
           now_mono_us - promised_mono_us >= times->overdue_us;
}

bool hold_moves(uint64_t promised_mono_us, double own_s, double other_s, uint64_t now_mono_us,
                const struct route_times *times)
{
    double left_s =
        promised_mono_us > now_mono_us ? (double)(promised_mono_us - now_mono_us) * 1e-6 : 0;

    if (own_s < left_s)
        left_s = own_s;
    return other_s < left_s * BETTER_TIMES && other_s + times->better_s < left_s;
}

/* The best of all candidates. */
static void decide_anew(struct hold_choice *out, const struct balance_candidate *candidates,
                        size_t n, const struct balance_request *request, uint64_t random,
                        float *cost_s)
{
    uint32_t cursor = 0;

    out->verdict = HOLD_NOWHERE;
    out->at = balance_choose(POLICY_FASTEST, candidates, n, request, &cursor, random, cost_s);
    if (out->at < 0)
        return;
    balance_terms(&out->terms, &candidates[out->at], request);
    out->verdict = out->terms.may_send ? HOLD_SEND : HOLD_PLAN;
}

void hold_choose(struct hold_choice *out, struct balance_candidate *candidates, size_t n,
                 const struct balance_request *request, int own, uint64_t promised_mono_us,
                 uint64_t random, float *cost_s, uint64_t now_mono_us,
                 const struct route_times *times)
{
    struct balance_candidate kept;
    struct balance_terms terms;

    if (own < 0 || hold_is_overdue(promised_mono_us, now_mono_us, times)) {
        decide_anew(out, candidates, n, request, random, cost_s);
        return;
    }
    kept = candidates[own];
    balance_terms(&terms, &kept, request);
    candidates[own].cap = 0;
    candidates[own].plan_cap = 0;
    decide_anew(out, candidates, n, request, random, cost_s);
    candidates[own] = kept;
    if (out->verdict != HOLD_NOWHERE &&
        hold_moves(promised_mono_us, terms.cost_s, out->terms.cost_s, now_mono_us, times))
        return;
    out->verdict = terms.may_send ? HOLD_SEND : HOLD_STAY;
    out->at = own;
    out->terms = terms;
}
